"""`odvla-bench`: the commands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys

import typer

from odvla_bench.cli.build_data import build_data
from odvla_bench.cli.doctor import doctor
from odvla_bench.cli.inspect_build import inspect_build
from odvla_bench.errors import OdvlaError

app = typer.Typer(
    name="odvla-bench",
    help="Build nuScenes driving-language data, train on it, and score predictions by protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help would double the time that `--help` takes
)
app.command("build-data")(build_data)
app.command("inspect")(inspect_build)
app.command("doctor")(doctor)


def run() -> None:
    """Run the command line; a user's mistake prints its message and exits with code 2."""
    try:
        app()
    except OdvlaError as error:
        typer.secho(f"error: {error}", err=True)
        sys.exit(error.exit_code)
