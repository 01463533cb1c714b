"""Sensors of a scene: where they sit, when they measure, and what their files are called."""

from __future__ import annotations

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.catalogue import BOSTON_LIDAR_X_M, Sensor
from odvla_bench.datasets.nuscenes.synthetic.records import IntArray, Log, quaternion_wxyz
from odvla_bench.datasets.nuscenes.synthetic.tokens import fixed_token

REAL_IMAGE_SIZE = (1600, 900)
FILE_ENDING = {"camera": ("jpg", "jpg"), "lidar": ("pcd", "pcd.bin"), "radar": ("pcd", "pcd")}
"""File format and file name ending of each modality."""


def sensor_times_us(
    sensor: Sensor, keyframe_us: IntArray, rng: np.random.Generator, *, sweeps: bool
) -> tuple[IntArray, IntArray]:
    """When a sensor measures in a scene.

    Args:
        sensor: the channel.
        keyframe_us: (K,) keyframe times, microseconds.
        rng: decides the jitter.
        sweeps: also the messages between keyframes.

    Returns:
        (N,) times, ascending, microseconds, and (N,) keyframe indices: i for keyframe i's own
        message, and -i for a sweep before keyframe i, the one it is filed under.
    """
    frames = len(keyframe_us)
    per = np.resize(sensor.per_keyframe, frames - 1) if sweeps else np.ones(frames - 1, np.int64)
    per = np.append(per, 1)
    frame = np.repeat(np.arange(frames), per)
    step = np.arange(len(frame)) - np.repeat(np.cumsum(per) - per, per)
    gap_us = np.append(np.diff(keyframe_us), 0)
    time = keyframe_us[frame] + gap_us[frame] * step // per[frame] + sensor.lag_us
    if sensor.modality != "lidar":  # keyframes first: their times are the same without sweeps
        time[step == 0] += rng.integers(-700, 700, frames)
        time[step > 0] += rng.integers(-700, 700, len(frame) - frames)
    return time, np.where(step == 0, frame, -(frame + 1))


def sensor_token(sensor: Sensor) -> str:
    """The token of a sensor's row."""
    return fixed_token("sensor", sensor.channel)


def data_filename(log: Log, sensor: Sensor, time_us: int, *, keyframe: bool) -> str:
    """The path of a message's file in the tree."""
    folder = "samples" if keyframe else "sweeps"
    ending = FILE_ENDING[sensor.modality][1]
    return f"{folder}/{sensor.channel}/{log.logfile}__{sensor.channel}__{time_us}.{ending}"


def intrinsic(sensor: Sensor, image_size: tuple[int, int]) -> list[list[float]]:
    """A camera's 3 x 3 matrix, pixels."""
    scale = image_size[0] / REAL_IMAGE_SIZE[0]
    focal = sensor.focal_px * scale
    return [[focal, 0.0, 812.6 * scale], [0.0, focal, 491.4 * scale], [0.0, 0.0, 1.0]]


def sensor_rotation_wxyz(sensor: Sensor, log: Log, *, level_lidar: bool = False) -> list[float]:
    """EGO from sensor as a quaternion; cameras look along their z with x right and y down.

    The lidars of the two cars are tilted by up to a degree, unless `level_lidar`.
    """
    if sensor.modality == "lidar":
        tilt = (0.019, 0.006) if log.vehicle == "n015" else (-0.004, 0.012)
        tilt = (0.0, 0.0) if level_lidar else tilt
        return quaternion_wxyz(np.asarray(sensor.yaw_rad), *tilt).tolist()
    if sensor.modality == "radar":
        return quaternion_wxyz(np.asarray(sensor.yaw_rad)).tolist()
    c, s = np.cos(sensor.yaw_rad / 2), np.sin(sensor.yaw_rad / 2)
    return (np.array([c + s, -c - s, c - s, s - c]) / 2).tolist()


def sensor_translation_m(sensor: Sensor, log: Log) -> tuple[float, float, float]:
    """The sensor's position in EGO, metres."""
    x, y, z = sensor.translation_m
    boston = sensor.modality == "lidar" and log.vehicle == "n008"
    return (BOSTON_LIDAR_X_M if boston else x), y, z
