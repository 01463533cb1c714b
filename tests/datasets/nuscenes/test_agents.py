"""Agents on hand-made tracks around an ego that stands at the origin, looking east."""

import json
from pathlib import Path

import numpy as np
import pytest

from odvla_bench.datasets.nuscenes.agents import Agents, to_own_frame
from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS
from odvla_bench.geometry import Pose, compose, pose_from_quaternion, transform_points


def rotation(yaw: np.ndarray) -> np.ndarray:
    c, s, o, i = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    return np.stack([np.stack(r, -1) for r in ((c, -s, o), (s, c, o), (o, o, i))], -2)


def tracks(rows: list[tuple[int, int, float, float, float]], n_frames: int) -> Agents:
    """Annotations (frame, instance, x, y, yaw) in GLOBAL; keyframes 0.5 s apart."""
    frame, instance, x, y, yaw = (np.array(c) for c in zip(*sorted(rows), strict=True))
    lidar = Pose(rotation(np.full(n_frames, -np.pi / 2)), np.zeros((n_frames, 3)))
    place = np.stack([x, y, 0 * x], -1).astype(float)
    heading = rotation(yaw.astype(float))[..., 0]
    times = np.arange(n_frames) * 500_000
    return Agents(frame, instance, place, heading, lidar, np.arange(n_frames), times)


def test_lidar_frame_is_right_and_forward() -> None:
    agents = tracks([(0, 0, 10, 3, 0)], 1)  # 10 m east, 3 m north: ahead and to the left
    np.testing.assert_allclose(agents.centre_m[0], [-3, 10, 0], atol=1e-9)
    np.testing.assert_allclose(agents.yaw_rad, [np.pi / 2])


def test_future_is_aligned_by_keyframe_and_gaps_are_missing() -> None:
    agents = tracks([(f, 5, 10 + f, 0, 0) for f in (0, 1, 3, 4)], 8)
    xy, yaw, _, valid = agents.motion(FUTURE_STEPS)
    np.testing.assert_array_equal(valid[0], [True, False, True, True, False, False])
    np.testing.assert_allclose(
        xy[0], [[0, 11], [0, 0], [0, 13], [0, 14], [0, 0], [0, 0]], atol=1e-9
    )
    np.testing.assert_allclose(yaw[0], np.where(valid[0], np.pi / 2, 0))


def test_devkit_alignment_shifts_over_a_gap() -> None:
    agents = tracks([(f, 5, 10 + f, 0, 0) for f in (0, 1, 3, 4, 8)], 9)
    xy, _, _, valid = agents.motion(FUTURE_STEPS, alignment="devkit")
    np.testing.assert_array_equal(valid[0], [True, True, True, False, False, False])
    np.testing.assert_allclose(xy[0, :3, 1], [11, 13, 14], atol=1e-9)


def test_tracks_do_not_mix() -> None:
    agents = tracks([(0, 1, 1, 0, 0), (0, 2, 2, 0, 0), (1, 2, 3, 0, 0), (1, 9, 4, 0, 0)], 2)
    valid = agents.motion((1,)).valid
    np.testing.assert_array_equal(valid[:, 0], [False, True, False, False])


def test_velocity_is_central_one_sided_or_not_valid() -> None:
    rows = [(0, 0, 0, 0, 0), (1, 0, 1, 0, 0), (2, 0, 4, 0, 0), (0, 1, 5, 5, 0)]
    rows += [(0, 2, 0, 9, 0), (4, 2, 0, 17, 0)]  # neighbours 2 s apart: too far
    agents = tracks(rows, 5)
    velocity, valid = agents.velocity_mps()
    by_track = {
        i: (velocity[agents.instance_id == i], valid[agents.instance_id == i]) for i in range(3)
    }
    np.testing.assert_allclose(by_track[0][0][:, 1], [2, 4, 6], atol=1e-9)  # forward is east
    assert by_track[0][1].all()
    assert not by_track[1][1].any()
    assert not by_track[2][1].any()


def test_own_frame_is_forward_along_the_heading() -> None:
    north = np.array([np.pi / 2])
    right, ahead = to_own_frame(np.array([[0.0], [1]]), np.array([[2.0], [0]]), north)
    np.testing.assert_allclose([right[:, 0], ahead[:, 0]], [[0, 1], [2, 0]], atol=1e-9)


def test_no_annotations_at_all() -> None:
    empty = Agents(
        np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 3)),
        Pose(np.eye(3)[None], np.zeros((1, 3))), np.zeros(1, int), np.zeros(1, int),
    )  # fmt: skip
    xy, yaw, _, valid = empty.motion(FUTURE_STEPS)
    assert xy.shape == (0, 6, 2)
    assert yaw.shape == valid.shape == (0, 6)
    assert empty.velocity_mps()[0].shape == (0, 2)


@pytest.mark.real
def test_vad_sample_has_the_same_boxes(real_data: Path) -> None:
    """A real info file's boxes and futures, carried to GLOBAL and back by our reader's geometry."""
    (info,) = json.loads((real_data / "vad-info-sample" / "output.json").read_text()).values()
    ego, mount = (
        pose_from_quaternion(np.array(info[f"{a}_rotation"]), np.array(info[f"{a}_translation"]))
        for a in ("ego2global", "lidar2ego")
    )
    lidar = compose(ego, mount)
    boxes = np.array(info["gt_boxes"])
    yaw = -boxes[:, 6] - np.pi / 2
    features = np.array(info["gt_agent_lcf_feat"])
    np.testing.assert_allclose(np.exp(1j * yaw), np.exp(1j * features[:, 2]), atol=1e-6)
    steps = np.array(info["gt_agent_fut_trajs"]).reshape(-1, 6, 2)
    mask = np.array(info["gt_agent_fut_masks"]).astype(bool)
    there = boxes[:, None, :2] + np.cumsum(steps, 1)
    rows = [(i, 0, *boxes[i, :3]) for i in range(len(boxes))]
    rows += [
        (i, k + 1, *there[i, k], boxes[i, 2])
        for i in range(len(boxes))
        for k in range(6)
        if mask[i, k]
    ]
    rows.sort(key=lambda row: (row[1], row[0]))
    instance, frame = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    place = transform_points(Pose(*(a[None] for a in lidar)), np.array([r[2:] for r in rows]))
    turn = lidar.rotation @ rotation(yaw[instance])
    agents = Agents(
        frame, instance, place, turn[..., 0],
        Pose(np.repeat(lidar.rotation[None], 7, 0), np.repeat(lidar.translation_m[None], 7, 0)),
        np.arange(7), info["timestamp"] + np.arange(7) * 500_000,
    )  # fmt: skip
    now = frame == 0
    np.testing.assert_allclose(agents.centre_m[now], boxes[:, :3], atol=1e-6)
    np.testing.assert_allclose(np.exp(1j * agents.yaw_rad[now]), np.exp(1j * yaw), atol=1e-6)
    xy, _, _, valid = agents.motion(FUTURE_STEPS)
    np.testing.assert_array_equal(valid[now], mask)
    np.testing.assert_allclose(xy[now][mask], there[mask], atol=1e-5)
    # in GLOBAL the boxes stand upright: their heading needs no more than a yaw
    np.testing.assert_allclose(np.linalg.norm(agents.heading[:, :2], axis=1), 1, atol=5e-3)
