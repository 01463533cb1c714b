"""`odvla-bench extract-features`: camera images → visual tokens for the language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out as console
from odvla_bench.cli.console import progress


def extract_features(
    *,
    nuscenes_root: options.NuScenesRoot,
    data: options.BuildDir,
    checkpoint: Annotated[
        Path, typer.Option(help="uniad_base_track_map.pth, or an OpenDriveVLA folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the features.")],
    preset: Annotated[str, typer.Option(help="Sizes of the network.")] = "uniad-base",
    behaviour: Annotated[
        str, typer.Option(help="released: as the official code; fixed: without its defects.")
    ] = "released",
    precision: Annotated[str, typer.Option(help="fp32, tf32, bf16 or fp16.")] = "fp32",
    device: Annotated[
        str | None,
        typer.Option(help="Such as cuda:0 or cpu.", show_default="a GPU where there is one"),
    ] = None,
    scenes_at_once: Annotated[int, typer.Option(min=1, help="Scenes side by side.")] = 1,
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first scenes."),
    ] = None,
    skip_bad: options.SkipBad = False,
) -> None:
    """Run the perception over a build, scene by scene; started again, it goes on."""
    import torch

    from odvla_bench.baselines.opendrivevla.features import LEDGER
    from odvla_bench.baselines.opendrivevla.perception import scenes
    from odvla_bench.baselines.opendrivevla.perception.config import perception_config
    from odvla_bench.baselines.opendrivevla.perception.extract import (
        Extraction,
        extract_everywhere,
        scene_tasks,
    )

    settings = Extraction(
        checkpoint=checkpoint,
        out=out,
        config=perception_config(preset, behaviour=behaviour),
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        precision=precision,
        scenes_at_once=scenes_at_once,
        skip_bad=skip_bad,
    )
    tasks = list(scene_tasks(scenes.scenes_from_build(nuscenes_root, data)))[:limit]
    skipped = 0
    with progress("extract-features") as advance:
        done = 0

        def report(what: str, keyframes: int, left_out: int) -> None:
            nonlocal done, skipped
            done, skipped = done + 1, skipped + left_out
            advance(done, len(tasks), f"{what}: {keyframes} keyframes")

        written = extract_everywhere(
            tasks, settings, executor=executor, report=report, tell=console.print
        )
    note = f", {skipped} keyframes left out, see {out / LEDGER}" if skipped else ""
    console.print(f"{written} scenes written, {len(tasks) - written} were there{note}: {out}")
