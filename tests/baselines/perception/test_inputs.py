from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perception_scenes import keyframe, scene

from odvla_bench.baselines.opendrivevla.perception.config import BEHAVIOURS, CAMERAS
from odvla_bench.baselines.opendrivevla.perception.inputs import (
    FrameInputs,
    Keyframe,
    Scene,
    can_bus_motion,
    global_from_lidar,
    lidar2img,
    scene_inputs,
)
from odvla_bench.errors import InputError
from odvla_bench.geometry import transform_points

RELEASED, FIXED = BEHAVIOURS.get("released"), BEHAVIOURS.get("fixed")


@pytest.fixture
def frame(tmp_path: Path) -> Keyframe:
    return keyframe(tmp_path, "frame", 0, np.random.default_rng(0))


@pytest.fixture
def info(real_data: Path) -> dict:
    """A record as the official converters prepare it."""
    content = json.loads((real_data / "vad-info-sample/output.json").read_text())
    return next(iter(content.values()))


def keyframe_of_info(info: dict) -> Keyframe:
    cameras = [info["cams"][name] for name in CAMERAS]
    return Keyframe(
        sample_token=info["token"],
        timestamp_us=info["timestamp"],
        image_paths=tuple(Path(c["data_path"]) for c in cameras),
        intrinsics=np.array([c["cam_intrinsic"] for c in cameras]),
        camera_rotation_wxyz=np.array([c["sensor2ego_rotation"] for c in cameras]),
        camera_translation_m=np.array([c["sensor2ego_translation"] for c in cameras]),
        camera_ego_rotation_wxyz=np.array([c["ego2global_rotation"] for c in cameras]),
        camera_ego_translation_m=np.array([c["ego2global_translation"] for c in cameras]),
        lidar_rotation_wxyz=np.array(info["lidar2ego_rotation"]),
        lidar_translation_m=np.array(info["lidar2ego_translation"]),
        ego_rotation_wxyz=np.array(info["ego2global_rotation"]),
        ego_translation_m=np.array(info["ego2global_translation"]),
        can_bus=np.array(info["can_bus"]),
    )


@pytest.mark.real
def test_projection_equals_the_official_record(info: dict) -> None:
    ours = lidar2img(keyframe_of_info(info))
    for i, name in enumerate(CAMERAS):
        camera = info["cams"][name]
        lidar_from_camera = np.eye(4)
        lidar_from_camera[:3, :3] = camera["sensor2lidar_rotation"]
        lidar_from_camera[:3, 3] = camera["sensor2lidar_translation"]
        pad = np.eye(4)
        pad[:3, :3] = camera["cam_intrinsic"]
        theirs = pad @ np.linalg.inv(lidar_from_camera)
        np.testing.assert_allclose(ours[i], theirs, rtol=1e-6, atol=1e-3)


@pytest.mark.real
def test_can_bus_vector_of_a_record(info: dict) -> None:
    vector = can_bus_motion(keyframe_of_info(info), None)
    np.testing.assert_allclose(vector[:3], info["ego2global_translation"])
    np.testing.assert_allclose(vector[3:7], info["ego2global_rotation"])
    np.testing.assert_allclose(vector[7:16], info["can_bus"][7:16])
    w, x, y, z = info["ego2global_rotation"]
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)) % (2 * np.pi)
    np.testing.assert_allclose(vector[16:], [yaw, np.rad2deg(yaw)], rtol=1e-5)


def test_a_point_ahead_lies_in_the_middle_of_the_front_camera(frame: Keyframe) -> None:
    # LIDAR: x right, y forward. The camera sits 0.1 m further ahead and 0.3 m lower.
    u, v, depth, _ = lidar2img(frame)[0] @ [0.0, 20.1, -0.3, 1]
    assert depth == pytest.approx(20.0, abs=0.05)
    assert (u / depth, v / depth) == pytest.approx((80, 48), abs=0.2)
    right, _, depth, _ = lidar2img(frame)[0] @ [2.0, 20.1, -0.3, 1]
    assert right / depth == pytest.approx(90, abs=0.2)


