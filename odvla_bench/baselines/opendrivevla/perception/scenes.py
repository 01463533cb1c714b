"""Scenes of a build as the perception's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from odvla_bench.baselines.opendrivevla.perception.inputs import Scene


def scenes_from_build(nuscenes_root: Path, data: Path) -> Iterator[Scene]:
    """The scenes of a build in time order, with images, calibration and poses of its root.

    Args:
        nuscenes_root: folder that the image paths are relative to.
        data: the build.
    """
    raise NotImplementedError(f"{data} cannot be joined with {nuscenes_root} yet")
