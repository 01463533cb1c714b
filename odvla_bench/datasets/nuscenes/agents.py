"""Annotated boxes of keyframes: where they are, how they move, past and future; vectorised.

Boxes are given in the LIDAR frame at t0 (x right, y forward) and, for motion, in the agent's own
frame at t0: origin at the box centre, y along its heading, x to its right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, HISTORY_STEPS, STEP_S
from odvla_bench.datasets.nuscenes.tables import numpy_columns
from odvla_bench.geometry import (
    FloatArray,
    Pose,
    angle_of,
    heading_of_quaternion,
    invert,
    rotate,
    transform_points,
)

MAX_VELOCITY_GAP_S = 1.5
"""Longest time between the annotations of a one-sided velocity; twice that for a central one."""

DEVKIT_SLACK_S = 0.15
"""How far beyond its horizon nuscenes-devkit's PredictHelper still takes an annotation."""

_BLOCK = 4096
"""Annotations worked on at a time: what they need stays in the processor's cache."""

Alignment = Literal["keyframe", "devkit"]
Finder = Callable[[int], tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]


class AgentMotion(NamedTuple):
    """M tracks at K other keyframes; 0 where a step does not exist."""

    xy_m: FloatArray
    """(M, K, 2) box centres, LIDAR frame at t0."""
    yaw_rad: FloatArray
    """(M, K) headings, LIDAR frame at t0."""
    own_xy_m: FloatArray
    """(M, K, 2) box centres, the agent's own frame at t0, level with GLOBAL."""
    valid: npt.NDArray[np.bool_]
    """(M, K)"""


