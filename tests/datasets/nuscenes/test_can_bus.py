import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from odvla_bench.datasets.nuscenes.can_bus import Messages, load_can_bus
from odvla_bench.errors import InputError

SCENES = pa.table(
    {
        "scene_id": pa.array([0, 1, 2], pa.int32()),
        "name": ["scene-0001", "scene-0002", "scene-0003"],
    }
)


def messages() -> Messages:
    return Messages(
        pa.table({"scene_id": [0, 0, 0, 2], "utime": [100, 200, 400, 50], "v": [1, 2, 3, 4]})
    )


@pytest.mark.parametrize(
    ("scene", "time", "nearest", "following"),
    [
        pytest.param(0, 100, 1, 2, id="exactly on a message"),
        pytest.param(0, 149, 1, 2, id="nearer to the earlier"),
        pytest.param(0, 150, 2, 2, id="a tie goes to the later"),
        pytest.param(0, 10, 1, 1, id="before the first"),
        pytest.param(0, 900, 3, 3, id="after the last"),
        pytest.param(2, 900, 4, 4, id="another scene"),
    ],
)
def test_nearest_and_next(scene: int, time: int, nearest: int, following: int) -> None:
    said, at = messages(), (np.array([scene]), np.array([time]))
    rows, has = said.nearest(*at)
    assert has.all()
    assert said.values("v", rows) == nearest
    assert said.values("v", said.next(*at)[0]) == following


def test_a_scene_without_messages_says_so() -> None:
    assert not messages().nearest(np.array([1]), np.array([100]))[1].any()


def write(root: Path, name: str, kind: str, text: str) -> None:
    (root / "can_bus").mkdir(exist_ok=True)
    (root / "can_bus" / f"{name}_{kind}.json").write_text(text)


def test_reading_flattens_vectors_and_ignores_other_scenes(tmp_path: Path) -> None:
    pose = {"utime": 5, "pos": [1, 2, 3], "orientation": [1, 0, 0, 0], "vel": [8, 0, 0]}
    pose |= {"accel": [0.5, 0.1, 9.8], "rotation_rate": [0, 0, 0.2]}
    write(tmp_path, "scene-0002", "pose", json.dumps([pose, {**pose, "utime": 3}]))
    write(tmp_path, "scene-0999", "pose", json.dumps([pose]))
    bus = load_can_bus(tmp_path, SCENES, tmp_path / "cache")
    assert bus.pose.table["utime"].to_pylist() == [3, 5]
    assert bus.pose.table["scene_id"].to_pylist() == [1, 1]
    assert bus.pose.values("vel_0", np.array([0])) == 8
    assert bus.n_scenes == 1
    assert bus.steeranglefeedback.table.num_rows == 0


@pytest.mark.parametrize("text", ['[{"utime": 5', '{"utime": 5}', "not json"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, "scene-0001", "pose", text)
    with pytest.raises(InputError, match="scene-0001_pose"):
        load_can_bus(tmp_path, SCENES, tmp_path / "cache")


@pytest.mark.real
def test_real_excerpt(real_data: Path, tmp_path: Path) -> None:
    for kind, file in (("pose", "pose.first6"), ("vehicle_monitor", "vehicle_monitor")):
        text = (real_data / "can-bus-excerpt" / f"scene-0061_{file}.json").read_text()
        write(tmp_path, "scene-0061", kind, text)
    scenes = pa.table({"scene_id": pa.array([0], pa.int32()), "name": ["scene-0061"]})
    bus = load_can_bus(tmp_path, scenes, tmp_path / "cache")
    rows, _ = bus.vehicle_monitor.nearest(np.array([0]), np.array([1532402928127800]))
    assert bus.vehicle_monitor.values("vehicle_speed", rows) == pytest.approx(31.44)
    assert bus.pose.values("vel_0", np.array([0])) == pytest.approx(8.988725931436823)
