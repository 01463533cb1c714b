"""Scenes of a build as the perception's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.baselines.opendrivevla.build_tokens import (
    AGENT_COLUMNS,
    annotations_of,
    rows_by_keyframe,
)
from odvla_bench.baselines.opendrivevla.perception.config import CAMERAS
from odvla_bench.baselines.opendrivevla.perception.inputs import Keyframe, Scene
from odvla_bench.datasets.nuscenes.can_bus import Messages, load_can_bus
from odvla_bench.datasets.nuscenes.tables import NuScenesTables, load_tables, numpy_columns
from odvla_bench.datasets.reader import Build, open_build
from odvla_bench.errors import InputError
from odvla_bench.provenance import default_cache_dir

_CAN_FIELDS = (
    *(f"pos_{i}" for i in range(3)),
    *(f"orientation_{i}" for i in range(4)),
    *(f"{name}_{i}" for name in ("accel", "rotation_rate", "vel") for i in range(3)),
)
"""The pose message in the order of the official vector, which ends with two zeros."""

_POSE = ("x_m", "y_m", "z_m", "qw", "qx", "qy", "qz")
_INTRINSICS = tuple(f"k{i}{j}" for i in range(3) for j in range(3))

Array = npt.NDArray[np.float64]


def scenes_from_build(
    nuscenes_root: Path, data: Path, *, cache_dir: Path | None = None
) -> Iterator[Scene]:
    """The scenes of a build in the order of their recording, keyframes in time order.

    Args:
        nuscenes_root: the root that the build was made from, with its camera images.
        data: the build.
        cache_dir: parent of the tables' caches; the default one if None.

    Raises:
        InputError: the root is not the one of the build, or a keyframe lacks a camera.
    """
    build = open_build(data)
    cache = cache_dir or default_cache_dir()
    tables = load_tables(nuscenes_root, build.manifest["nuscenes"]["version"], cache_dir=cache)
    if tables.fingerprint != build.manifest["nuscenes"]["tables_fingerprint"]:
        raise InputError(
            f"{nuscenes_root}: its tables are not those that {data} was built from. "
            "Give the root of the build, or build it again."
        )
    can_bus = _can_bus(load_can_bus(nuscenes_root, tables.scenes, cache).pose, tables.samples)
    cameras = _cameras(tables)
    agents, agents_at = rows_by_keyframe(build, "agents", tuple(build.splits()), AGENT_COLUMNS)
    keyframes = _keyframes(build)
    order = np.argsort([scene["timestamp_us"][0].as_py() for scene in keyframes], kind="stable")
    for i in order:
        rows = keyframes[i].to_pylist()
        frames = (
            replace(
                _keyframe(nuscenes_root, row, cameras, can_bus),
                annotations=annotations_of(
                    agents.slice(*agents_at.get(row["sample_token"], (0, 0)))
                ),
            )
            for row in rows
        )
        yield Scene(rows[0]["scene_token"], tuple(frames))


def _keyframes(build: Build) -> list[pa.Table]:
    """Columns of the planning table, one table a scene."""
    columns = ("sample_id", "sample_token", "scene_token", "scene_name", "timestamp_us")
    poses = [f"{f}_{c}" for f in ("ego", "lidar") for c in ("translation_m", "rotation_wxyz")]
    scenes = []
    for split in build.splits():
        rows = build.table("planning", split, (*columns, *poses)).combine_chunks()
        codes = rows["scene_token"].combine_chunks().dictionary_encode().indices.to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        lengths = np.diff(np.append(starts, len(codes)))
        scenes += [rows.slice(int(s), int(n)) for s, n in zip(starts, lengths, strict=True)]
    return scenes


def _cameras(tables: NuScenesTables) -> dict[tuple[int, str], dict[str, Any]]:
    """(sample_id, channel) → the row of `NuScenesTables.cameras`."""
    rows = tables.cameras
    keys = zip(rows["sample_id"].to_pylist(), rows["channel"].to_pylist(), strict=True)
    poses = [f"{p}{c}" for p in ("ego_", "camera_") for c in _POSE]
    return dict(zip(keys, rows.select(["file", *_INTRINSICS, *poses]).to_pylist(), strict=True))


def _keyframe(
    root: Path,
    row: dict[str, Any],
    cameras: dict[tuple[int, str], dict[str, Any]],
    can_bus: Array,
) -> Keyframe:
    views = [cameras.get((row["sample_id"], channel), {}) for channel in CAMERAS]
    if absent := [c for c, view in zip(CAMERAS, views, strict=True) if not view]:
        raise InputError(
            f"Keyframe {row['sample_token']} has no {', '.join(absent)} record in sample_data.json."
        )

    def numbers(prefix: str, names: tuple[str, ...]) -> Array:
        return np.array([[view[f"{prefix}{n}"] for n in names] for view in views])

    return Keyframe(
        sample_token=row["sample_token"],
        timestamp_us=row["timestamp_us"],
        image_paths=tuple(root / view["file"] for view in views),
        intrinsics=numbers("", _INTRINSICS).reshape(-1, 3, 3),
        camera_rotation_wxyz=numbers("camera_", _POSE[3:]),
        camera_translation_m=numbers("camera_", _POSE[:3]),
        camera_ego_rotation_wxyz=numbers("ego_", _POSE[3:]),
        camera_ego_translation_m=numbers("ego_", _POSE[:3]),
        lidar_rotation_wxyz=np.array(row["lidar_rotation_wxyz"]),
        lidar_translation_m=np.array(row["lidar_translation_m"]),
        ego_rotation_wxyz=np.array(row["ego_rotation_wxyz"]),
        ego_translation_m=np.array(row["ego_translation_m"]),
        can_bus=can_bus[row["sample_id"]],
    )


def _can_bus(pose: Messages, samples: pa.Table) -> Array:
    """(N, 18) by `sample_id`: the first pose message after each keyframe; zeros without any."""
    scene = numpy_columns(samples, "scene_id").astype(np.int64)
    rows, has = pose.next(scene, numpy_columns(samples, "timestamp_us"))
    vectors = np.zeros((samples.num_rows, 18))
    for i, name in enumerate(_CAN_FIELDS):
        vectors[:, i] = np.where(has, pose.values(name, rows), 0)
    return vectors
