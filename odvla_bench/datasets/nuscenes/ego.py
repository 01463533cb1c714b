"""Ego motion around keyframes, vectorised over all of them.

Positions are those of the LIDAR_TOP origin, in the LIDAR frame of the keyframe (t0): x right,
y forward, metres. Steps are keyframes, nominally 0.5 s apart: history -2.0 … -0.5 s, future
0.5 … 3.0 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.nuscenes.tables import numpy_columns, poses
from odvla_bench.geometry import (
    FloatArray,
    Pose,
    angle_of,
    compose,
    invert,
    transform_points,
    yaw_of,
)

HISTORY_STEPS = (-4, -3, -2, -1)
FUTURE_STEPS = (1, 2, 3, 4, 5, 6)
STEP_S = 0.5
COMMANDS = ("turn right", "turn left", "keep forward")
COMMAND_THRESHOLD_M = 2.0
"""Lateral displacement at the last existing future step from which a plan is called a turn."""

Missing = Literal["zero", "hold"]

_FRAME_BITS = 20  # room between scenes, so that a step never leads into another one


@dataclass(frozen=True)
class EgoMotion:
    """N keyframes with a LIDAR pose, sorted by scene and frame."""

    scene_id: npt.NDArray[np.int64]
    """(N,) scenes."""
    frame_index: npt.NDArray[np.int64]
    """(N,) index of the keyframe in its scene."""
    timestamp_us: npt.NDArray[np.int64]
    """(N,) times."""
    global_from_ego: Pose
    """(N) EGO in GLOBAL at the LIDAR sweep."""
    ego_from_lidar: Pose
    """(N) LIDAR in EGO."""

    @classmethod
    def from_samples(cls, samples: pa.Table) -> EgoMotion:
        """The motion over rows of `NuScenesTables.samples` that have a LIDAR pose."""
        return cls(
            numpy_columns(samples, "scene_id").astype(np.int64),
            numpy_columns(samples, "frame_index").astype(np.int64),
            numpy_columns(samples, "lidar_timestamp_us"),
            poses(samples, "ego_"),
            poses(samples, "lidar_"),
        )

    @cached_property
    def global_from_lidar(self) -> Pose:
        """(N) LIDAR in GLOBAL."""
        return compose(self.global_from_ego, self.ego_from_lidar)

    def rows_at(
        self, steps: tuple[int, ...]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Rows of the keyframes `steps` away, and whether each exists.

        Returns:
            (N, K) rows, the keyframe's own where there is none, and (N, K) bool.
        """
        own = np.arange(len(self.scene_id))[:, None]
        key = (self.scene_id << _FRAME_BITS) + self.frame_index
        wanted = key[:, None] + np.asarray(steps)
        rows = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
        valid = key[rows] == wanted
        return np.where(valid, rows, own), valid

    def positions(
        self,
        steps: tuple[int, ...],
        *,
        missing: Missing = "hold",
        point_lidar_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Where a point fixed to the LIDAR is at other keyframes.

        Args:
            steps: keyframe offsets, all negative and rising, or all positive and rising.
            missing: what stands at steps that do not exist: zeros, or the nearest existing
                position on the side of t0.
            point_lidar_m: the point, in the moving LIDAR frame; its origin by default. UniAD's
                ground truth follows (0, 0, -0.78), the bottom of its 1.56 m high ego box.

        Returns:
            (N, K, 2) x and y in the LIDAR frame at t0, metres; (N, K) bool validity.
        """
        rows, valid = self.rows_at(steps)
        pose = self.global_from_lidar
        there = transform_points(pose, np.broadcast_to(np.asarray(point_lidar_m), (len(rows), 3)))
        lidar_from_global = invert(pose)
        xy = transform_points(lidar_from_global.at(np.s_[:, None]), there[rows])[..., :2]
        if missing == "hold":
            own = transform_points(lidar_from_global, there)[:, :2]
            return _hold(xy, valid, own, backwards=steps[0] < 0), valid
        return np.where(valid[..., None], xy, 0.0), valid

    def yaw_change(self, steps: tuple[int, ...]) -> FloatArray:
        """(N, K) heading at other keyframes relative to t0, radians; 0 where there is none."""
        rows, _ = self.rows_at(steps)
        rotation = self.global_from_lidar.rotation
        return yaw_of(np.swapaxes(rotation, -1, -2)[:, None] @ rotation[rows])

    @cached_property
    def state(self) -> EgoState:
        """Velocity, acceleration and yaw rate at each keyframe, from the past alone."""
        return ego_state(self)


@dataclass(frozen=True)
class EgoState:
    """How the ego moves at t0, by backward differences with the recorded times."""

    velocity_mps: FloatArray
    """(N, 2) of the LIDAR origin, LIDAR frame at t0."""
    velocity_valid: npt.NDArray[np.bool_]
    """(N,) false on a scene's first keyframe, where the velocity is 0."""
    acceleration_mps2: FloatArray
    """(N, 2) change of the velocity vector, LIDAR frame at t0."""
    acceleration_valid: npt.NDArray[np.bool_]
    """(N,) false on a scene's first two keyframes."""
    yaw_rate_radps: FloatArray
    """(N,) counter-clockwise; valid with the velocity."""


def ego_state(motion: EgoMotion) -> EgoState:
    """Backward differences over the last two keyframes."""
    rows, valid = motion.rows_at((-1, -2))
    has_one, has_two = valid[:, 0], valid.all(1)
    pose, t_us = motion.global_from_lidar, motion.timestamp_us
    previous = rows[:, 0]
    dt = np.where(has_one, (t_us - t_us[previous]) * 1e-6, STEP_S)
    velocity_global = (pose.translation_m - pose.translation_m[previous]) / dt[:, None]
    change = velocity_global - velocity_global[previous]
    acceleration_global = np.where(has_two[:, None], change / dt[:, None], 0.0)
    lidar_from_global = Pose(np.swapaxes(pose.rotation, -1, -2), np.zeros((len(dt), 3)))
    return EgoState(
        transform_points(lidar_from_global, velocity_global)[:, :2],
        has_one,
        transform_points(lidar_from_global, acceleration_global)[:, :2],
        has_two,
        -motion.yaw_change((-1,))[:, 0] / dt,
    )


def command(xy_m: FloatArray, valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The driving command as every open-loop planner of this field is given it.

    It looks into the future: x of the last existing future position, "turn right" from +2 m,
    "turn left" from -2 m, else "keep forward"; "keep forward" without any future. A model that is
    given it knows something of the answer.

    Args:
        xy_m: (N, 6, 2) future, LIDAR frame at t0, metres.
        valid: (N, 6) which steps exist.

    Returns:
        (N,) indices into `COMMANDS`.
    """
    last = valid.shape[1] - 1 - valid[:, ::-1].argmax(1)
    x = np.where(valid.any(1), xy_m[np.arange(len(xy_m)), last, 0], 0.0)
    return np.where(x >= COMMAND_THRESHOLD_M, 0, np.where(x <= -COMMAND_THRESHOLD_M, 1, 2))


def released_history(motion: EgoMotion) -> FloatArray:
    """History as the released OpenDriveVLA data has it, rows -2.0 … -0.5 and 0 s.

    Missing steps go on backwards with the step that follows them. On a scene's first keyframe
    that step is the future one, so the released history leaks the future there.

    Returns:
        (N, 5, 2) LIDAR frame at t0, metres.
    """
    xy, valid = motion.positions((*HISTORY_STEPS, 0, 1))
    step = np.diff(xy, axis=1)
    for i in range(3, -1, -1):
        step[:, i] = np.where(valid[:, i, None], step[:, i], step[:, i + 1])
        xy[:, i] = np.where(valid[:, i, None], xy[:, i], xy[:, i + 1] - step[:, i + 1])
    return xy[:, :5]


def released_velocity(motion: EgoMotion) -> FloatArray:
    """Velocity and yaw rate as the released data has them.

    Three quirks: the speed takes 0.5 s for every step; a scene's first keyframe takes the next
    step (a leak); and the yaw comes from a quaternion read in the wrong order, which is near 0
    whatever the heading, so that all speed points forward and the yaw rate is noise.

    Returns:
        (N, 3) vx right, vy forward in m/s, and yaw rate in rad/s.
    """
    rows, valid = motion.rows_at((-1, 1))
    other = np.where(valid[:, 0], rows[:, 0], rows[:, 1])
    sign = np.where(valid[:, 0], 1.0, -1.0)
    place = motion.global_from_ego.translation_m[:, :2]
    yaw = _misread_yaw(motion.global_from_ego.rotation)
    speed = np.linalg.norm(place - place[other], axis=1) / STEP_S
    yaw_rate = sign * (yaw - yaw[other]) / STEP_S
    return np.stack([-speed * np.sin(yaw), speed * np.cos(yaw), yaw_rate], -1)


def _misread_yaw(rotation: FloatArray) -> FloatArray:
    """Yaw of the quaternion (w, x, y, z) when its numbers are taken as (x, y, z, w).

    In terms of the rotation matrix that numerator and denominator are R21 and R22, a roll angle.
    """
    return angle_of(rotation[:, 2, 2:0:-1])


def _hold(
    xy: FloatArray, valid: npt.NDArray[np.bool_], own: FloatArray, *, backwards: bool
) -> FloatArray:
    """Fill missing steps with the position of the step nearer to t0."""
    out, order = xy.copy(), range(xy.shape[1])
    last = own
    for k in reversed(order) if backwards else order:
        out[:, k] = last = np.where(valid[:, k, None], xy[:, k], last)
    return out
