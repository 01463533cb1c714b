"""Annotated boxes as flat columns, and which of them are obstacles under a protocol's rule.

One row is one box of one object at one step of one sample. The choice of rows needs no loop:
rules that follow an object through time read a (tracks, 9) table of row numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray, wrap_angle
from odvla_bench.metrics.displacement import BoolArray
from odvla_bench.metrics.protocols import N_STEPS, ObstacleRule

IntArray = npt.NDArray[np.integer[Any]]

FIRST_STEP = -2
_N_TRACK_STEPS = N_STEPS - FIRST_STEP + 1
_NOW = -FIRST_STEP
_WHOLE = ("sample", "step", "instance", "category", "visibility", "n_points")
LIDAR_IN_EGO_M = (0.943713, 0.0)
"""x and y of LIDAR_TOP in EGO on the Singapore cars."""


class Obstacles(NamedTuple):
    """Boxes that are obstacles, one row a box at a future step."""

    row: IntArray
    """(R,) row of the `ObstacleBoxes` that holds the box at its step."""
    frame: IntArray
    """(R,) sample * 6 + step - 1."""
    xy_yaw: FloatArray
    """(R, 3) centre and heading at the step, LIDAR at t0, metres and radians."""
    wl: FloatArray
    """(R, 2) width and length, metres."""

    def at(self, index: IntArray) -> Obstacles:
        """The obstacles at `index`."""
        return Obstacles(self.row[index], self.frame[index], self.xy_yaw[index], self.wl[index])


@dataclass(frozen=True, eq=False)
class ObstacleBoxes:
    """Annotated boxes of samples, their past and future keyframes; B rows, N samples.

    Raises:
        InputError: a column of the wrong length or range, or values that are not finite.
    """

    sample: IntArray
    """(B,) row of the sample among the scored ones."""
    step: IntArray
    """(B,) keyframes after t0: 0 is t0, 1 to 6 the future, -2 and -1 the past (ST-P3 only)."""
    instance: IntArray
    """(B,) object; the same number at two steps of a sample is the same object."""
    xy_yaw: FloatArray
    """(B, 3) centre and heading, LIDAR at t0, metres and radians (counter-clockwise from +x)."""
    wl: FloatArray
    """(B, 2) width and length, metres; the length lies along the heading."""
    category: IntArray
    """(B,) index into `category_names`."""
    category_names: tuple[str, ...]
    """nuScenes category names."""
    visibility: IntArray
    """(B,) visibility token 1 to 4; 0 unknown, which counts as visible."""
    n_points: IntArray
    """(B,) lidar and radar points in the box."""
    bottom_xy_m: FloatArray | None = None
    """(B, 2) where the bottom centre goes when it is taken in the LIDAR of the box's own step and
    carried to LIDAR at t0 (UniAD); it differs from `xy_yaw` on tilted cars, by centimetres.
    None: the centre is used."""
    own_ego_xy_yaw: FloatArray | None = None
    """(B, 3) the box in the flattened EGO of its own step, which is where ST-P3 draws it."""
    future_ego_xy_yaw: FloatArray | None = None
    """(N, 6, 3) pose of each step's EGO in EGO at t0: forward, left, counter-clockwise heading
    (`trajectories.planar_motion`), from which ST-P3 warps. Given with `own_ego_xy_yaw` only."""
    lidar_in_ego_m: FloatArray | None = None
    """(N, 2) x and y of LIDAR in EGO; None: `LIDAR_IN_EGO_M` for every sample."""

    def __post_init__(self) -> None:
        n = len(self.sample)
        shapes = {
            "sample": (n,),
            "step": (n,),
            "instance": (n,),
            "xy_yaw": (n, 3),
            "wl": (n, 2),
            "category": (n,),
            "visibility": (n,),
            "n_points": (n,),
            "bottom_xy_m": (n, 2),
            "own_ego_xy_yaw": (n, 3),
        }
        for name, shape in shapes.items():
            column = getattr(self, name)
            if column is not None:
                _check_column(name, column, shape)
        _check_range("step", self.step, FIRST_STEP, N_STEPS)
        _check_range("category", self.category, 0, len(self.category_names) - 1)
        if (self.own_ego_xy_yaw is None) != (self.future_ego_xy_yaw is None):
            raise InputError(
                "Boxes in their own EGO frame need the motion to t0, and the other way round: "
                "give both own_ego_xy_yaw and future_ego_xy_yaw, or neither."
            )

    def check_samples(self, n_samples: int) -> None:
        """Raise an InputError unless every row's sample, and the poses, fit `n_samples`."""
        _check_range("sample", self.sample, 0, n_samples - 1)
        for name, shape in (
            ("future_ego_xy_yaw", (n_samples, N_STEPS, 3)),
            ("lidar_in_ego_m", (n_samples, 2)),
        ):
            column = getattr(self, name)
            if column is not None:
                _check_column(name, column, shape)

    def lidar_offset_m(self, sample: IntArray) -> FloatArray:
        """(R, 2) position of LIDAR in EGO of the given samples, metres."""
        if self.lidar_in_ego_m is None:
            return np.broadcast_to(np.array(LIDAR_IN_EGO_M), (len(sample), 2))
        return self.lidar_in_ego_m[sample]

    @cached_property
    def tracks(self) -> npt.NDArray[np.int64]:
        """(T, 9) row of each object of each sample at steps -2 to 6, -1 where it has none."""
        object_id = self.instance.astype(np.int64)
        object_id -= object_id.min(initial=0)
        span = int(object_id.max(initial=0)) + 1
        key = (self.sample.astype(np.int64) * span + object_id) * _N_TRACK_STEPS
        key += self.step - FIRST_STEP
        order = np.argsort(key, kind="stable")
        key = key[order]
        if (again := np.flatnonzero(key[1:] == key[:-1])).size:
            row = int(order[again[0] + 1])
            raise InputError(
                f"Box row {row}: object {self.instance[row]} of sample {self.sample[row]} has two "
                f"boxes at step {self.step[row]}; keep one row for each sample, step and object."
            )
        track = np.cumsum(np.diff(key // _N_TRACK_STEPS, prepend=-1) > 0) - 1
        table = np.full((int(track[-1]) + 1 if len(track) else 0, _N_TRACK_STEPS), -1)
        table[track, key % _N_TRACK_STEPS] = order
        return table


def _check_column(name: str, column: FloatArray | IntArray, shape: tuple[int, ...]) -> None:
    if column.shape != shape:
        raise InputError(f"Obstacle column {name} has shape {column.shape}; it must be {shape}.")
    if name in _WHOLE and column.dtype.kind not in "iu":
        raise InputError(f"Obstacle column {name} is {column.dtype}; it must hold whole numbers.")
    if column.dtype.kind == "f" and not (finite := np.isfinite(column)).all():
        row = int(np.argwhere(~finite)[0, 0])
        raise InputError(f"Obstacle column {name}, row {row}: {column[row]} is not finite.")


def _check_range(name: str, column: IntArray, low: int, high: int) -> None:
    if len(column) and (column.min() < low or column.max() > high):
        row = int(np.flatnonzero((column < low) | (column > high))[0])
        raise InputError(
            f"Obstacle column {name}, row {row}: {column[row]} lies outside {low} to {high}."
        )


def select_obstacles(boxes: ObstacleBoxes, rule: ObstacleRule) -> Obstacles:
    """The boxes at steps 1 to 6 that are obstacles under `rule`."""
    accepted = np.array([rule.accepts(name) for name in boxes.category_names], bool)
    usable = accepted[boxes.category] if len(boxes.category) else np.zeros(0, bool)
    if rule.presence == "annotated":
        if rule.min_points:
            usable &= boxes.n_points >= rule.min_points
        return _at_step(boxes, np.flatnonzero(usable & (boxes.step > 0)))
    if rule.presence == "registered":
        return _registered(boxes, usable)
    return _unbroken(boxes, rule, usable)


def _frame_of(boxes: ObstacleBoxes, row: IntArray) -> IntArray:
    return boxes.sample[row].astype(np.int64) * N_STEPS + (boxes.step[row] - 1)


def _at_step(boxes: ObstacleBoxes, row: IntArray) -> Obstacles:
    return Obstacles(row, _frame_of(boxes, row), boxes.xy_yaw[row], boxes.wl[row])


def _registered(boxes: ObstacleBoxes, usable: BoolArray) -> Obstacles:
    """ST-P3: future boxes of objects that were seen, not hidden, at t0 or up to 1 s before."""
    seen = boxes.tracks[:, : _NOW + 1]
    known = ((seen >= 0) & (boxes.visibility[seen] != 1)).any(1)
    row = boxes.tracks[known, _NOW + 1 :].ravel()
    row = row[row >= 0]
    return _at_step(boxes, row[usable[row]])


def _unbroken(boxes: ObstacleBoxes, rule: ObstacleRule, usable: BoolArray) -> Obstacles:
    """VAD, OmniDrive: objects of t0 up to their first gap, with the size they have at t0."""
    now = boxes.tracks[:, _NOW]
    keep = (now >= 0) & usable[now] & (boxes.n_points[now] >= rule.min_points)
    if rule.half_range_m is not None:
        centre = boxes.xy_yaw[now, :2].astype(np.float32)
        keep &= (np.abs(centre) < np.asarray(rule.half_range_m, np.float32)).all(1)
    rows = boxes.tracks[keep, _NOW:]
    alive = np.logical_and.accumulate(rows >= 0, axis=1)[:, 1:]
    poses = boxes.xy_yaw[rows]
    if rule.motion == "summed_float32":
        poses = _summed_float32(poses)
    row = rows[:, 1:][alive]
    size = np.broadcast_to(boxes.wl[rows[:, 0], None], (len(rows), N_STEPS, 2))[alive]
    return Obstacles(row, _frame_of(boxes, row), poses[:, 1:][alive], size)


def _summed_float32(xy_yaw: FloatArray) -> FloatArray:
    """(R, 7, 3) poses rebuilt from float32 displacements, as VAD's files store them.

    The heading at t0 passes through the older box convention (-yaw - pi/2, wrapped) and back;
    its float32 rounding decides ties of vertices at right angles.
    """
    moved = np.diff(xy_yaw, axis=1)
    moved[..., 2] = wrap_angle(moved[..., 2])
    start = xy_yaw[:, :1].astype(np.float32)
    turn = np.float32(2 * np.pi)
    stored = (-xy_yaw[:, :1, 2] - np.pi / 2).astype(np.float32)
    stored -= np.floor(stored / turn + np.float32(0.5)) * turn
    start[..., 2] = -(stored + np.float32(np.pi / 2))
    future = start + np.cumsum(moved.astype(np.float32), axis=1, dtype=np.float32)
    return np.concatenate([start, future], axis=1)
