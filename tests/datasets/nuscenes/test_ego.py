"""Ego motion on hand-made paths; the LIDAR sits 1 m ahead of the rear axle, looking forward."""

import json
from pathlib import Path

import numpy as np
import pytest

from odvla_bench.datasets.nuscenes import ego
from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, HISTORY_STEPS, EgoMotion
from odvla_bench.geometry import Pose, compose, invert, pose_from_quaternion, transform_points

MOUNT = np.array([np.sqrt(0.5), 0, 0, -np.sqrt(0.5)])  # EGO y (left) is LIDAR -x


def motion_along(
    xy_yaw: list[tuple[float, float, float]], scene: list[int] | None = None
) -> EgoMotion:
    """Keyframes 0.5 s apart at the given rear-axle poses in GLOBAL."""
    poses = np.array(xy_yaw, float)
    n = len(poses)
    half = poses[:, 2] / 2
    q = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)
    scene_id = np.array(scene if scene is not None else [0] * n)
    frame = np.concatenate([np.arange(np.sum(scene_id == s)) for s in np.unique(scene_id)])
    return EgoMotion(
        scene_id,
        frame,
        1_500_000_000_000_000 + np.arange(n) * 500_000,
        pose_from_quaternion(q, np.concatenate([poses[:, :2], np.zeros((n, 1))], 1)),
        pose_from_quaternion(np.tile(MOUNT, (n, 1)), np.tile([1.0, 0, 1.8], (n, 1))),
    )


def test_driving_east_is_driving_forward() -> None:
    motion = motion_along([(10 + 2 * i, 5, 0) for i in range(12)])
    future, valid = motion.positions(FUTURE_STEPS)
    np.testing.assert_allclose(future[0], [[0, 2 * k] for k in range(1, 7)], atol=1e-9)
    history, was = motion.positions(HISTORY_STEPS)
    np.testing.assert_allclose(history[4], [[0, -8], [0, -6], [0, -4], [0, -2]], atol=1e-9)
    assert valid[0].all()
    assert was[4].all()
    np.testing.assert_array_equal(was[1], [False, False, False, True])


def test_a_left_turn_is_to_negative_x_and_moves_the_lidar_around_the_axle() -> None:
    motion = motion_along([(0, 0, 0), (0, 0, np.pi / 2)])
    future, _ = motion.positions((1,))
    np.testing.assert_allclose(future[0, 0], [-1, -1], atol=1e-9)
    np.testing.assert_allclose(motion.yaw_change((1,))[0, 0], np.pi / 2)
    np.testing.assert_allclose(motion.state.yaw_rate_radps, [0, np.pi], atol=1e-9)