def test_motion_carries_points_from_frame_to_frame(tmp_path: Path) -> None:
    before, now = scene(tmp_path, frames=2).keyframes
    inputs = scene_inputs(Scene("s", (before, now)), FIXED)[1]
    point = np.array([1.0, 2.0, 3.0])
    here = inputs.rotation @ point + inputs.translation_m
    np.testing.assert_allclose(
        transform_points(global_from_lidar(now), here),
        transform_points(global_from_lidar(before), point),
    )
    assert inputs.seconds == 0.5


def test_first_frame_of_a_scene(tmp_path: Path) -> None:
    one = scene(tmp_path, frames=2)
    first = one.keyframes[0]
    earlier = replace(first, ego_translation_m=first.ego_translation_m - [7.0, 0, 0])
    fixed = scene_inputs(one, FIXED, earlier)[0].can_bus
    released = scene_inputs(one, RELEASED, earlier)[0].can_bus
    very_first = scene_inputs(one, RELEASED)[0].can_bus
    assert fixed[[0, 1, 2, 17]].tolist() == [0, 0, 0, 0]
    assert released[[0, 1, 2, 17]].tolist() == [7, 0, 0, 0]
    np.testing.assert_allclose(very_first[:3], first.ego_translation_m)
    assert very_first[17] == pytest.approx(np.rad2deg(0.3))
    for inputs in (fixed, released):
        np.testing.assert_allclose(inputs[3:17], very_first[3:17])
    second = scene_inputs(one, RELEASED, earlier)[1].can_bus
    np.testing.assert_allclose(second[[0, 1, 17]], [3, 1.5, np.rad2deg(0.05)])
    np.testing.assert_allclose(second, scene_inputs(one, FIXED)[1].can_bus)


@given(st.floats(-np.pi, np.pi))
@settings(max_examples=50)
def test_heading_is_positive(yaw_rad: float) -> None:
    rotation = np.array([np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)])
    zero = {"can_bus": np.zeros(18), "lidar_translation_m": np.zeros(3)}
    frame = Keyframe(
        sample_token="t",
        timestamp_us=0,
        image_paths=(Path("x"),) * 6,
        intrinsics=np.tile(np.eye(3), (6, 1, 1)),
        camera_rotation_wxyz=np.tile(rotation, (6, 1)),
        camera_translation_m=np.zeros((6, 3)),
        camera_ego_rotation_wxyz=np.tile(rotation, (6, 1)),
        camera_ego_translation_m=np.zeros((6, 3)),
        lidar_rotation_wxyz=rotation,
        ego_rotation_wxyz=rotation,
        ego_translation_m=np.zeros(3),
        **zero,
    )
    heading_rad, heading_deg = can_bus_motion(frame, None)[16:]
    assert 0 <= heading_deg <= 360
    assert np.isclose(np.cos(heading_rad), np.cos(yaw_rad))
    assert np.isclose(np.sin(heading_rad), np.sin(yaw_rad), atol=1e-7)
    assert np.deg2rad(heading_deg) == pytest.approx(heading_rad)


def test_stacking(tmp_path: Path) -> None:
    frames = scene_inputs(scene(tmp_path, frames=2), FIXED)
    both = FrameInputs.stack(frames)
    assert both.lidar2img.shape == (2, 6, 4, 4)
    assert both.seconds.tolist() == [0, 0.5]


def test_faulty_keyframes_are_refused(frame: Keyframe) -> None:
    with pytest.raises(InputError, match=r"frame-0: `can_bus` has shape \(17,\); it must be \(18,"):
        replace(frame, can_bus=np.zeros(17))
    with pytest.raises(InputError, match="values that are not finite"):
        replace(frame, can_bus=np.full(18, np.nan))
    with pytest.raises(InputError, match="has 5 images; give one for each of CAM_FRONT, "):
        replace(frame, image_paths=frame.image_paths[:5])
    with pytest.raises(InputError, match="Scene s has 2 keyframes .* not in strictly rising"):
        Scene("s", (frame, frame))
    with pytest.raises(InputError, match="Scene s has 0 keyframes"):
        Scene("s", ())
