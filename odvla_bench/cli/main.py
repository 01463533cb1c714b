"""`odvla-bench`: the commands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from odvla_bench.cli.ablate import ablate
from odvla_bench.cli.build_data import build_data
from odvla_bench.cli.check import check
from odvla_bench.cli.demo import demo
from odvla_bench.cli.doctor import doctor
from odvla_bench.cli.evaluate import compare, eval_
from odvla_bench.cli.export import export
from odvla_bench.cli.extract_features import extract_features
from odvla_bench.cli.inspect_build import inspect_build
from odvla_bench.cli.make_synthetic import make_synthetic
from odvla_bench.cli.predict import predict
from odvla_bench.cli.protocols import protocols
from odvla_bench.cli.score_text import score_text
from odvla_bench.cli.train import train
from odvla_bench.errors import OdvlaError

app = typer.Typer(
    name="odvla-bench",
    help="Build nuScenes driving-language data, train on it, and score predictions by protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help would double the time that `--help` takes
)
COMMANDS: dict[str, Callable[..., None]] = {
    "build-data": build_data,
    "inspect": inspect_build,
    "check": check,
    "export": export,
    "extract-features": extract_features,
    "train": train,
    "ablate": ablate,
    "predict": predict,
    "eval": eval_,
    "compare": compare,
    "score-text": score_text,
    "protocols": protocols,
    "make-synthetic": make_synthetic,
    "demo": demo,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def run() -> None:
    """Run the command line; a user's mistake, or a file that the system refuses, exits with 2."""
    try:
        app()
    except OdvlaError as error:
        typer.secho(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        typer.secho(f"error: {error.filename}: {error.strerror}. Check the path.", err=True)
        sys.exit(OdvlaError.exit_code)
