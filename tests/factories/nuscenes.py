"""nuScenes trees for tests: random ones in one call, and ones worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic import SyntheticConfig, write_nuscenes
from odvla_bench.datasets.nuscenes.synthetic.can_bus import CAN_MESSAGES, write_can_bus
from odvla_bench.datasets.nuscenes.synthetic.generate import location_of
from odvla_bench.datasets.nuscenes.synthetic.maps import write_maps
from odvla_bench.datasets.nuscenes.synthetic.records import (
    Boxes,
    EgoPoses,
    IntArray,
    Log,
    SceneRecord,
    quaternion_wxyz,
)
from odvla_bench.datasets.nuscenes.synthetic.tables import TreeWriter

START_US = 1_533_000_000_000_000


def make_tree(root: Path, scenes: int = 2, **options: Any) -> Path:
    """A random tree: keyframe data only, no CAN bus, no map expansion unless asked for."""
    options = {"sweeps": False, "can_bus": False, "maps": False, **options}
    return write_nuscenes(root, SyntheticConfig(n_scenes=scenes, **options)).root


@dataclass(frozen=True)
class Track:
    """One annotated object."""

    at: Mapping[int, tuple[float, float, float]]
    """Keyframe index → x, y (metres) and yaw (radians) of the box, GLOBAL."""
    category: str = "vehicle.car"
    size_m: tuple[float, float, float] = (2.0, 4.0, 1.5)
    """Width, length, height; the box stands on z = 0."""
    attribute: str = "vehicle.moving"
    visibility: int = 4
    num_lidar_pts: int = 10
    num_radar_pts: int = 0


@dataclass(frozen=True)
class HandScene:
    """One scene; the car drives straight from keyframe to keyframe."""

    ego_xy_yaw: Sequence[tuple[float, float, float]]
    """x, y (metres) and yaw (radians) of EGO's origin at each keyframe, GLOBAL; z = 0, level."""
    boxes: Sequence[Track] = ()
    name: str = "scene-0103"
    location: str | None = None
    keyframe_us: Sequence[int] | None = None
    """Times of the keyframes; every half second from `START_US` if None."""


def tree_from(
    root: Path,
    ego_xy_yaw: Sequence[tuple[float, float, float]],
    boxes: Sequence[Track] = (),
    **options: Any,
) -> Path:
    """A tree of one hand-made scene; `options` are `HandScene`'s and `tree_of`'s."""
    keys = ("name", "location", "keyframe_us")
    own = {key: options.pop(key) for key in keys if key in options}
    return tree_of(root, [HandScene(ego_xy_yaw, boxes, **own)], **options)


def tree_of(
    root: Path,
    scenes: Sequence[HandScene],
    *,
    version: str = "v1.0-mini",
    sweeps: bool = False,
    can_bus: bool = False,
) -> Path:
    """A tree of hand-made scenes.

    LIDAR_TOP looks exactly forward: its x is EGO's -y, its y is EGO's x, and its origin is
    0.943713 m ahead of EGO's (0.985793 m in Boston) and 1.84023 m above it.
    """
    with TreeWriter(root, version, seed=0, sweeps=sweeps, level_lidar=True) as writer:
        for scene in scenes:
            record = _record(scene)
            writer.add_scene(record)
            if can_bus:
                write_can_bus(root / "can_bus", record, CAN_MESSAGES, seed=0)
    write_maps(root, blocks=3, expansion=False)
    return root


def _record(scene: HandScene) -> SceneRecord:
    path = np.array(scene.ego_xy_yaw, dtype=np.float64)
    times = scene.keyframe_us or [START_US + 500_000 * k for k in range(len(path))]
    keyframe_us = np.array(times, dtype=np.int64)
    yaw = np.unwrap(path[:, 2])

    def ego_at(time_us: IntArray) -> EgoPoses:
        x, y, turn = (np.interp(time_us, keyframe_us, c) for c in (path[:, 0], path[:, 1], yaw))
        return EgoPoses(np.stack([x, y, np.zeros_like(x)], -1), quaternion_wxyz(turn))

    location = scene.location or location_of(scene.name)
    vehicle = "n008" if location.startswith("boston") else "n015"
    log = Log(f"{vehicle}-2018-07-31-03-20-00+0000", vehicle, "2018-07-31", location)
    return SceneRecord(scene.name, "By hand", log, keyframe_us, ego_at, _boxes(scene.boxes))


def _boxes(tracks: Sequence[Track]) -> Boxes:
    rows = sorted((frame, t) for t, track in enumerate(tracks) for frame in track.at)
    owner = [tracks[t] for _, t in rows]
    place = np.array([tracks[t].at[frame] for frame, t in rows], np.float64).reshape(-1, 3)
    half_height = np.array([track.size_m[2] / 2 for track in owner])
    return Boxes(
        keyframe=np.array([frame for frame, _ in rows], np.int64),
        track=np.array([t for _, t in rows], np.int64),
        center_m=np.column_stack([place[:, :2], half_height]),
        yaw_rad=place[:, 2],
        visibility=np.array([track.visibility for track in owner], np.int64),
        attribute=[track.attribute for track in owner],
        num_lidar_pts=np.array([track.num_lidar_pts for track in owner], np.int64),
        num_radar_pts=np.array([track.num_radar_pts for track in owner], np.int64),
        category=[track.category for track in tracks],
        size_m=np.array([track.size_m for track in tracks], np.float64).reshape(-1, 3),
    )
