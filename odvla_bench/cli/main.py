"""`odvla-bench`: the commands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys

import typer

from odvla_bench.cli.score_text import score_text
from odvla_bench.errors import OdvlaError

app = typer.Typer(
    name="odvla-bench",
    help="Build nuScenes driving-language data, train on it, and score predictions by protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main() -> None:
    """Hold the sub-commands together."""


app.command("score-text")(score_text)


def run() -> None:
    """Run the command line; a user's mistake prints its message and exits with code 2."""
    try:
        app()
    except OdvlaError as error:
        typer.secho(f"error: {error}", err=True)
        sys.exit(error.exit_code)
