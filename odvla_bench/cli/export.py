"""`odvla-bench export`: instructions of a build → the file that another training code reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out


def export(
    build: Annotated[Path, typer.Argument(help="A build made by `odvla-bench build-data`.")],
    *,
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")],
    stage: Annotated[str, typer.Option(help="1, 2, 2.5 or 3.")] = "2",
    split: options.Split = "train",
    form: Annotated[
        str, typer.Option("--format", help="llava, sharegpt, openai or released.")
    ] = "openai",
    profile: Annotated[str, typer.Option(help="Prompt profile: default, or released.")] = "default",
    system_file: Annotated[
        Path | None,
        typer.Option(help="System text, for the profile `released`."),
    ] = None,
    codec: Annotated[str, typer.Option(help="Waypoints as text, delta or bins.")] = "text",
    sources: Annotated[str, typer.Option(help="Comma-separated sources.", show_default="all")] = "",
    many_wordings: Annotated[
        bool, typer.Option("--many-wordings", help="Vary the wording of questions, by --seed.")
    ] = False,
    seed: options.Seed = 0,
    answers: Annotated[bool, typer.Option(help="With the assistant's turns.")] = True,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the instructions of a stage in another code's format."""
    from odvla_bench.datasets.export import FORMATS
    from odvla_bench.datasets.export import export as write
    from odvla_bench.datasets.prompts import get_profile
    from odvla_bench.datasets.reader import open_build
    from odvla_bench.errors import InputError
    from odvla_bench.registry import suggest

    if form not in FORMATS:
        raise suggest(form, list(FORMATS), kind="export format")
    if out_file.exists() and not overwrite:
        raise InputError(f"{out_file}: exists. Name another file, or replace it with --overwrite.")
    wording = get_profile(profile, system_file=system_file)
    instructions = open_build(build).iter_instructions(
        stage,
        split,
        wording,
        codec=codec,
        sources=[s.strip() for s in sources.split(",") if s.strip()] or None,
        seed=seed if many_wordings else None,
        answers=answers,
    )
    n = write(instructions, out_file, FORMATS[form])
    out.print(f"{out_file}: {n:,} instructions, prompt profile {wording.name} {wording.digest}")
