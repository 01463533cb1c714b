"""`odvla-bench inspect`: what a build holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli.build_data import print_counts
from odvla_bench.cli.console import out, print_table


def inspect_build(
    build: Annotated[Path, typer.Argument(help="A build made by `odvla-bench build-data`.")],
    table: Annotated[str, typer.Option(help="Table to show columns and a row of.")] = "planning",
    row: Annotated[int, typer.Option(min=0, help="Which row to show.")] = 0,
) -> None:
    """Show a build's counts, one table's columns, and one of its rows."""
    from odvla_bench.datasets.reader import open_build
    from odvla_bench.datasets.schema import TABLES
    from odvla_bench.errors import InputError

    opened = open_build(build)
    print_counts(build, opened.manifest)
    rows = opened.table(table)
    if row >= rows.num_rows and row > 0:
        raise InputError(f"--row {row}: table {table} has {rows.num_rows} rows.")
    values = rows.slice(row, 1).to_pylist()
    print_table(
        f"{table}: {TABLES[table].what} (row {row} of {rows.num_rows})",
        ("column", "value", "meaning"),
        [
            (c.name, _show(values[0][c.name]) if values else "", c.meaning)
            for c in TABLES[table].columns
        ],
        numbers_from=3,
    )
    for source, tables in opened.manifest["sources"].items():
        for name, account in tables.items():
            out.print(
                f"{source} → {name}: read {account['read']} = kept {account['kept']} + "
                f"dropped {account['read'] - account['kept']}"
            )


def _show(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_show(v) for v in value) + "]"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
