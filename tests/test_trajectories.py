from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.geometry import Pose, pose_from_quaternion, yaw_of
from odvla_bench.trajectories import flat_yaw, planar_motion, to_flat_frame

angles = st.floats(-3.1, 3.1)


def level_pose(yaw: float, x: float, y: float) -> Pose:
    half = yaw / 2
    return pose_from_quaternion(np.array([np.cos(half), 0, 0, np.sin(half)]), np.array([x, y, 0.0]))


@given(angles)
def test_on_a_level_car_the_yaws_agree(yaw: float) -> None:
    rotation = level_pose(yaw, 0, 0).rotation
    np.testing.assert_allclose(flat_yaw(rotation), yaw, atol=1e-12)
    np.testing.assert_allclose(yaw_of(rotation), yaw, atol=1e-12)


@pytest.mark.devkit
def test_on_a_tilted_car_the_flat_yaw_is_that_of_pyquaternion() -> None:
    quaternion = pytest.importorskip("pyquaternion").Quaternion(0.9, 0.1, 0.2, 0.3).normalised
    rotation = pose_from_quaternion(quaternion.elements, np.zeros(3)).rotation
    np.testing.assert_allclose(flat_yaw(rotation), quaternion.yaw_pitch_roll[0])
    assert abs(flat_yaw(rotation) - yaw_of(rotation)) > 0.01


def test_a_flat_frame_by_hand() -> None:
    # A frame at (10, 5) that points north: what lies 2 m north of it is 2 m ahead.
    got = to_flat_frame(np.array([10.0, 7, np.pi / 2]), np.array([10.0, 5]), np.array(np.pi / 2))
    np.testing.assert_allclose(got, [2, 0, 0], atol=1e-12)


def test_planar_motion_by_hand() -> None:
    # From (1, 1) pointing north to (0, 4) pointing west: 3 m ahead, 1 m left, a quarter turn left.
    motion = planar_motion(level_pose(np.pi / 2, 1, 1), level_pose(np.pi, 0, 4))
    np.testing.assert_allclose(motion, [3, 1, np.pi / 2], atol=1e-12)


@pytest.mark.golden
def test_motion_between_keyframes_equals_st_p3(golden: Path) -> None:
    with np.load(golden / "planning/sequences.npz") as s:
        complete = s["n_frames"] == 9
        ego = pose_from_quaternion(s["ego_pose"][complete, :, 3:], s["ego_pose"][complete, :, :3])
        stored = s["stp3_future_egomotion"][complete, :8][..., [0, 1, 5]]
    # It stores the present in the next frame, with poses that went through single precision.
    motion = planar_motion(ego.at(np.s_[:, 1:]), ego.at(np.s_[:, :-1]))
    np.testing.assert_allclose(motion, stored, atol=5e-4)
