"""Ways to make `ObstacleBoxes`: from one row an object, and from boxes and poses in GLOBAL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray, Pose, compose, invert, rotate, transform_points
from odvla_bench.metrics.obstacles import FIRST_STEP, IntArray, ObstacleBoxes
from odvla_bench.trajectories import flat_yaw, planar_motion, to_flat_frame

_NOW = -FIRST_STEP


def boxes_from_tracks(
    xy_yaw: FloatArray,
    wl: FloatArray,
    alive: npt.NDArray[np.bool_],
    *,
    category: Sequence[str],
    visibility: IntArray,
    sample: IntArray | None = None,
    n_points: IntArray | None = None,
) -> ObstacleBoxes:
    """Flat columns from one row an object.

    Args:
        xy_yaw: (M, 7, 3) centres and headings at 0, 0.5, … 3 s, LIDAR at t0, metres and radians.
        wl: (M, 2) widths and lengths, metres.
        alive: (M, 7) whether the object is annotated at that time.
        category: (M,) nuScenes category names.
        visibility: (M,) visibility tokens 1 to 4, of all times.
        sample: (M,) row of the object's sample; None: all belong to sample 0.
        n_points: (M,) lidar and radar points, of all times; None: one each.
    """
    track, step = np.nonzero(alive)
    names, index = np.unique(np.asarray(category, str), return_inverse=True)
    owner = np.zeros(len(wl), np.int64) if sample is None else sample
    points = np.ones(len(wl), np.int64) if n_points is None else n_points
    return ObstacleBoxes(
        sample=owner[track],
        step=step,
        instance=track,
        xy_yaw=np.asarray(xy_yaw, np.float64)[track, step],
        wl=np.asarray(wl, np.float64)[track],
        category=index[track],
        category_names=tuple(names.tolist()),
        visibility=np.asarray(visibility)[track],
        n_points=points[track],
    )


def boxes_from_global(
    xyz_m: FloatArray,
    yaw_rad: FloatArray,
    wlh_m: FloatArray,
    *,
    sample: IntArray,
    step: IntArray,
    instance: IntArray,
    category: IntArray,
    category_names: tuple[str, ...],
    visibility: IntArray,
    n_points: IntArray,
    global_from_ego: Pose,
    ego_from_lidar: Pose,
) -> ObstacleBoxes:
    """Boxes as nuScenes annotates them, with all that any protocol draws from.

    Args:
        xyz_m: (B, 3) centres, GLOBAL, metres.
        yaw_rad: (B,) headings, GLOBAL, counter-clockwise.
        wlh_m: (B, 3) widths, lengths and heights, metres.
        sample: (B,) row of the sample.
        step: (B,) keyframes after t0, -2 to 6.
        instance: (B,) object.
        category: (B,) index into `category_names`.
        category_names: nuScenes category names.
        visibility: (B,) visibility token, 0 unknown.
        n_points: (B,) lidar and radar points.
        global_from_ego: (N, 9) EGO poses at steps -2 to 6; any finite pose, or NaN, where a
            keyframe does not exist.
        ego_from_lidar: (N,) or a single pose of LIDAR_TOP in EGO.
    """
    n_samples = len(global_from_ego.rotation)
    calibration = Pose(
        np.broadcast_to(ego_from_lidar.rotation, (n_samples, 3, 3)),
        np.broadcast_to(ego_from_lidar.translation_m, (n_samples, 3)),
    )
    lidar = compose(global_from_ego, calibration.at((slice(None), None)))
    now_from_global = invert(lidar.at((slice(None), _NOW)))
    in_plane = Pose(now_from_global.rotation[:, :2], now_from_global.translation_m[:, :2])
    in_plane = in_plane.at(sample)
    keyframe = (sample, step + _NOW)
    bottom_m = xyz_m - lidar.rotation[..., 2][keyframe] * wlh_m[:, 2:] / 2
    motion = planar_motion(
        global_from_ego.at((slice(None), slice(_NOW, _NOW + 1))),
        global_from_ego.at((slice(None), slice(_NOW + 1, None))),
    )
    xy = transform_points(in_plane, xyz_m)
    return ObstacleBoxes(
        sample=sample,
        step=step,
        instance=instance,
        xy_yaw=np.column_stack([xy, _yaw_in_plane(in_plane, yaw_rad)]),
        wl=wlh_m[:, :2],
        category=category,
        category_names=category_names,
        visibility=visibility,
        n_points=n_points,
        bottom_xy_m=transform_points(in_plane, bottom_m),
        own_ego_xy_yaw=to_flat_frame(
            np.column_stack([xyz_m[:, :2], yaw_rad]),
            global_from_ego.translation_m[..., :2][keyframe],
            flat_yaw(global_from_ego.rotation)[keyframe],
        ),
        future_ego_xy_yaw=np.nan_to_num(motion),
        lidar_in_ego_m=calibration.translation_m[:, :2],
    )


def _yaw_in_plane(plane_from_global: Pose, yaw_rad: FloatArray) -> FloatArray:
    """(B,) yaws in the x-y plane of a frame of headings about GLOBAL's vertical."""
    level = np.stack([np.cos(yaw_rad), np.sin(yaw_rad)], -1)
    x_axis = rotate(plane_from_global.rotation[..., :2], level)
    return np.arctan2(x_axis[:, 1], x_axis[:, 0])
