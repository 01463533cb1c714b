"""Motion of the ego car in the plane, as the public pipelines reduce it from tilted poses.

The frames are those of `geometry`: EGO (x forward, y left), GLOBAL. Both the data set and the
metrics use this module.
"""

from __future__ import annotations

import numpy as np

from odvla_bench.geometry import FloatArray, Pose, compose, invert

UNIAD_BELOW_LIDAR_M = 0.78
"""Height of the lidar above the bottom centre of UniAD's pseudo ego box, 1.56 m high, whose path
is UniAD's ground truth; on a tilted car it differs from the lidar's by centimetres."""


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
