"""`odvla-bench predict`: a model's plans, or its answers, for a split of a build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out as console
from odvla_bench.cli.console import progress


def predict(
    *,
    model: Annotated[
        str,
        typer.Option(
            help="stationary, constant-velocity, constant-turn-rate, ego-mlp, ground-truth, or the "
            "folder or hub name of an OpenDriveVLA."
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
    stage: Annotated[
        str, typer.Option(help="What to answer: 3 plans, 2.5 agents' motion, 2 QA, 1 captions.")
    ] = "3",
    tokens: Annotated[
        str,
        typer.Option(
            help="Features of `odvla-bench extract-features`, annotations, or images, for a model "
            "with its own perception."
        ),
    ] = "",
    nuscenes_root: Annotated[
        str, typer.Option(help="Folder of the build's images, for --tokens images.")
    ] = "",
    command: Annotated[
        str | None, typer.Option(help="One driving command for all, such as 'turn right'.")
    ] = None,
    system_file: Annotated[
        str, typer.Option(help="Text file of the released model's system text.")
    ] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered together.")] = 16,
    constrain: Annotated[
        bool, typer.Option("--constrain", help="Only allow plans that parse; not comparable.")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="Answers a prompt; the first is greedy.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of further samples.")] = 1.0,
    limit: Annotated[int, typer.Option(min=0, help="Prompts to answer; 0 is all.")] = 0,
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time (local).")] = 1,
) -> None:
    """Write a model's plans for every keyframe of a split; a stopped run of a model goes on."""
    from odvla_bench.baselines.predict import MODELS
    from odvla_bench.baselines.predict import predict as run
    from odvla_bench.datasets.reader import open_build

    if model in MODELS or not _looks_like_a_model(model):
        count = run(open_build(data), split, model, out, train_split=train_split, seed=seed)
        console.print(f"{count} plans by {model} for split {split}: {out}")
        return
    import torch
    from transformers.utils.logging import disable_progress_bar

    from odvla_bench.baselines.opendrivevla.answering import Decoding
    from odvla_bench.baselines.opendrivevla.predict import Prediction
    from odvla_bench.baselines.opendrivevla.predict import predict as answer

    disable_progress_bar()
    prediction = Prediction(
        model,
        data,
        out,
        split=split,
        stage=stage,
        tokens=tokens,
        nuscenes_root=nuscenes_root,
        command=command,
        system_file=system_file,
        limit=limit,
        decoding=Decoding(
            batch_size,
            constrain=constrain,
            samples=samples,
            temperature=temperature,
            seed=seed,
        ),
    )
    with progress("predict") as advance:
        answer(
            prediction,
            executor=executor,
            workers=workers,
            gpus_per_worker=1 if torch.cuda.is_available() else 0,
            report=lambda done, total: advance(done, total, "shards"),
        )
    console.print(f"answers by {model} for split {split}: {out}")


def _looks_like_a_model(name: str) -> bool:
    """Whether a name is a folder or of the hub's form, and not a mistyped baseline."""
    return "/" in name or Path(name).is_dir()
