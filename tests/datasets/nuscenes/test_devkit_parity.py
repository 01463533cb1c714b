"""The reader beside nuscenes-devkit: poses, boxes, futures, pasts, velocities."""

from pathlib import Path

import numpy as np
import pytest

from odvla_bench.datasets.nuscenes.agents import Agents
from odvla_bench.datasets.nuscenes.can_bus import load_can_bus
from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, HISTORY_STEPS, EgoMotion
from odvla_bench.datasets.nuscenes.synthetic import AgentOptions, SyntheticConfig, write_nuscenes
from odvla_bench.datasets.nuscenes.tables import NuScenesTables, load_tables
from odvla_bench.provenance import default_cache_dir

devkit = pytest.importorskip("nuscenes.nuscenes")
pytestmark = pytest.mark.devkit


@pytest.fixture(scope="module", params=["synthetic", "real"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The devkit's object and our tables of the same root."""
    if request.param == "real":
        root = request.getfixturevalue("real_data") / "nuscenes-mini-val"
    else:
        root = tmp_path_factory.mktemp("parity")
        agents = AgentOptions(gap_share=0.3)
        write_nuscenes(root, SyntheticConfig(n_scenes=2, keyframes=16, sweeps=False, agents=agents))
    nusc = devkit.NuScenes("v1.0-mini", str(root), verbose=False)
    return nusc, load_tables(root, "v1.0-mini")


def records(tables: NuScenesTables) -> tuple[EgoMotion, Agents]:
    motion = EgoMotion.from_samples(tables.samples)
    return motion, Agents.from_tables(tables.annotations, tables.samples, motion.global_from_lidar)


def test_ego_positions(pair) -> None:
    nusc, tables = pair
    from pyquaternion import Quaternion

    def lidar_pose(sample):
        data = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = nusc.get("ego_pose", data["ego_pose_token"])
        sensor = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
        turn = Quaternion(ego["rotation"])
        place = turn.rotate(np.array(sensor["translation"])) + ego["translation"]
        return place, turn * Quaternion(sensor["rotation"])

    future, valid = EgoMotion.from_samples(tables.samples).positions(FUTURE_STEPS, missing="zero")
    for row, token in enumerate(tables.samples["token"].to_pylist()):
        sample = nusc.get("sample", token)
        place, turn = lidar_pose(sample)
        for k in range(6):
            assert valid[row, k] == bool(sample["next"])
            if not sample["next"]:
                np.testing.assert_array_equal(future[row, k:], 0)
                break
            sample = nusc.get("sample", sample["next"])
            expected = turn.inverse.rotate(lidar_pose(sample)[0] - place)[:2]
            np.testing.assert_allclose(future[row, k], expected, atol=1e-5)


def test_boxes_and_velocities(pair) -> None:
    nusc, tables = pair
    _, agents = records(tables)
    velocity, valid = agents.velocity_mps()
    tokens = tables.annotations["token"].to_pylist()
    rows = {token: i for i, token in enumerate(tokens)}
    seen = 0
    for token in tables.samples["token"].to_pylist():
        data = nusc.get("sample", token)["data"]["LIDAR_TOP"]
        _, boxes, _ = nusc.get_sample_data(data)
        turn = agents.lidar_from_global.rotation
        for box in boxes:
            i = rows[box.token]
            np.testing.assert_allclose(agents.centre_m[i], box.center, atol=1e-5)
            heading = box.rotation_matrix[:2, 0]
            expected = np.arctan2(heading[1], heading[0])
            assert abs(np.angle(np.exp(1j * (agents.yaw_rad[i] - expected)))) < 1e-5
            theirs = nusc.box_velocity(box.token)
            assert valid[i] == np.isfinite(theirs).all()
            if valid[i]:
                np.testing.assert_allclose(velocity[i], (turn[i] @ theirs)[:2], atol=1e-5)
            seen += 1
    assert seen == len(tokens)


def test_agent_futures_and_pasts(pair) -> None:
    nusc, tables = pair
    from nuscenes.prediction import PredictHelper

    helper = PredictHelper(nusc)
    _, agents = records(tables)
    samples = tables.samples["token"].to_pylist()
    instances = tables.instances["token"].to_pylist()
    directions = (
        (FUTURE_STEPS, helper.get_future_for_agent, 3),
        (HISTORY_STEPS, helper.get_past_for_agent, 2),
    )
    for steps, query, seconds in directions:
        _, _, own, valid = agents.motion(steps, alignment="devkit")
        order = slice(None) if steps[0] > 0 else slice(None, None, -1)
        for i in np.random.default_rng(0).permutation(len(own))[:300]:
            token = instances[agents.instance_id[i]]
            theirs = query(token, samples[agents.sample[i]], seconds, True)
            mine = own[i][valid[i]][order]
            assert len(mine) == len(theirs)
            if len(mine):
                np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_can_bus_messages(tmp_path: Path) -> None:
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus

    write_nuscenes(tmp_path, SyntheticConfig(n_scenes=2, keyframes=4, sweeps=False))
    tables = load_tables(tmp_path, "v1.0-mini")
    bus = load_can_bus(tmp_path, tables.scenes, default_cache_dir())
    api = NuScenesCanBus(dataroot=str(tmp_path))
    for scene_id, name in enumerate(tables.scenes["name"].to_pylist()):
        theirs = [m["accel"][1] for m in api.get_messages(name, "pose")]
        mine = bus.pose.values(
            "accel_1", np.flatnonzero(bus.pose.table["scene_id"].to_numpy() == scene_id)
        )
        np.testing.assert_array_equal(mine, theirs)
