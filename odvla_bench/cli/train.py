"""`odvla-bench train`: one stage of OpenDriveVLA on a build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from odvla_bench.cli.console import Advance, out, print_table, progress

if TYPE_CHECKING:
    from odvla_bench.baselines.training.trainer import Trainer

_SHOWN = ("loss", "learning_rate", "tokens_per_s", "utilisation", "gradient_norm")


def train(
    *,
    stage: Annotated[str | None, typer.Option(help="1, 2, 2.5 or 3.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="What to start from: a model directory, a Qwen2 model, or tiny."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A build made by `odvla-bench build-data`.")
    ] = None,
    out_dir: Annotated[
        str | None, typer.Option("--out", help="Folder of checkpoints and the finished model.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Features made by `odvla-bench extract-features`, annotations, or, in stage 3, "
            "images, which trains the perception too."
        ),
    ] = None,
    nuscenes_root: Annotated[
        str | None, typer.Option(help="Folder of the build's images, for --tokens images.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Perception to start with, such as uniad_base_track_map.pth."),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(help="What prompts show: some of visual,ego,history,command; all by default."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=0, help="Optimiser steps; by default the stage's epochs.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Instructions to use; by default all.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    config: Annotated[Path | None, typer.Option(help="File of settings, JSON or YAML.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting as key=value; may be repeated.")
    ] = None,
) -> None:
    """Train one stage; started again after a stop, it goes on. Under torchrun, on all devices."""
    from transformers.utils.logging import disable_progress_bar

    from odvla_bench.baselines.training.config import make_config
    from odvla_bench.baselines.training.run import open_run

    disable_progress_bar()
    made = make_config(
        config,
        settings or (),
        stage=stage,
        model=model,
        data=data,
        out=out_dir,
        tokens=tokens,
        nuscenes_root=nuscenes_root,
        checkpoint=checkpoint,
        inputs=inputs,
        max_steps=max_steps,
        limit=limit,
        seed=seed,
    )
    with progress("train") as advance:
        trainer = open_run(made, report=lambda m: _tell(advance, m))
        if trainer.is_main:
            print_table("train", ("", ""), _facts(trainer), numbers_from=2)
        folder = trainer.run()
    if trainer.is_main:
        out.print(f"model: {folder}")


def _facts(trainer: Trainer) -> list[tuple[str, str]]:
    """What is about to be trained."""
    stage, left = trainer.stage, trainer.data.left
    share = f"{trainer.trainable / 1e6:.1f} of {trainer.parameters / 1e6:.1f} M parameters"
    used = (
        f"{trainer.data.rows} of {stage.table} ({left.too_long} too long, "
        f"{left.unseen_agents} about agents without a token)"
    )
    every = trainer.config.validate_every
    when = (f"every {every} steps and " if every else "") + "at the end"
    return [
        ("stage", f"{stage.name}: {stage.what}"),
        ("trains", f"{', '.join(trainer.parts)}: {share}"),
        ("instructions", used),
        ("steps", f"{trainer.steps}, from {trainer.step}"),
        ("validation", when if trainer.validates else "none"),
    ]


def _tell(advance: Advance, metrics: dict[str, float]) -> None:
    names = [n for n in metrics if n in _SHOWN or "/" in n]
    text = "  ".join(f"{n} {metrics[n]:.4g}" for n in names)
    advance(int(metrics["step"]), int(metrics["steps"]), text)
