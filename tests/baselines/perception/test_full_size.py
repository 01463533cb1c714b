"""The full-size network on the six real images of one keyframe, with random weights."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from odvla_bench.baselines.opendrivevla.perception.config import CAMERAS, perception_config
from odvla_bench.baselines.opendrivevla.perception.images import read_images
from odvla_bench.baselines.opendrivevla.perception.inputs import (
    FrameInputs,
    Keyframe,
    Scene,
    scene_inputs,
)
from odvla_bench.baselines.opendrivevla.perception.network import Frames, Perception


def real_keyframe(root: Path) -> Keyframe:
    """The keyframe of a nuScenes root that holds just one."""

    def table(name: str) -> list[dict]:
        return json.loads((root / "v1.0-test" / f"{name}.json").read_text())

    calibrations = {row["token"]: row for row in table("calibrated_sensor")}
    poses = {row["token"]: row for row in table("ego_pose")}
    data = {Path(row["filename"]).parts[1]: row for row in table("sample_data")}

    def of(channel: str) -> tuple[dict, dict]:
        row = data[channel]
        return calibrations[row["calibrated_sensor_token"]], poses[row["ego_pose_token"]]

    cameras, egos = zip(*(of(name) for name in CAMERAS), strict=True)
    lidar, ego = of("LIDAR_TOP")
    return Keyframe(
        sample_token=table("sample")[0]["token"],
        timestamp_us=table("sample")[0]["timestamp"],
        image_paths=tuple(root / data[name]["filename"] for name in CAMERAS),
        intrinsics=np.array([c["camera_intrinsic"] for c in cameras]),
        camera_rotation_wxyz=np.array([c["rotation"] for c in cameras]),
        camera_translation_m=np.array([c["translation"] for c in cameras]),
        camera_ego_rotation_wxyz=np.array([e["rotation"] for e in egos]),
        camera_ego_translation_m=np.array([e["translation"] for e in egos]),
        lidar_rotation_wxyz=np.array(lidar["rotation"]),
        lidar_translation_m=np.array(lidar["translation"]),
        ego_rotation_wxyz=np.array(ego["rotation"]),
        ego_translation_m=np.array(ego["translation"]),
        can_bus=np.zeros(18),
    )


@pytest.mark.slow
@pytest.mark.real
def test_full_size_network_on_a_real_keyframe(real_data: Path) -> None:
    keyframe = real_keyframe(real_data / "nuscenes-one-keyframe")
    torch.manual_seed(0)
    network = Perception(perception_config("uniad-base", behaviour="fixed")).eval()
    inputs = scene_inputs(Scene("scene-0061", (keyframe,)), network.config.behaviour)
    images = read_images(keyframe.image_paths)[None]
    frames = Frames.of(images, FrameInputs.stack(inputs), "cpu")
    began = time.process_time()
    with torch.no_grad():
        output, state = network(frames)
    seconds = time.process_time() - began
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"one frame: {seconds:.0f} CPU s, peak {peak_gib:.1f} GiB")

    assert output.coarsest.shape == (1, 6, 256, 15, 25)
    assert output.bev.shape == (1, 40_000, 256)
    assert torch.isfinite(output.bev).all()
    tokens = output.tokens(0, network.config)
    assert tokens.scene.shape == (90, 256)
    assert tokens.agents.shape[0] <= 300
    assert 1 <= tokens.map.shape[0] <= 101
    for tensor in (tokens.scene, tokens.agents, tokens.map, tokens.agent_boxes):
        assert torch.isfinite(tensor).all()
    assert output.maps[0].masks.shape == (3, 200, 200)
    assert torch.isfinite(state.tracking.tracks.query).all()
    assert peak_gib < 12
