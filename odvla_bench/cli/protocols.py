"""`odvla-bench protocols`: what every published protocol chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli.console import out, print_table


def protocols(
    *,
    preds: Annotated[
        Path | None, typer.Option(help="Also score these predictions under all of them.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The build to score on.")] = None,
    only: Annotated[str, typer.Option(help="Comma-separated protocols, or all.")] = "all",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score what is there; marked not comparable.")
    ] = False,
) -> None:
    """Print the choices of the protocols, one column each, and their known defects."""
    from odvla_bench.cli.evaluate import eval_, protocol_names
    from odvla_bench.errors import InputError
    from odvla_bench.metrics.protocols import get_protocol

    chosen = [get_protocol(name) for name in protocol_names(only)]
    choices = [dict(p.choices()) for p in chosen]
    keys = list(dict.fromkeys(key for c in choices for key in c))
    for start in range(0, len(chosen), 4):
        part = slice(start, start + 4)
        print_table(
            "" if start else "What each protocol chooses",
            ("choice", *(p.name for p in chosen[part])),
            [(key, *(c.get(key, "") for c in choices[part])) for key in keys],
            numbers_from=99,
        )
    for p in chosen:
        out.print(f"{p.name} ({p.source})")
        for defect in p.known_defects:
            out.print(f"  - {defect}")
    if preds is not None:
        if data is None:
            raise InputError("--preds needs --data, the build to score on.")
        eval_(preds=preds, data=data, protocol=only, allow_partial=allow_partial)
