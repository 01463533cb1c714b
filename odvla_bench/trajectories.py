"""Recorded ego trajectories from poses, as the public pipelines define them.

The frames are those of `geometry`: LIDAR (x right, y forward), EGO (x forward, y left), GLOBAL.
Both the data set and the metrics use this module.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray, Pose, compose, invert, transform_points, yaw_of

UNIAD_BELOW_LIDAR_M = 0.78
"""Height of the lidar above the bottom centre of UniAD's pseudo ego box, 1.56 m high."""
TURN_M = 2.0
"""Sideways offset of the last waypoint from which a command is a turn (ST-P3, UniAD)."""

Command = Literal["turn_right", "turn_left", "forward"]


def recorded_waypoints(
    global_from_lidar: Pose, present: int, *, below_m: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Waypoints and headings of the recorded drive in the LIDAR frame of one keyframe.

    Args:
        global_from_lidar: (..., T) poses of LIDAR_TOP at consecutive keyframes.
        present: index along T of the keyframe whose frame the result is in.
        below_m: distance of the followed point below the lidar, along the lidar's z. 0 gives the
            ground truth of ST-P3, VAD and SparseDrive, `UNIAD_BELOW_LIDAR_M` that of UniAD and
            of the projects that use its cache; on a tilted car the two differ by centimetres.

    Returns:
        (..., T, 2) positions, metres, and (..., T) changes of heading since the present, radians,
        counter-clockwise; a car that keeps its direction has 0.
    """
    rotation, translation = global_from_lidar
    lidar_now = Pose(rotation[..., present, None, :, :], translation[..., present, None, :])
    now_from_then = compose(invert(lidar_now), global_from_lidar)
    followed = np.array([0.0, 0.0, -below_m])
    return transform_points(now_from_then, followed)[..., :2], yaw_of(now_from_then.rotation)


def driving_commands(last_x_m: FloatArray) -> npt.NDArray[np.str_]:
    """Commands from the last recorded waypoint, as ST-P3 and UniAD derive them.

    They come from the future, so a model that reads them knows the outcome.

    Args:
        last_x_m: (...) x of the last existing waypoint, LIDAR, metres; 0 where there is none.

    Returns:
        (...) of `turn_right` (x at least 2 m), `turn_left` (at most -2 m) or `forward`.
    """
    x = np.asarray(last_x_m)
    return np.where(x >= TURN_M, "turn_right", np.where(x <= -TURN_M, "turn_left", "forward"))


def flat_yaw(rotation: FloatArray) -> FloatArray:
    """Yaw of EGO poses as ST-P3 flattens them: (..., 3, 3) rotations → (...) radians.

    This is the yaw of pyquaternion's `yaw_pitch_roll`, read off the first row of the rotation;
    on a tilted car it differs from `geometry.yaw_of` by about 1e-4 rad.
    """
    return np.arctan2(-rotation[..., 0, 1], rotation[..., 0, 0])


def to_flat_frame(
    xy_yaw_global: FloatArray, origin_global_m: FloatArray, yaw_rad: FloatArray
) -> FloatArray:
    """(..., 3) x, y, yaw in GLOBAL → in flattened frames with (..., 2) origins and (...) yaws."""
    dx, dy = np.moveaxis(xy_yaw_global[..., :2] - origin_global_m, -1, 0)
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.stack([cos * dx + sin * dy, cos * dy - sin * dx, xy_yaw_global[..., 2] - yaw_rad], -1)


def planar_motion(ego_now: Pose, ego_then: Pose) -> FloatArray:
    """Pose of a later EGO in the present EGO, as ST-P3's ego motion reduces it.

    Args:
        ego_now: (...) poses in GLOBAL.
        ego_then: (...) poses in GLOBAL.

    Returns:
        (..., 3) x (forward), y (left) of the later origin in the present EGO, metres, and the
        counter-clockwise change of heading (`flat_yaw`), radians.
    """
    motion = compose(invert(ego_now), ego_then)
    yaw = flat_yaw(motion.rotation)
    return np.concatenate([motion.translation_m[..., :2], yaw[..., None]], -1)
