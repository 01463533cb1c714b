"""What one scene of a tree holds before it is written: the hand-over from worlds to tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class EgoPoses(NamedTuple):
    """Where the car is at some times, GLOBAL from EGO."""

    translation_m: FloatArray
    """(N, 3) positions of the rear axle."""
    rotation_wxyz: FloatArray
    """(N, 4) unit quaternions."""


class Boxes(NamedTuple):
    """The annotations of one scene; rows are boxes, ordered by keyframe."""

    keyframe: IntArray
    """(N,) index of the keyframe."""
    track: IntArray
    """(N,) index of the track, into `category` and `size_m`."""
    center_m: FloatArray
    """(N, 3) box centres, GLOBAL."""
    yaw_rad: FloatArray
    """(N,) headings, GLOBAL."""
    visibility: IntArray
    """(N,) 1 (mostly hidden) to 4 (in full view), or 0 for a box without the label."""
    attribute: list[str]
    """(N,) attribute names; "" for none."""
    num_lidar_pts: IntArray
    num_radar_pts: IntArray
    category: list[str]
    """(T,) category names, one a track; every track has a box."""
    size_m: FloatArray
    """(T, 3) width, length, height, one a track."""


@dataclass(frozen=True)
class Log:
    """A recording that scenes are cut from."""

    logfile: str
    vehicle: str
    date_captured: str
    location: str


@dataclass(frozen=True)
class SceneRecord:
    """One scene, ready to be written."""

    name: str
    description: str
    log: Log
    keyframe_us: IntArray
    """(K,) LIDAR_TOP times of the keyframes, ascending, microseconds."""
    ego_at: Callable[[IntArray], EgoPoses]
    """The ego poses at (N,) times, microseconds."""
    boxes: Boxes | None
    """None for a test set's scene."""


def quaternion_wxyz(
    yaw_rad: FloatArray, pitch_rad: FloatArray | float = 0.0, roll_rad: FloatArray | float = 0.0
) -> FloatArray:
    """(..., 4) unit quaternions of a turn by yaw about z after pitch about y after roll about x."""
    cy, sy = np.cos(np.asarray(yaw_rad) / 2), np.sin(np.asarray(yaw_rad) / 2)
    cp, sp = np.cos(np.asarray(pitch_rad) / 2), np.sin(np.asarray(pitch_rad) / 2)
    cr, sr = np.cos(np.asarray(roll_rad) / 2), np.sin(np.asarray(roll_rad) / 2)
    parts = (
        cy * cp * cr + sy * sp * sr,
        cy * cp * sr - sy * sp * cr,
        cy * sp * cr + sy * cp * sr,
        sy * cp * cr - cy * sp * sr,
    )
    return np.stack(np.broadcast_arrays(*parts), -1)