@dataclass(frozen=True)
class Agents:
    """M annotations, sorted by (sample, instance), of whole scenes."""

    sample: npt.NDArray[np.int64]
    """(M,) row of the keyframe in the sample arrays below."""
    instance_id: npt.NDArray[np.int64]
    """(M,) track."""
    place_m: FloatArray
    """(M, 3) box centres in GLOBAL."""
    heading: FloatArray
    """(M, 3) unit vectors along the boxes' lengths, GLOBAL; nothing else of a rotation is used."""
    global_from_lidar: Pose
    """(N) LIDAR in GLOBAL, one a keyframe."""
    frame: npt.NDArray[np.int64]
    """(N,) index of the keyframe in its scene."""
    timestamp_us: npt.NDArray[np.int64]
    """(N,) times of the keyframes."""

    @classmethod
    def from_tables(
        cls, annotations: pa.Table, samples: pa.Table, global_from_lidar: Pose
    ) -> Agents:
        """The agents over rows of `NuScenesTables.annotations` and their keyframes' rows.

        Args:
            annotations: rows of whole scenes.
            samples: rows of `NuScenesTables.samples` that hold every `sample_id` of those.
            global_from_lidar: (N) poses of those samples.
        """
        ids = numpy_columns(samples, "sample_id")
        return cls(
            np.searchsorted(ids, numpy_columns(annotations, "sample_id")),
            numpy_columns(annotations, "instance_id").astype(np.int64),
            numpy_columns(annotations, "x_m", "y_m", "z_m"),
            heading_of_quaternion(numpy_columns(annotations, "qw", "qx", "qy", "qz")),
            global_from_lidar,
            numpy_columns(samples, "frame_index").astype(np.int64),
            numpy_columns(samples, "timestamp_us"),
        )

    @cached_property
    def lidar_from_global(self) -> Pose:
        """(M) GLOBAL in the LIDAR frame of each annotation's keyframe."""
        return invert(self.global_from_lidar).at(self.sample)

    @cached_property
    def centre_m(self) -> FloatArray:
        """(M, 3) box centres, LIDAR frame at t0."""
        return transform_points(self.lidar_from_global, self.place_m)

    @cached_property
    def yaw_rad(self) -> FloatArray:
        """(M,) headings, counter-clockwise from +x (right) of the LIDAR frame at t0."""
        return angle_of(rotate(self.lidar_from_global.rotation[:, :2], self.heading))

    @cached_property
    def global_yaw_rad(self) -> FloatArray:
        """(M,) headings in GLOBAL."""
        return angle_of(self.heading)

    @cached_property
    def _track_order(self) -> npt.NDArray[np.int64]:
        """Rows sorted by (instance, frame)."""
        return np.lexsort((self.frame[self.sample], self.instance_id))

    @cached_property
    def _track_key(self) -> npt.NDArray[np.int64]:
        """(M,) in track order: consecutive frames of one track have consecutive keys."""
        order = self._track_order
        stride = int(self.frame.max(initial=0)) + 2 * len(FUTURE_STEPS) + len(HISTORY_STEPS)
        return self.instance_id[order] * stride + self.frame[self.sample][order]

    def rows_at(
        self, steps: tuple[int, ...], *, alignment: Alignment = "keyframe"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Rows of the same tracks `steps` keyframes away.

        Args:
            steps: keyframe offsets.
            alignment: "keyframe" means the annotation exactly that many keyframes away;
                "devkit" follows the track's links as nuscenes-devkit's PredictHelper does, where
                a gap in the track moves later positions forward to earlier steps.

        Returns:
            (M, K) rows, the annotation's own where there is none, and (M, K) bool.
        """
        return self._gather(self._frame_rows if alignment == "keyframe" else self._link_rows, steps)

    def _gather(
        self, find: Finder, steps: tuple[int, ...]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Run a search of the track order for every step and put its rows back in our order."""
        rows = np.empty((len(steps), len(self.sample)), np.int64)
        valid = np.empty(rows.shape, bool)
        order, own = self._track_order, np.arange(len(self.sample))
        for k, step in enumerate(steps):
            candidate, ok = find(step)
            rows[k, order], valid[k, order] = order[np.where(ok, candidate, own)], ok
        return rows.T, valid.T

    def _frame_rows(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        key = self._track_key
        # Without gaps a step is a row; only the others have to be searched for.
        candidate = np.clip(np.arange(len(key)) + step, 0, max(len(key) - 1, 0))
        other = np.flatnonzero(key[candidate] != key + step)
        candidate[other] = np.minimum(np.searchsorted(key, key[other] + step), len(key) - 1)
        return candidate, key[candidate] == key + step

    def _link_rows(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        candidate, same = self._neighbours(step)
        seconds = np.abs(self._time_s[candidate] - self._time_s)
        horizon_s = STEP_S * max(len(FUTURE_STEPS) if step > 0 else len(HISTORY_STEPS), abs(step))
        return candidate, same & (seconds < horizon_s + DEVKIT_SLACK_S)

    def _neighbours(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """In track order: the annotation `step` links away, whatever its time."""
        own = np.arange(len(self.sample))
        candidate = np.clip(own + step, 0, max(len(own) - 1, 0))
        track = self.instance_id[self._track_order]
        return candidate, (candidate == own + step) & (track[candidate] == track)

    @cached_property
    def _time_s(self) -> FloatArray:
        """(M,) in track order."""
        return (self.timestamp_us[self.sample][self._track_order]) * 1e-6

    def motion(self, steps: tuple[int, ...], *, alignment: Alignment = "keyframe") -> AgentMotion:
        """Where the same tracks are at other keyframes, seen from t0; see `rows_at`."""
        rows, valid = self.rows_at(steps, alignment=alignment)
        seen = np.empty((5, *rows.shape))
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            for out, values in zip(seen, self._seen_from(block, rows[block].T), strict=True):
                out[block] = np.where(valid[block], values.T, 0.0)
        xy, own = np.moveaxis(seen[:2], 0, -1), np.moveaxis(seen[3:], 0, -1)
        return AgentMotion(xy, seen[2], own, valid)

    def _seen_from(
        self, block: slice, rows: npt.NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Other annotations seen from those of a block, column by column.

        Args:
            block: B annotations, each at its own t0.
            rows: (K, B) annotations.

        Returns:
            (K, B) x, y and yaw in the LIDAR frame, x and y in the agent's own frame.
        """
        place, heading = self._place, self._heading_columns
        there, ahead = np.take(place, rows, 1), np.take(heading, rows, 1)
        (x_axis, y_axis), (x0, y0) = self._lidar_columns(block)
        x, y = _dot(x_axis, there) + x0, _dot(y_axis, there) + y0
        yaw = np.arctan2(_dot(y_axis, ahead), _dot(x_axis, ahead))
        dx, dy = there[:2] - place[:2, None, block]
        return x, y, yaw, *to_own_frame(dx, dy, self.global_yaw_rad[block])

    @cached_property
    def _place(self) -> FloatArray:
        """(3, M) box centres in GLOBAL, a row a coordinate."""
        return np.ascontiguousarray(self.place_m.T)

    @cached_property
    def _heading_columns(self) -> FloatArray:
        """(3, M) headings in GLOBAL, a row a coordinate."""
        return np.ascontiguousarray(self.heading.T)

    def _lidar_columns(self, block: slice) -> tuple[FloatArray, FloatArray]:
        """The LIDAR's x and y axes in GLOBAL, (2, 3, B), and where GLOBAL's origin is, (2, B)."""
        rotation, translation = self.lidar_from_global.at(block)
        return np.moveaxis(rotation[:, :2], 0, -1).copy(), translation[:, :2].T.copy()

    def velocity_mps(self) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Velocity from the neighbouring annotations of the track, as nuscenes-devkit takes it.

        Central where both neighbours exist, else one-sided; not valid where neither exists or
        they are more than 1.5 s (central: 3 s) apart. It looks into the future.

        Returns:
            (M, 2) LIDAR frame at t0, 0 where not valid; (M,) bool.
        """
        rows, valid = self._gather(self._neighbours, (-1, 1))
        before, after = rows.T
        t_us = self.timestamp_us[self.sample]
        seconds = (t_us[after] - t_us[before]) * 1e-6
        limit = MAX_VELOCITY_GAP_S * np.where(valid.all(1), 2, 1)
        good = valid.any(1) & (seconds <= limit)
        change = self._place[:, after] - self._place[:, before]
        velocity = (change / np.where(good, seconds, 1.0)).T
        turned = rotate(self.lidar_from_global.rotation[:, :2], velocity)
        return np.where(good[:, None], turned, 0.0), good


def to_own_frame(
    dx_m: FloatArray, dy_m: FloatArray, yaw_rad: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Offsets from a box's centre, seen from the box: y along its heading, x to its right.

    Args:
        dx_m: (..., M) along x of any frame, metres.
        dy_m: (..., M) along y of it.
        yaw_rad: (M,) headings, counter-clockwise from +x of that frame.

    Returns:
        (..., M) to the right and (..., M) ahead, metres.
    """
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return sin * dx_m - cos * dy_m, cos * dx_m + sin * dy_m


def _dot(axis: FloatArray, vectors: FloatArray) -> FloatArray:
    """(3, B) axes, (3, K, B) vectors → (K, B) products."""
    return axis[0] * vectors[0] + axis[1] * vectors[1] + axis[2] * vectors[2]
