"""Trees as nuscenes-devkit sees them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from factories.nuscenes import HandScene, Track, tree_from, tree_of

from odvla_bench.datasets.nuscenes.synthetic import SyntheticConfig, write_nuscenes
from odvla_bench.datasets.nuscenes.synthetic.town import LOCATIONS

pytestmark = pytest.mark.devkit


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devkit")
    config = SyntheticConfig(n_scenes=2, keyframes=12, can_rate=0.2, blocks=5, empty_scenes=1)
    write_nuscenes(folder, config)
    return folder


def load(root: Path, version: str = "v1.0-mini") -> Any:
    devkit = pytest.importorskip("nuscenes.nuscenes")
    return devkit.NuScenes(version, str(root), verbose=False)


@pytest.fixture(scope="module")
def nusc(root: Path) -> Any:
    return load(root)


def test_all_samples_load(nusc: Any) -> None:
    walked = 0
    for scene in nusc.scene[:1] + nusc.scene[2:]:
        token = scene["first_sample_token"]
        while token and token in nusc._token2ind["sample"]:
            sample = nusc.get("sample", token)
            assert len(sample["data"]) == 12
            boxes = nusc.get_boxes(sample["data"]["LIDAR_TOP"])
            assert {box.token for box in boxes} == set(sample["anns"])
            token, walked = sample["next"], walked + 1
    assert walked in (12, 24)


def test_boxes_between_keyframes_and_velocities(nusc: Any) -> None:
    sweep = nusc.get("sample_data", nusc.sample[3]["data"]["LIDAR_TOP"])["next"]
    assert not nusc.get("sample_data", sweep)["is_key_frame"]
    assert nusc.get_boxes(sweep)
    speed = [np.linalg.norm(nusc.box_velocity(a["token"])) for a in nusc.sample_annotation]
    assert np.nanmax(speed) < 25
    assert np.isnan(speed).mean() < 0.1
    assert (np.array(speed) > 2).any()


@pytest.fixture(scope="module")
def maps(root: Path) -> dict[str, Any]:
    api = pytest.importorskip("nuscenes.map_expansion.map_api")
    return {location: api.NuScenesMap(str(root), location) for location in LOCATIONS}


def test_map_geometry_is_valid(maps: dict[str, Any]) -> None:
    for town in maps.values():
        assert all(town.extract_polygon(p["token"]).is_valid for p in town.polygon)
        assert all(town.extract_line(line["token"]).is_valid for line in town.line)
        records = town.get_records_in_patch([0, 0, *town.canvas_edge], mode="within")
        assert len(records["lane"]) == len(town.lane) > 100
        for layer in town.non_geometric_layers:
            assert getattr(town, layer), layer


def test_the_car_drives_on_the_road(nusc: Any, maps: dict[str, Any]) -> None:
    for sample in nusc.sample:
        scene = nusc.get("scene", sample["scene_token"])
        town = maps[nusc.get("log", scene["log_token"])["location"]]
        data = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        x, y, _ = nusc.get("ego_pose", data["ego_pose_token"])["translation"]
        assert town.record_on_point(x, y, "drivable_area")
        assert town.record_on_point(x, y, "road_segment")


def test_lane_centres_join_and_stay_in_their_lane(maps: dict[str, Any]) -> None:
    for town in maps.values():
        ends = {}
        for lane in town.lane[::9] + town.lane_connector[::9]:
            path = np.array(town.discretize_lanes([lane["token"]], 1.0)[lane["token"]])
            outline = town.extract_polygon(lane["polygon_token"]).buffer(0.4)
            assert shapely.covers(outline, shapely.points(path[:, :2])).all()
            ends[lane["token"]] = path
        for token, path in ends.items():
            for after in town.get_outgoing_lane_ids(token):
                start = np.array(town.arcline_path_3[after][0]["start_pose"])
                assert np.linalg.norm(start[:2] - path[-1, :2]) < 0.3
                assert abs(math.remainder(start[2] - path[-1, 2], 2 * math.pi)) < 0.1
                assert token in town.get_incoming_lane_ids(after)


def test_can_bus_loads(root: Path, nusc: Any) -> None:
    api = pytest.importorskip("nuscenes.can_bus.can_bus_api")
    bus = api.NuScenesCanBus(str(root))
    for message in bus.can_messages:
        assert bus.get_messages("scene-0061", message)


def test_a_tree_by_hand(tmp_path: Path) -> None:
    """The car drives north 4 m a keyframe; a car 10 m ahead of it drives off at twice the speed."""
    boxes = [Track({0: (100, 210, math.pi / 2), 1: (100, 218, math.pi / 2), 3: (100, 234, 0.0)})]
    ego = [(100.0, 200.0 + 4 * k, math.pi / 2) for k in range(4)]
    nusc = load(tree_from(tmp_path, ego, boxes, name="scene-0061"))
    assert len(nusc.sample) == 4
    first, second, last = nusc.sample_annotation
    assert (first["next"], second["next"], last["next"]) == (second["token"], last["token"], "")
    assert nusc.box_velocity(first["token"])[:2] == pytest.approx([0, 16])
    assert nusc.box_velocity(second["token"])[:2] == pytest.approx([0, 16])  # over 1.5 s
    _, (box,), _ = nusc.get_sample_data(nusc.sample[0]["data"]["LIDAR_TOP"])
    assert box.center == pytest.approx([0, 10 - 0.943713, 0.75 - 1.84023])
    assert box.wlh == pytest.approx([2, 4, 1.5])
    assert box.orientation.yaw_pitch_roll[0] == pytest.approx(math.pi / 2)


def test_trees_by_hand_hold_several_scenes(tmp_path: Path) -> None:
    scenes = [
        HandScene([(0.0, 0.0, 0.0), (5.0, 0.0, 0.0)], keyframe_us=[10_000_000, 10_600_000]),
        HandScene([(0.0, 0.0, 0.0)] * 3, [Track({1: (3.0, 4.0, 1.0)}, visibility=0)], "scene-0061"),
    ]
    root = tree_of(tmp_path, scenes, sweeps=True, can_bus=True)
    nusc = load(root)
    assert [s["nbr_samples"] for s in nusc.scene] == [2, 3]
    assert [s["timestamp"] for s in nusc.sample[:2]] == [10_000_000, 10_600_000]
    assert nusc.sample_annotation[0]["visibility_token"] == ""
    pose = json.loads((root / "can_bus/scene-0103_pose.json").read_text())
    assert pose[15]["vel"][0] == pytest.approx(5 / 0.6, abs=0.1)
