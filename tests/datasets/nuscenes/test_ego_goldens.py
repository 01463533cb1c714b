"""Recorded trajectories and commands against those of ST-P3 and UniAD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, EgoMotion, command
from odvla_bench.geometry import pose_from_quaternion
from odvla_bench.trajectories import UNIAD_BELOW_LIDAR_M

PRESENT = 2
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def sequences(golden: Path) -> Arrays:
    with np.load(golden / "planning/sequences.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def motion(sequences: Arrays) -> EgoMotion:
    """Every sequence as a scene of its own."""
    scene, frame = np.nonzero(np.arange(9) < sequences["n_frames"][:, None])
    pose = sequences["ego_pose"][scene, frame]
    lidar = sequences["lidar2ego_rotation"], sequences["lidar2ego_translation"]
    rotation, translation = (np.broadcast_to(part, (len(scene), len(part))) for part in lidar)
    return EgoMotion(
        scene,
        frame,
        (scene * 100 + frame) * 500_000,
        pose_from_quaternion(pose[:, 3:], pose[:, :3]),
        pose_from_quaternion(rotation, translation),
    )


def at_present(motion: EgoMotion, values: np.ndarray) -> np.ndarray:
    return values[motion.frame_index == PRESENT]


@pytest.mark.golden
def test_st_p3(sequences: Arrays, motion: EgoMotion) -> None:
    complete = sequences["n_frames"] == 9
    expected = sequences["stp3_gt_traj"][complete, 1:]
    xy, valid = (at_present(motion, part)[complete] for part in motion.positions(FUTURE_STEPS))
    assert valid.all()
    np.testing.assert_allclose(xy, expected[..., :2], atol=1e-9)
    turn = at_present(motion, motion.yaw_change(FUTURE_STEPS))[complete]
    off = turn - expected[..., 2]
    np.testing.assert_allclose(np.sin(off), 0, atol=1e-9)
    assert (np.cos(off) > 0).all()
    words = np.array(["RIGHT", "LEFT", "FORWARD"])[command(xy, valid)]
    assert words.tolist() == sequences["stp3_command"][complete].tolist()


@pytest.mark.golden
def test_uniad(sequences: Arrays, motion: EgoMotion) -> None:
    point = (0.0, 0.0, -UNIAD_BELOW_LIDAR_M)
    positions = motion.positions(FUTURE_STEPS, missing="zero", point_lidar_m=point)
    xy, valid = (at_present(motion, part) for part in positions)
    assert np.array_equal(valid[..., None] & np.ones(2, bool), sequences["uniad_sdc_mask"] == 1)
    # The original goes through single-precision coordinates of about a kilometre.
    np.testing.assert_allclose(xy, sequences["uniad_sdc_planning"][..., :2], atol=2e-4)
    assert command(xy, valid).tolist() == sequences["uniad_command"].tolist()
    # It stores headings as -yaw - pi / 2, where straight ahead in LIDAR is yaw = pi / 2, and adds
    # the yaws of four tilted transforms instead of composing them.
    turn = at_present(motion, motion.yaw_change(FUTURE_STEPS))
    off = (-(turn + np.pi / 2) - np.pi / 2 - sequences["uniad_sdc_planning"][..., 2])[valid]
    np.testing.assert_allclose(np.sin(off), 0, atol=1e-3)
    assert (np.cos(off) > 0).all()
