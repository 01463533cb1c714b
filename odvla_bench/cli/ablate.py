"""`odvla-bench ablate`: stage 3 with each input left out, as in the paper's Table 5."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import log, out, print_table

TABLE = "ablation.json"
_COLUMNS = {
    "opendrivevla": ("opendrivevla", None),
    "opendrivevla (cumulative)": ("opendrivevla", "cumulative"),
    "uniad": ("uniad", None),
    "stp3": ("stp3", None),
    "exact": ("exact", None),
}
"""Column → protocol and table of it; the first two are the paper's "UniAD" and "ST-P3"."""


def ablate(
    *,
    model: Annotated[str, typer.Option(help="What to start from, such as the stage-2.5 model.")],
    data: options.BuildDir,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the five runs.")],
    tokens: Annotated[
        str, typer.Option(help="Features of `odvla-bench extract-features`, or annotations.")
    ],
    split: options.Split = "val",
    max_steps: Annotated[int, typer.Option(min=0, help="Optimiser steps of each row.")] = 0,
    config: Annotated[Path | None, typer.Option(help="File of settings, JSON or YAML.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting as key=value; may be repeated.")
    ] = None,
) -> None:
    """Train, predict and score the rows of Table 5; finished rows are not trained again."""
    from transformers.utils.logging import disable_progress_bar

    from odvla_bench.baselines.training.ablation import TABLE_5
    from odvla_bench.baselines.training.ablation import ablate as run
    from odvla_bench.baselines.training.config import make_config
    from odvla_bench.cli.evaluate import number
    from odvla_bench.datasets.writer import write_json
    from odvla_bench.evaluate.results import plain

    disable_progress_bar()
    made = make_config(
        config,
        settings or (),
        stage="3",
        model=model,
        data=str(data),
        out=str(out_dir),
        tokens=tokens,
        max_steps=max_steps or None,
    )
    results = run(
        made,
        split=split,
        report=lambda row, m: log.print(f"{row}: step {m['step']:.0f}/{m['steps']:.0f}"),
    )
    write_json(out_dir / TABLE, plain(results))
    for metric, scale, title in (("l2_m", 1, "average L2, m"), ("collision", 100, "collision, %")):
        rows = []
        for name, r in results.items():
            averages = [number(t[metric], "avg", scale, 3) for t in _tables(r)]
            rows.append((name, ", ".join(TABLE_5[name]), *averages))
        print_table(title, ("row", "inputs", *_COLUMNS), rows, numbers_from=2)
    out.print(f"all numbers: {out_dir / TABLE}")


def _tables(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of each column."""
    found = [
        (results["protocols"][protocol]["table"], part) for protocol, part in _COLUMNS.values()
    ]
    return [table[part] if part else table for table, part in found]
