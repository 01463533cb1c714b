"""Simple pictures for a scene's cameras: sky, ground, and the annotated boxes as flat shapes."""

from __future__ import annotations

import colorsys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from odvla_bench.datasets.nuscenes.synthetic.catalogue import CATEGORIES, SENSORS, Sensor
from odvla_bench.datasets.nuscenes.synthetic.records import EgoPoses, SceneRecord
from odvla_bench.datasets.nuscenes.synthetic.sensors import (
    data_filename,
    intrinsic,
    sensor_rotation_wxyz,
    sensor_times_us,
    sensor_translation_m,
)
from odvla_bench.datasets.nuscenes.synthetic.tokens import TokenSource
from odvla_bench.geometry import (
    FloatArray,
    Pose,
    box_corners,
    compose,
    invert,
    pose_from_quaternion,
    transform_points,
)

_Image = npt.NDArray[np.uint8]
_NEAR_M = 0.5
_COLOUR = {
    category.name: tuple(
        int(255 * part) for part in colorsys.hsv_to_rgb(i / len(CATEGORIES), 0.7, 0.8)
    )
    for i, category in enumerate(CATEGORIES)
}


def write_images(root: Path, scene: SceneRecord, seed: int, image_size: tuple[int, int]) -> None:
    """Write the JPEGs of a scene's camera keyframes under the names that the tables give them.

    Args:
        root: the tree's folder.
        scene: the scene; its boxes are drawn where the camera would see them.
        seed: the tree's.
        image_size: width and height, pixels.
    """
    source = TokenSource(seed, scene.name)
    for sensor in (s for s in SENSORS if s.modality == "camera"):
        clock = source.generator(f"clock {sensor.channel}")
        time_us, _ = sensor_times_us(sensor, scene.keyframe_us, clock, sweeps=False)
        camera_from_global = invert(compose(_pose(scene.ego_at(time_us)), _mount(sensor, scene)))
        for frame, us in enumerate(time_us.tolist()):
            path = root / data_filename(scene.log, sensor, us, keyframe=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = _draw(scene, frame, camera_from_global.at(frame), sensor, image_size)
            cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


def _pose(poses: EgoPoses) -> Pose:
    return pose_from_quaternion(poses.rotation_wxyz, poses.translation_m)


def _mount(sensor: Sensor, scene: SceneRecord) -> Pose:
    rotation = np.array(sensor_rotation_wxyz(sensor, scene.log))
    return pose_from_quaternion(rotation, np.array(sensor_translation_m(sensor, scene.log)))


def _draw(
    scene: SceneRecord,
    frame: int,
    camera_from_global: Pose,
    sensor: Sensor,
    image_size: tuple[int, int],
) -> _Image:
    """(H, W, 3) BGR: the boxes in front of a camera, far ones first, over a shaded background."""
    width, height = image_size
    matrix = np.array(intrinsic(sensor, image_size))
    picture = _background(width, height, horizon=int(matrix[1, 2]))
    if scene.boxes is None:
        return picture
    boxes = scene.boxes
    rows = np.flatnonzero(boxes.keyframe == frame)
    track = boxes.track[rows]
    corners = _corners(boxes.center_m[rows], boxes.size_m[track], boxes.yaw_rad[rows])
    seen = transform_points(camera_from_global, corners)
    in_front = seen[..., 2].min(1) > _NEAR_M
    depth = np.where(in_front[:, None], seen[..., 2], 1.0)[..., None]
    pixels = seen[..., :2] / depth * matrix[0, 0] + matrix[:2, 2]
    for i in np.argsort(-seen[..., 2].mean(1)):
        if in_front[i]:
            hull = cv2.convexHull(pixels[i].clip(-9_999, 9_999).astype(np.int32))
            cv2.fillConvexPoly(picture, hull, _COLOUR[boxes.category[track[i]]])
            cv2.polylines(picture, [hull], isClosed=True, color=(30, 30, 30), thickness=1)
    return picture


def _background(width: int, height: int, horizon: int) -> _Image:
    """A sky that brightens towards the horizon and a ground that darkens below it."""
    shade = np.abs(np.arange(height) - horizon) / height
    sky = np.stack([240 - 60 * shade, 215 - 90 * shade, 190 - 120 * shade], -1)
    ground = np.stack([120 - 90 * shade] * 3, -1)
    column = np.where((np.arange(height) < horizon)[:, None], sky, ground)
    return np.repeat(column[:, None].astype(np.uint8), width, axis=1)


def _corners(center_m: FloatArray, size_m: FloatArray, yaw_rad: FloatArray) -> FloatArray:
    """(N, 8, 3) corners of boxes of (N, 3) width, length, height, in their centres' frame."""
    flat = box_corners(center_m[:, :2], yaw_rad, size_m[:, 1], size_m[:, 0])
    half = size_m[:, None, 2:] / 2
    levels = [center_m[:, None, 2:] + sign * half for sign in (-1, 1)]
    return np.concatenate([np.dstack([flat, np.repeat(z, 4, 1)]) for z in levels], 1)
