"""`odvla-bench make-synthetic`: a nuScenes tree of made-up scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def make_synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to write the tree to.")],
    *,
    version: Annotated[
        str, typer.Option(help="v1.0-mini, v1.0-trainval or v1.0-test.")
    ] = "v1.0-mini",
    scenes: Annotated[int, typer.Option(min=1, help="Scenes with samples.")] = 2,
    empty_scenes: Annotated[
        int, typer.Option(min=0, help="Further scenes that are listed without samples.")
    ] = 0,
    keyframes: Annotated[
        int | None, typer.Option(min=2, help="Keyframes of every scene; else 39 to 42.")
    ] = None,
    agents: Annotated[float, typer.Option(min=0, help="Mean boxes a keyframe.")] = 34.2,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    sweeps: Annotated[
        bool, typer.Option("--sweeps/--no-sweeps", help="Sensor data between keyframes too.")
    ] = True,
    can_bus: Annotated[
        bool, typer.Option("--can-bus/--no-can-bus", help="CAN bus messages.")
    ] = True,
    can_rate: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the real message rates.")
    ] = 1.0,
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="Map expansion files.")] = True,
    images: Annotated[
        bool, typer.Option("--images", help="Six small pictures a keyframe.")
    ] = False,
    image_width: Annotated[
        int, typer.Option(min=64, max=1600, help="Width of the pictures, 16:9.")
    ] = 800,
) -> None:
    """Write a synthetic nuScenes tree that nuscenes-devkit loads."""
    from odvla_bench.datasets.nuscenes.synthetic import (
        AgentOptions,
        SyntheticConfig,
        write_nuscenes,
    )

    config = SyntheticConfig(
        version=version,
        n_scenes=scenes,
        seed=seed,
        empty_scenes=empty_scenes,
        keyframes=keyframes,
        sweeps=sweeps,
        agents=AgentOptions(per_keyframe=agents),
        can_bus=can_bus,
        can_rate=can_rate,
        maps=maps,
        image_size=(image_width, image_width * 9 // 16) if images else None,
    )
    summary = write_nuscenes(out, config)
    typer.echo(f"{summary.root}: {summary.version}, {len(summary.scenes)} scenes")
    for table, rows in summary.rows.items():
        typer.echo(f"  {table:18} {rows:>10,}")
