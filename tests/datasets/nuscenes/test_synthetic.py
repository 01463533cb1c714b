import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from factories.nuscenes import make_tree, tree_from
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.datasets.nuscenes.splits import scenes_of
from odvla_bench.datasets.nuscenes.synthetic import (
    AgentOptions,
    SyntheticConfig,
    scene_records,
    write_nuscenes,
)
from odvla_bench.datasets.nuscenes.synthetic.agents import EGO_CENTER_AHEAD_M, EGO_SIZE_M
from odvla_bench.datasets.nuscenes.synthetic.can_bus import CAN_MESSAGES
from odvla_bench.datasets.nuscenes.synthetic.catalogue import CATEGORIES, SENSORS
from odvla_bench.datasets.nuscenes.synthetic.generate import keyframe_count, scene_names
from odvla_bench.datasets.nuscenes.synthetic.records import SceneRecord, quaternion_wxyz
from odvla_bench.errors import InputError, OdvlaError, UnknownNameError
from odvla_bench.geometry import box_corners, rotation_from_quaternion, yaw_of
from odvla_bench.provenance import digest_file

Rows = list[dict[str, Any]]


def tables(root: Path, version: str = "v1.0-mini") -> dict[str, Rows]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((root / version).glob("*.json"))}


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): digest_file(p) for p in sorted(root.rglob("*.*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole scenes with sweeps, CAN bus and maps, one more only listed."""
    root = tmp_path_factory.mktemp("tree")
    write_nuscenes(
        root, SyntheticConfig(n_scenes=2, seed=3, empty_scenes=1, can_rate=0.5, blocks=4)
    )
    return root


@pytest.fixture(scope="module")
def rows(tree: Path) -> dict[str, Rows]:
    return tables(tree)


@pytest.fixture(scope="module")
def records() -> list[SceneRecord]:
    return list(scene_records(SyntheticConfig(version="v1.0-trainval", n_scenes=25, seed=5)))


def test_same_config_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"scenes": 2, "keyframes": 4, "can_bus": True, "maps": True}
    options |= {"blocks": 3, "image_size": (64, 36), "sweeps": True}
    first = digests(make_tree(tmp_path / "a", **options))
    assert first == digests(make_tree(tmp_path / "b", **options))
    other = digests(make_tree(tmp_path / "c", **options, seed=1))
    assert first["v1.0-mini/sample_annotation.json"] != other["v1.0-mini/sample_annotation.json"]


def test_a_scene_does_not_depend_on_the_others(tmp_path: Path) -> None:
    few = tables(make_tree(tmp_path / "few", 2, keyframes=5))
    many = tables(make_tree(tmp_path / "many", 5, keyframes=5, sweeps=True))
    shared = {s["token"] for s in few["scene"]} & {s["token"] for s in many["scene"]}
    assert len(shared) == 2
    for name in ("sample", "sample_annotation", "instance"):
        assert all(row in many[name] for row in few[name])
    keyframes = {(d["filename"], d["sample_token"]) for d in many["sample_data"]}
    assert {(d["filename"], d["sample_token"]) for d in few["sample_data"]} <= keyframes


def test_keyframes_add_up_to_the_real_numbers() -> None:
    real = {"train": 28_130, "val": 6_019, "test": 6_008}
    for split, total in real.items():
        assert sum(keyframe_count(name, seed=9) for name in scenes_of(split)) == total


def test_summary_counts_rows(tmp_path: Path) -> None:
    config = SyntheticConfig(n_scenes=3, maps=False, can_bus=False, sweeps=False, keyframes=6)
    summary = write_nuscenes(tmp_path, config)
    assert summary.rows == {name: len(table) for name, table in tables(tmp_path).items()}
    assert summary.rows["sample"] == 18
    assert summary.rows["sample_data"] == summary.rows["ego_pose"] == 18 * 12
    assert summary.rows["calibrated_sensor"] == 3 * 12
    assert summary.scenes == ("scene-0061", "scene-0103", "scene-0796")


def test_density_is_like_trainval(records: list[SceneRecord]) -> None:
    frames = sum(len(r.keyframe_us) for r in records)
    boxes = [r.boxes for r in records if r.boxes is not None]
    a_frame = sum(len(b.keyframe) for b in boxes) / frames
    a_track = sum(len(b.keyframe) for b in boxes) / sum(len(b.category) for b in boxes)
    assert 28 < a_frame < 40  # 34.2; scenes differ by 40 %
    assert 15 < a_track < 21  # 18.1
    names = Counter(b.category[t] for b in boxes for t in b.track)
    assert 0.3 < names["vehicle.car"] / names.total() < 0.5
    assert 0.1 < names["human.pedestrian.adult"] / names.total() < 0.3


@pytest.mark.parametrize(
    ("table", "group"),
    [("sample", "scene_token"), ("sample_annotation", "instance_token"), ("sample_data", "")],
)
def test_chains_run_through_time(rows: dict[str, Rows], table: str, group: str) -> None:
    time = {s["token"]: s["timestamp"] for s in rows["sample"]}
    chains: dict[str, Rows] = defaultdict(list)
    for row in rows[table]:
        chains[row[group] if group else row["calibrated_sensor_token"]].append(row)
    for chain in chains.values():
        chain.sort(key=lambda r: r.get("timestamp") or time[r["sample_token"]])
        tokens = [row["token"] for row in chain]
        assert [row["prev"] for row in chain] == ["", *tokens[:-1]]
        assert [row["next"] for row in chain] == [*tokens[1:], ""]


def test_scene_and_instance_ends(rows: dict[str, Rows]) -> None:
    samples = {s["token"]: s for s in rows["sample"]}
    full = [s for s in rows["scene"] if s["first_sample_token"] in samples]
    assert len(rows["scene"]) == len(full) + 1 == 3
    for scene in full:
        assert samples[scene["first_sample_token"]]["prev"] == ""
        assert samples[scene["last_sample_token"]]["next"] == ""
        owned = [s for s in rows["sample"] if s["scene_token"] == scene["token"]]
        assert len(owned) == scene["nbr_samples"]
    boxes = {a["token"]: a for a in rows["sample_annotation"]}
    count = Counter(a["instance_token"] for a in rows["sample_annotation"])
    for instance in rows["instance"]:
        assert boxes[instance["first_annotation_token"]]["prev"] == ""
        assert boxes[instance["last_annotation_token"]]["next"] == ""
        assert instance["nbr_annotations"] == count[instance["token"]] > 0


def test_every_reference_exists_and_tokens_are_unique(rows: dict[str, Rows]) -> None:
    known = {name: {row["token"] for row in table} for name, table in rows.items()}
    for name, table in rows.items():
        assert len(known[name]) == len(table)
    for name, column, target in [
        ("scene", "log_token", "log"),
        ("sample", "scene_token", "scene"),
        ("sample_data", "sample_token", "sample"),
        ("sample_data", "ego_pose_token", "ego_pose"),
        ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
        ("calibrated_sensor", "sensor_token", "sensor"),
        ("instance", "category_token", "category"),
        ("sample_annotation", "sample_token", "sample"),
        ("sample_annotation", "instance_token", "instance"),
        ("sample_annotation", "visibility_token", "visibility"),
    ]:
        assert {row[column] for row in rows[name]} <= known[target], (name, column)
    attributes = {t for a in rows["sample_annotation"] for t in a["attribute_tokens"]}
    assert attributes <= known["attribute"]
    logs = [token for m in rows["map"] for token in m["log_tokens"]]
    assert sorted(logs) == sorted(known["log"])


def test_sensors_of_keyframes_and_sweeps(rows: dict[str, Rows]) -> None:
    channel_of = {s["token"]: s["channel"] for s in rows["sensor"]}
    mounted = {c["token"]: channel_of[c["sensor_token"]] for c in rows["calibrated_sensor"]}
    samples = {s["token"]: s["timestamp"] for s in rows["sample"]}
    seen: dict[str, list[str]] = defaultdict(list)
    span_s = (
        sum(
            samples[s["last_sample_token"]] - samples[s["first_sample_token"]]
            for s in rows["scene"]
            if s["first_sample_token"] in samples
        )
        / 1e6
    )
    count: Counter[str] = Counter()
    for data in rows["sample_data"]:
        channel, late_us = mounted[data["calibrated_sensor_token"]], samples[data["sample_token"]]
        late_us -= data["timestamp"]
        count[channel] += 1
        assert f"/{channel}/" in data["filename"]
        assert str(data["timestamp"]) in data["filename"]
        if data["is_key_frame"]:
            seen[data["sample_token"]].append(channel)
            assert -60_000 < late_us < 60_000
            assert data["filename"].startswith("samples/")
        else:  # filed under the keyframe that follows
            assert -30_000 < late_us < 600_000
            assert data["filename"].startswith("sweeps/")
    assert all(sorted(c) == sorted(s.channel for s in SENSORS) for c in seen.values())
    assert set(seen) == set(samples)
    rate = {channel: round(n / span_s) for channel, n in count.items()}
    assert (rate["LIDAR_TOP"], rate["CAM_FRONT"], rate["RADAR_FRONT"]) == (20, 12, 13)
    assert 74 < len(rows["sample_data"]) / len(samples) < 79  # 77 in trainval


def test_lidar_is_mounted_as_on_the_real_cars(rows: dict[str, Rows]) -> None:
    lidar = next(s["token"] for s in rows["sensor"] if s["channel"] == "LIDAR_TOP")
    mounts = [c for c in rows["calibrated_sensor"] if c["sensor_token"] == lidar]
    assert [m["translation"][0] for m in mounts] == [0.943713, 0.985793]  # Singapore, Boston
    for mount in mounts:
        rotation = rotation_from_quaternion(np.array(mount["rotation"]))
        np.testing.assert_allclose(rotation[:, 1], [1, 0, 0], atol=0.03)  # y looks ahead


def test_cameras_look_where_they_should(rows: dict[str, Rows]) -> None:
    channel = {s["token"]: s["channel"] for s in rows["sensor"]}
    ahead = {"CAM_FRONT": 0, "CAM_FRONT_LEFT": 55, "CAM_BACK_LEFT": 109, "CAM_BACK_RIGHT": -110}
    checked = 0
    for mount in rows["calibrated_sensor"]:
        if channel[mount["sensor_token"]] in ahead:
            rotation = rotation_from_quaternion(np.array(mount["rotation"]))
            yaw = np.degrees(np.arctan2(rotation[1, 2], rotation[0, 2]))
            assert abs(yaw - ahead[channel[mount["sensor_token"]]]) < 2
            np.testing.assert_allclose(rotation[:, 1], [0, 0, -1], atol=1e-3)  # y looks down
            checked += 1
    assert checked == 8


def test_the_ego_car_moves_smoothly(records: list[SceneRecord]) -> None:
    turned = waited = 0
    for record in records:
        time_us = np.arange(record.keyframe_us[0] - 200_000, record.keyframe_us[-1], 50_000)
        poses = record.ego_at(time_us)
        assert (poses.translation_m[:, 2] == 0).all()
        rotation = rotation_from_quaternion(poses.rotation_wxyz)
        assert 0 < np.abs(rotation[:, 2, :2]).max() < 0.03  # a little roll and pitch
        yaw = np.unwrap(yaw_of(rotation))
        step = np.diff(poses.translation_m[:, :2], axis=0)
        speed = np.linalg.norm(step, axis=1) / 0.05
        assert speed.max() < 20
        assert np.abs(np.diff(speed)).max() / 0.05 < 5
        assert np.abs(np.diff(yaw)).max() / 0.05 < 1
        moving = speed > 1
        course = np.arctan2(step[:, 1], step[:, 0]) - yaw[1:]
        assert np.abs(np.sin(course[moving])).max(initial=0) < 0.05
        turned += np.ptp(yaw) > 1
        waited += speed.min() < 0.1
    assert 5 < turned < 24
    assert 2 < waited < 20


def test_no_box_touches_the_ego_car(records: list[SceneRecord]) -> None:
    for record in records:
        boxes, poses = record.boxes, record.ego_at(record.keyframe_us)
        assert boxes is not None
        yaw = yaw_of(rotation_from_quaternion(poses.rotation_wxyz))
        ahead = np.stack([np.cos(yaw), np.sin(yaw)], -1) * EGO_CENTER_AHEAD_M
        width, length = (np.full(len(yaw), side) for side in EGO_SIZE_M)
        ego = shapely.polygons(box_corners(poses.translation_m[:, :2] + ahead, yaw, length, width))
        size = boxes.size_m[boxes.track]
        other = box_corners(boxes.center_m[:, :2], boxes.yaw_rad, size[:, 1], size[:, 0])
        assert not shapely.intersects(ego[boxes.keyframe], shapely.polygons(other)).any()


def test_labels_fit_the_class(records: list[SceneRecord]) -> None:
    prefix = {"vehicle": "vehicle.", "cycle": "cycle.", "human": "pedestrian.", "object": ""}
    kind = {category.name: category.kind for category in CATEGORIES}
    seen: set[str] = set()
    for record in records:
        boxes = record.boxes
        assert boxes is not None
        for track, attribute in zip(boxes.track, boxes.attribute, strict=True):
            expected = prefix[kind[boxes.category[track]]]
            assert attribute.startswith(expected)
            assert bool(attribute) == bool(expected)
            seen.add(attribute)
        assert set(boxes.visibility) <= {1, 2, 3, 4}
        assert 0 in boxes.num_lidar_pts
    assert len(seen) == 9


def test_moving_attribute_means_motion(records: list[SceneRecord]) -> None:
    for record in records[:8]:
        boxes = record.boxes
        assert boxes is not None
        for track in range(len(boxes.category)):
            mine = boxes.track == track
            names = {a for a, m in zip(boxes.attribute, mine, strict=True) if m}
            if names == {"vehicle.parked"}:
                assert np.ptp(boxes.center_m[mine], axis=0).max() == 0
            if names == {"vehicle.moving"} and mine.sum() > 1:
                assert np.ptp(boxes.center_m[mine], axis=0).max() > 0.1


@pytest.mark.parametrize(("share", "some"), [(0.0, False), (0.5, True)], ids=["none", "half"])
def test_gaps_in_tracks(share: float, some: bool) -> None:
    agents = AgentOptions(gap_share=share)
    (record,) = scene_records(SyntheticConfig(n_scenes=1, agents=agents))
    assert record.boxes is not None
    gaps = [
        np.diff(record.boxes.keyframe[record.boxes.track == t]).max(initial=1) > 1
        for t in range(len(record.boxes.category))
    ]
    assert any(gaps) == some


def test_cut_tracks_end_in_view() -> None:
    def mean_length(share: float) -> float:
        agents = AgentOptions(cut_share=share)
        config = SyntheticConfig(n_scenes=6, agents=agents)
        boxes = [r.boxes for r in scene_records(config)]
        return float(np.mean([len(b.keyframe) / len(b.category) for b in boxes if b]))

    assert mean_length(1.0) < 0.75 * mean_length(0.0)


def test_no_agents(tmp_path: Path) -> None:
    empty = tables(make_tree(tmp_path, 1, keyframes=3, agents=AgentOptions(per_keyframe=0)))
    assert empty["sample_annotation"] == empty["instance"] == []
    assert len(empty["sample"]) == 3


def test_the_test_set_has_no_boxes(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 2, version="v1.0-test", keyframes=3)
    test = tables(root, "v1.0-test")
    assert test["sample_annotation"] == test["instance"] == []
    assert {s["name"] for s in test["scene"]} <= set(scenes_of("test"))
    assert len(test["category"]) == 23


@pytest.mark.parametrize(
    ("count", "share", "val"),
    [(2, None, 1), (20, None, 4), (850, None, 150), (10, 0.5, 5), (10, 0.0, 0), (160, 1.0, 150)],
)
def test_val_share(count: int, share: float | None, val: int) -> None:
    config = SyntheticConfig(version="v1.0-trainval", n_scenes=count, val_share=share)
    names, _ = scene_names(config)
    assert len(names) == len(set(names)) == count
    assert len(set(names) & set(scenes_of("val"))) == val


def test_lidarseg_categories(tmp_path: Path) -> None:
    category = tables(make_tree(tmp_path, 1, keyframes=2, lidarseg=True))["category"]
    assert [row["index"] for row in category] == list(range(32))
    assert {c.name for c in CATEGORIES} < {row["name"] for row in category}


def test_pictures(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 1, keyframes=2, image_size=(160, 90))
    made = tables(root)
    pictures = [d for d in made["sample_data"] if d["fileformat"] == "jpg"]
    assert len(pictures) == 12
    for data in pictures:
        picture = cv2.imread(str(root / data["filename"]))
        assert picture.shape == (90, 160, 3) == (data["height"], data["width"], 3)
        assert picture.std() > 10
    focal = {
        c["camera_intrinsic"][0][0] for c in made["calibrated_sensor"] if c["camera_intrinsic"]
    }
    assert min(focal) == pytest.approx(80.9)  # a tenth of the back camera's


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_scenes": 11}, InputError, "v1.0-mini has 10 scenes"),
        ({"n_scenes": 0}, InputError, "ask for 1 to 10"),
        ({"version": "v1.0-minii"}, UnknownNameError, "Did you mean 'v1.0-mini'"),
        ({"keyframes": 1}, InputError, "keyframes must be 2 or more"),
        ({"blocks": 2}, InputError, "blocks must be 3"),
        ({"can_messages": ("poses",)}, InputError, "can_messages must be of ms_imu, pose"),
        ({"can_rate": 0.0}, InputError, "can_rate"),
        ({"val_share": 1.5}, InputError, "val_share"),
        ({"image_size": (8, 8)}, InputError, "image_size"),
        ({"agents": AgentOptions(per_keyframe=-1)}, InputError, "per_keyframe"),
    ],
)
def test_bad_options_are_told_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], error: type[OdvlaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_nuscenes(tmp_path / "out", SyntheticConfig(**options))
    assert not (tmp_path / "out").exists()


def test_can_bus_agrees_with_the_poses(tree: Path, rows: dict[str, Rows]) -> None:
    names = {s["token"]: s["name"] for s in rows["scene"]}
    scene_of = {s["token"]: names[s["scene_token"]] for s in rows["sample"]}
    poses = {p["token"]: p for p in rows["ego_pose"]}
    lidar = [d for d in rows["sample_data"] if "LIDAR_TOP" in d["filename"]]
    for scene in sorted(set(scene_of.values())):
        can = json.loads((tree / f"can_bus/{scene}_pose.json").read_text())
        utime = np.array([m["utime"] for m in can])
        assert 24 < 1e6 / np.diff(utime).mean() < 26  # half of 50 Hz
        mine = [d for d in lidar if scene_of[d["sample_token"]] == scene]
        times = np.array([d["timestamp"] for d in mine])
        inside = (times > utime[0]) & (times < utime[-1])
        ego = np.array([poses[d["ego_pose_token"]]["translation"] for d in mine])
        for axis in range(2):
            can_axis = np.interp(times, utime, [m["pos"][axis] for m in can])
            assert np.abs(can_axis - ego[:, axis])[inside].max() < 0.03
        speed = np.linalg.norm(np.gradient(ego[:, :2], times / 1e6, axis=0), axis=1)
        can_speed = np.interp(times, utime, [m["vel"][0] for m in can])
        assert np.abs(can_speed - speed)[inside].max() < 0.3


def test_steering_and_monitor_agree_with_the_turn(tree: Path) -> None:
    for path in (tree / "can_bus").glob("*_vehicle_monitor.json"):
        monitor = json.loads(path.read_text())
        steering = json.loads(
            path.with_name(path.name.replace("vehicle_monitor", "steeranglefeedback")).read_text()
        )
        wheel = np.interp(
            [m["utime"] for m in monitor],
            [m["utime"] for m in steering],
            [m["value"] for m in steering],
        )
        np.testing.assert_allclose(np.radians([m["steering"] for m in monitor]), wheel, atol=0.2)
        for m in monitor:  # a bicycle model with a wheelbase of 2.588 m and a ratio of 16
            if m["vehicle_speed"] > 10:
                curvature = np.tan(np.radians(m["steering"]) / 16) / 2.588
                yaw_rate = np.degrees(curvature * m["vehicle_speed"] / 3.6)
                assert abs(yaw_rate - m["yaw_rate"]) < 2.5


@pytest.mark.parametrize(
    ("scene", "missing"),
    [("scene-0161", set(CAN_MESSAGES)), ("scene-0419", {"vehicle_monitor"}), ("scene-0420", set())],
)
def test_scenes_known_to_lack_can_data(tmp_path: Path, scene: str, missing: set[str]) -> None:
    root = tree_from(tmp_path, [(0, 0, 0), (1, 0, 0)], name=scene, can_bus=True)
    written = {p.stem.removeprefix(f"{scene}_") for p in (root / "can_bus").iterdir()}
    assert written == set(CAN_MESSAGES) - missing


def _shape(value: Any) -> Any:
    """Types all the way down; lists of equal items by length."""
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return type(value).__name__


LISTS_THAT_MAY_BE_EMPTY = {
    "attribute_tokens": "str",
    "log_tokens": "str",
    "camera_intrinsic": ["float"] * 3,
}


@pytest.mark.real
@pytest.mark.parametrize(
    "table",
    [
        "nuscenes-mini-val/v1.0-mini/ego_pose",
        "nuscenes-mini-val/v1.0-mini/instance",
        "nuscenes-mini-val/v1.0-mini/sample",
        "nuscenes-mini-val/v1.0-mini/sample_annotation",
        "nuscenes-mini-val/v1.0-mini/sample_data",
        "nuscenes-trainval-small-tables/attribute",
        "nuscenes-trainval-small-tables/calibrated_sensor",
        "nuscenes-trainval-small-tables/log",
        "nuscenes-trainval-small-tables/map",
        "nuscenes-trainval-small-tables/scene",
        "nuscenes-trainval-small-tables/sensor",
        "nuscenes-trainval-small-tables/visibility",
        "nuscenes-one-keyframe/v1.0-test/category",
    ],
)
def test_fields_are_the_real_ones(rows: dict[str, Rows], real_data: Path, table: str) -> None:
    real = json.loads((real_data / f"{table}.json").read_text())
    ours = rows[table.rsplit("/", 1)[1]]
    assert {tuple(row) for row in ours} == {tuple(real[0])}
    for field in real[0]:
        shapes = [_shape(row[field]) for row in (*ours, *real)]
        if field in LISTS_THAT_MAY_BE_EMPTY:
            assert all(item == LISTS_THAT_MAY_BE_EMPTY[field] for s in shapes for item in s)
        else:
            assert all(shape == shapes[-1] for shape in shapes)


@pytest.mark.real
@pytest.mark.parametrize("table", ["sensor", "visibility", "attribute", "category"])
def test_vocabulary_is_the_real_one(rows: dict[str, Rows], real_data: Path, table: str) -> None:
    folder = real_data / "nuscenes-one-keyframe/v1.0-test"
    real = json.loads((folder / f"{table}.json").read_text())
    name = {"sensor": "channel", "visibility": "level"}.get(table, "name")
    assert {row[name] for row in rows[table]} == {row[name] for row in real}


@pytest.mark.real
@pytest.mark.parametrize(
    ("message", "excerpt"),
    [("pose", "scene-0061_pose.first6"), ("vehicle_monitor", "scene-0061_vehicle_monitor")],
)
def test_can_messages_are_the_real_ones(
    tree: Path, real_data: Path, message: str, excerpt: str
) -> None:
    real = json.loads((real_data / f"can-bus-excerpt/{excerpt}.json").read_text())
    ours = json.loads((tree / f"can_bus/scene-0061_{message}.json").read_text())
    shape = {key: _shape(value) for key, value in real[0].items()}
    assert all({k: _shape(v) for k, v in m.items()} == shape for m in ours)
    assert [list(m) for m in ours[:1]] == [list(real[0])]


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
def test_quaternion_is_the_product_of_turns(yaw: float, pitch: float, roll: float) -> None:
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    rotation = rotation_from_quaternion(quaternion_wxyz(np.array(yaw), pitch, roll))
    np.testing.assert_allclose(rotation, about_z @ about_y @ about_x, atol=1e-12)
