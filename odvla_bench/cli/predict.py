"""`odvla-bench predict`: a model's plans for a split of a build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out as console


def predict(
    *,
    model: Annotated[
        str,
        typer.Option(
            help="stationary, constant-velocity, constant-turn-rate, ego-mlp or ground-truth."
        ),
    ],
    data: options.BuildDir,
    out: Annotated[Path, typer.Option(help="Predictions to write: .parquet or .jsonl.")],
    split: options.Split = "val",
    train_split: Annotated[
        str | None,
        typer.Option(help="Split that ego-mlp is trained on.", show_default="the train split"),
    ] = None,
    seed: options.Seed = 0,
) -> None:
    """Write a model's plans for every keyframe of a split."""
    from odvla_bench.baselines.predict import predict as run
    from odvla_bench.datasets.reader import open_build

    count = run(open_build(data), split, model, out, train_split=train_split, seed=seed)
    console.print(f"{count} plans by {model} for split {split}: {out}")
