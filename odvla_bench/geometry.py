"""SE(2) and SE(3) on arrays.

Frames
    GLOBAL  the map: x east, y north, z up.
    EGO     the car at its rear axle: x forward, y left, z up.
    LIDAR   the LIDAR_TOP sensor: x right, y forward, z up.
A pose `a_from_b` carries points of frame b into frame a: `p_a = rotation @ p_b + translation`.
Angles are radians, counter-clockwise from +x of their frame, and lie in [-pi, pi).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


class Pose(NamedTuple):
    """Rigid transforms `a_from_b`, any number of them."""

    rotation: FloatArray
    """(..., 3, 3) rotation matrices."""
    translation_m: FloatArray
    """(..., 3) origins of b in a, metres."""

    def at(self, index: Any) -> Pose:
        """The poses at `index`, which indexes the leading axes."""
        return Pose(self.rotation[index], self.translation_m[index])


def pose_from_quaternion(quaternion_wxyz: FloatArray, translation_m: FloatArray) -> Pose:
    """Poses from (..., 4) quaternions in nuScenes' order w, x, y, z and (..., 3) translations."""
    return Pose(rotation_from_quaternion(quaternion_wxyz), np.asarray(translation_m, np.float64))


def rotation_from_quaternion(quaternion_wxyz: FloatArray) -> FloatArray:
    """(..., 4) quaternions w, x, y, z (normalised here) → (..., 3, 3) rotation matrices."""
    q = np.asarray(quaternion_wxyz, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    rotation = np.empty((*q.shape[:-1], 3, 3))
    for i, row in enumerate(rows):
        for j, values in enumerate(row):
            rotation[..., i, j] = values
    return rotation


def heading_of_quaternion(quaternion_wxyz: FloatArray) -> FloatArray:
    """(..., 4) quaternions w, x, y, z → (..., 3) their rotations' x axes, without the other two."""
    q = np.asarray(quaternion_wxyz, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    return np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], -1)


def compose(a_from_b: Pose, b_from_c: Pose) -> Pose:
    """`a_from_c`; leading axes broadcast."""
    return Pose(
        a_from_b.rotation @ b_from_c.rotation, transform_points(a_from_b, b_from_c.translation_m)
    )


def invert(a_from_b: Pose) -> Pose:
    """`b_from_a`."""
    rotation = np.swapaxes(a_from_b.rotation, -1, -2)
    return Pose(rotation, -rotate(rotation, a_from_b.translation_m))


def transform_points(a_from_b: Pose, points_b_m: FloatArray) -> FloatArray:
    """(..., 3) points of frame b → the same points in frame a, metres; one point a pose."""
    return rotate(a_from_b.rotation, points_b_m) + a_from_b.translation_m


def rotate(rotation: FloatArray, vectors: FloatArray) -> FloatArray:
    """(..., n, 3) rotations, or n rows of them, applied to (..., 3) vectors → (..., n)."""
    # Three times as fast as einsum on many small products.
    return np.matmul(rotation, np.asarray(vectors)[..., None])[..., 0]


def yaw_of(rotation: FloatArray) -> FloatArray:
    """(..., 3, 3) rotations → (...) heading of the rotated x axis in the x-y plane, radians."""
    return angle_of(rotation[..., :2, 0])


def angle_of(xy: FloatArray) -> FloatArray:
    """(..., 2) vectors → (...) angles from +x, radians, the same to the last bit at every call.

    numpy's arctan2 rounds strided input in another way when the output happens to lie right behind
    it in memory (seen in 1.26 with AVX-512), so the columns are copied first.
    """
    return np.arctan2(np.array(xy[..., 1]), np.array(xy[..., 0]))


def wrap_angle(angle_rad: FloatArray) -> FloatArray:
    """The same angles in [-pi, pi)."""
    return (np.asarray(angle_rad) + np.pi) % (2 * np.pi) - np.pi


def box_corners(
    xy_m: FloatArray, yaw_rad: FloatArray, length_m: FloatArray, width_m: FloatArray
) -> FloatArray:
    """Bottom corners of oriented boxes, counter-clockwise from front left.

    Args:
        xy_m: (..., 2) centres.
        yaw_rad: (...) headings, counter-clockwise from +x of the centres' frame.
        length_m: (...) extent along the heading.
        width_m: (...) extent across it.

    Returns:
        (..., 4, 2) corners in the centres' frame, metres.
    """
    along = np.stack([np.cos(yaw_rad), np.sin(yaw_rad)], -1) * (np.asarray(length_m) / 2)[..., None]
    left = np.stack([-np.sin(yaw_rad), np.cos(yaw_rad)], -1) * (np.asarray(width_m) / 2)[..., None]
    corners = (along + left, left - along, -along - left, along - left)
    return np.asarray(xy_m)[..., None, :] + np.stack(corners, -2)