def test_missing_steps_hold_or_are_zero_and_never_cross_scenes() -> None:
    motion = motion_along([(i, 0, 0) for i in range(5)], scene=[0, 0, 0, 7, 7])
    held, valid = motion.positions(FUTURE_STEPS)
    zeroed, _ = motion.positions(FUTURE_STEPS, missing="zero")
    np.testing.assert_array_equal(valid.sum(1), [2, 1, 0, 1, 0])
    np.testing.assert_allclose(held[0, :, 1], [1, 2, 2, 2, 2, 2], atol=1e-9)
    np.testing.assert_allclose(zeroed[0, :, 1], [1, 2, 0, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(held[2], 0, atol=1e-9)
    back, _ = motion.positions(HISTORY_STEPS)
    np.testing.assert_allclose(back[1, :, 1], -1, atol=1e-9)


def test_a_gap_in_the_frames_is_a_missing_step_and_shifts_nothing() -> None:
    whole = motion_along([(i, 0, 0) for i in range(8)])
    keep = np.array([0, 1, 3, 4, 5, 6, 7])
    gappy = EgoMotion(
        whole.scene_id[keep],
        whole.frame_index[keep],
        whole.timestamp_us[keep],
        whole.global_from_ego.at(keep),
        whole.ego_from_lidar.at(keep),
    )
    xy, valid = gappy.positions(FUTURE_STEPS)
    np.testing.assert_array_equal(valid[0], [True, False, True, True, True, True])
    np.testing.assert_allclose(xy[0, :, 1], [1, 1, 3, 4, 5, 6], atol=1e-9)


@pytest.mark.parametrize(
    ("last_x", "n_valid", "expected"),
    [
        pytest.param(2.0, 6, "turn right", id="right at the threshold"),
        pytest.param(1.99, 6, "keep forward", id="just below"),
        pytest.param(-2.0, 6, "turn left", id="left at the threshold"),
        pytest.param(3.0, 2, "turn right", id="last existing step"),
        pytest.param(3.0, 0, "keep forward", id="no future"),
    ],
)
def test_command(last_x: float, n_valid: int, expected: str) -> None:
    xy = np.zeros((1, 6, 2))
    xy[0, max(n_valid - 1, 0), 0] = last_x
    valid = np.arange(6)[None] < n_valid
    assert ego.COMMANDS[ego.command(xy, valid)[0]] == expected


def test_state_is_taken_from_the_past_with_recorded_times() -> None:
    motion = motion_along([(0, 0, 0), (2, 0, 0), (5, 0, 0)])
    later = motion.timestamp_us + np.array([0, 0, 100_000])
    motion = EgoMotion(
        motion.scene_id, motion.frame_index, later, motion.global_from_ego, motion.ego_from_lidar
    )
    state = motion.state
    np.testing.assert_array_equal(state.velocity_valid, [False, True, True])
    np.testing.assert_array_equal(state.acceleration_valid, [False, False, True])
    np.testing.assert_allclose(state.velocity_mps, [[0, 0], [0, 4], [0, 5]], atol=1e-6)
    np.testing.assert_allclose(state.acceleration_mps2[2], [0, 1 / 0.6], atol=1e-6)


def test_released_history_leaks_the_future_on_the_first_keyframe() -> None:
    motion = motion_along([(0, 0, 0), (3, 0, 0), (4, 0, 0), (6, 0, 0)])
    history = ego.released_history(motion)
    np.testing.assert_allclose(history[0, :, 1], [-12, -9, -6, -3, 0], atol=1e-9)
    np.testing.assert_allclose(history[2, :, 1], [-10, -7, -4, -1, 0], atol=1e-9)


def test_released_velocity_points_forward_whatever_the_heading() -> None:
    motion = motion_along([(0, 0, 2.0), (0, 3, 2.0), (0, 7, 2.5)])
    np.testing.assert_allclose(
        ego.released_velocity(motion), [[0, 6, 0], [0, 6, 0], [0, 8, 0]], atol=1e-9
    )


@pytest.mark.real
def test_vad_sample_has_the_same_geometry(real_data: Path) -> None:
    """A real info file's trajectories, carried to GLOBAL and through our geometry, come back.

    The recorded heights are not in the file: the LIDAR is taken to stay as high as at t0.
    """
    (info,) = json.loads((real_data / "vad-info-sample" / "output.json").read_text()).values()
    t0 = Pose(
        *(
            a[None]
            for a in pose_from_quaternion(
                np.array(info["ego2global_rotation"]), np.array(info["ego2global_translation"])
            )
        )
    )
    mount = Pose(
        *(
            a[None]
            for a in pose_from_quaternion(
                np.array(info["lidar2ego_rotation"]), np.array(info["lidar2ego_translation"])
            )
        )
    )
    path = np.concatenate([info["gt_ego_his_trajs"], info["gt_ego_fut_trajs"][1:]])
    lidar = compose(t0, mount)
    # z of each position in the LIDAR frame such that its height in GLOBAL is that of t0
    up = lidar.rotation[0, 2]
    z = -(path @ up[:2]) / up[2]
    places = transform_points(lidar, np.concatenate([path, z[:, None]], 1))
    offset = lidar.translation_m - t0.translation_m
    n = len(path)
    motion = EgoMotion(
        np.zeros(n, int),
        np.arange(n),
        info["timestamp"] + (np.arange(n) - 4) * 500_000,
        Pose(np.repeat(t0.rotation, n, 0), places - offset),
        Pose(np.repeat(mount.rotation, n, 0), np.repeat(mount.translation_m, n, 0)),
    )
    future, valid = motion.positions(FUTURE_STEPS)
    np.testing.assert_allclose(future[4], np.array(info["gt_ego_fut_trajs"])[1:], atol=1e-5)
    np.testing.assert_allclose(ego.released_history(motion)[4], info["gt_ego_his_trajs"], atol=1e-5)
    onehot = np.eye(3)[ego.command(future, valid)[4]]
    np.testing.assert_array_equal(onehot, info["gt_ego_fut_cmd"])
    released = ego.released_velocity(motion)[4]
    np.testing.assert_allclose(released[:2], info["gt_ego_lcf_feat"][:2], atol=2e-3)
    assert invert(t0).translation_m.shape == (1, 3)
