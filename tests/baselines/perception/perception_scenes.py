"""Scenes of a made-up car with six cameras, and a small network that finds tracks in them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from odvla_bench.baselines.opendrivevla.perception.config import CAMERAS, perception_config
from odvla_bench.baselines.opendrivevla.perception.inputs import Keyframe, Scene
from odvla_bench.baselines.opendrivevla.perception.network import Perception

SIZE = (96, 160)
CAMERA_YAWS_DEG = (0, -60, 60, 180, 120, -120)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation matrix whose trace is not -1."""
    w = np.sqrt(max(1 + np.trace(rotation), 1e-12)) / 2
    axis = [
        rotation[2, 1] - rotation[1, 2],
        rotation[0, 2] - rotation[2, 0],
        rotation[1, 0] - rotation[0, 1],
    ]
    return np.array([w, *(np.array(axis) / (4 * w))])


def yaw_rotation(angle_rad: float) -> np.ndarray:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def camera_rotations() -> np.ndarray:
    """(6, 4) EGO from camera; a camera looks along its z, its x points right."""
    forward = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    yaws = np.deg2rad(np.array(CAMERA_YAWS_DEG) + 1e-3)
    return np.stack([quaternion(yaw_rotation(yaw) @ forward) for yaw in yaws])


def keyframe(folder: Path, token: str, index: int, rng: np.random.Generator) -> Keyframe:
    """A frame of a car on a left-hand bend, with smooth random images."""
    heading = 0.3 + 0.05 * index
    paths = []
    for camera in CAMERAS:
        coarse = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
        path = folder / f"{token}-{index}-{camera}.png"
        cv2.imwrite(str(path), cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC))
        paths.append(path)
    position = np.array([1000.0 + 3 * index, 600.0 + 1.5 * index, 0.0])
    ego = quaternion(yaw_rotation(heading))
    intrinsics = np.array([[100.0, 0, SIZE[1] / 2], [0, 100.0, SIZE[0] / 2], [0, 0, 1]])
    return Keyframe(
        sample_token=f"{token}-{index}",
        timestamp_us=1_600_000_000_000_000 + 500_000 * index,
        image_paths=tuple(paths),
        intrinsics=np.tile(intrinsics, (6, 1, 1)),
        camera_rotation_wxyz=camera_rotations(),
        camera_translation_m=np.tile([1.0, 0.0, 1.5], (6, 1)),
        camera_ego_rotation_wxyz=np.tile(ego, (6, 1)),
        camera_ego_translation_m=np.tile(position, (6, 1)),
        lidar_rotation_wxyz=quaternion(yaw_rotation(-np.pi / 2)),
        lidar_translation_m=np.array([0.9, 0.0, 1.8]),
        ego_rotation_wxyz=ego,
        ego_translation_m=position,
        can_bus=np.concatenate([np.zeros(7), rng.normal(size=9), np.zeros(2)]),
    )


def scene(folder: Path, token: str = "scene", *, frames: int = 3, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    return Scene(token, tuple(keyframe(folder, token, i, rng) for i in range(frames)))


def small_network(behaviour: str = "fixed", seed: int = 0) -> Perception:
    """Random weights whose scores lie around the thresholds, so that tracks live and die.

    Nothing is left at its neutral start, and one map element covers everything.
    """
    torch.manual_seed(seed)
    network = Perception(perception_config("uniad-small", behaviour=behaviour)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(
                word in name for word in ("sampling_offsets", "attention_weights", "conv_offset")
            ):
                parameter.add_(0.02 * torch.randn_like(parameter))
        last = network.pts_bbox_head.cls_branches[-1][-1]
        last.weight.normal_(std=0.0625)
        last.bias.fill_(-2.0)
        network.seg_head.things_mask_head.attnen.linear[0].bias.fill_(1.0)
    return network
