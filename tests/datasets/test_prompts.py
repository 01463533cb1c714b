from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from odvla_bench.datasets import prompts
from odvla_bench.datasets.prompts import (
    DEFAULT,
    FUTURE_COLUMNS,
    RELEASED,
    get_profile,
    planning_answers,
    planning_prompts,
    prompt_columns,
)
from odvla_bench.datasets.schema import PLANNING
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import InputError, UnknownNameError

ROW = {
    "sample_token": "a" * 32,
    "command": "turn left",
    "velocity_x_mps": 0.5,
    "velocity_y_mps": 8.25,
    "velocity_valid": True,
    "acceleration_x_mps2": 0.0,
    "acceleration_y_mps2": -1.5,
    "acceleration_valid": True,
    "yaw_rate_radps": 0.125,
    "can_speed_mps": 8.0,
    "can_acceleration_x_mps2": 0.25,
    "can_acceleration_y_mps2": 0.0,
    "steering_rad": 0.75,
    "can_valid": True,
    "history_x_m": [0.0, -0.5, -0.25, -0.125],
    "history_y_m": [-16.0, -12.0, -8.0, -4.0],
    "history_valid": [True, True, True, True],
    "released_state": [0.25, 8.0, 0.5, -0.001, -0.0, 4.084, 1.85, 7.0, -0.125],
    "released_history_x_m": [0.0, -0.5, -0.25, -0.125, 0.0],
    "released_history_y_m": [-16.0, -12.0, -8.0, -4.25, 0.0],
    "future_x_m": [-0.5, -1.0, -1.5, -2.0, -2.5, -3.0],
    "future_y_m": [4.0, 8.0, 12.0, 16.0, 20.0, 24.0],
    "future_valid": [True] * 6,
}


def planning_rows(*changes: dict[str, object]) -> pa.Table:
    schema = pa.schema([f for f in PLANNING.schema if f.name in ROW])
    return pa.Table.from_pylist([{**ROW, **change} for change in changes or ({},)], schema=schema)


def test_released_user_text_to_the_byte() -> None:
    # By hand from the format: velocity and heading speed are halved; acceleration is the
    # difference of the last two steps, (0.125, 4.25) - (0.125, 3.75); the current point is left
    # out of the history; a rounded negative keeps its sign.
    assert planning_prompts(planning_rows(), RELEASED) == [
        "Scene information: <scene_start><SCENE><scene_end>\n"
        "Object-wise tracking information: <track_start><TRACK><track_end>\n"
        "Map information: <map_start><MAP><map_end>\n"
        "Ego states: - Velocity (vx,vy): (0.12,4.00) - Heading Angular Velocity (v_yaw): (-0.00)"
        " - Acceleration (ax,ay): (0.00,0.50) - Can Bus: (0.50,-0.00) - Heading Speed: (3.50)"
        " - Steering: (-0.12)\n"
        "Historical trajectory (last 2 seconds): "
        "[(0.00,-16.00),(-0.50,-12.00),(-0.25,-8.00),(-0.12,-4.25)]\n"
        "Mission goal: turn left\n"
        "Planning trajectory: <trajectory>"
    ]


def test_default_user_text() -> None:
    assert planning_prompts(planning_rows(), DEFAULT) == [
        "Scene: <scene_start><SCENE><scene_end>\n"
        "Agents: <track_start><TRACK><track_end>\n"
        "Map: <map_start><MAP><map_end>\n"
        "Ego state: velocity (0.50,8.25) m/s, acceleration (0.00,-1.50) m/s², yaw rate 0.12 rad/s,"
        " CAN speed 8.00 m/s, CAN acceleration (0.25,0.00) m/s², steering 0.75 rad\n"
        "Positions in the last 2 s, every 0.5 s: "
        "[(0.00,-16.00),(-0.50,-12.00),(-0.25,-8.00),(-0.12,-4.00)]\n"
        "Command: turn left\n"
        "Plan the next 3 s. <trajectory>"
    ]


def test_what_was_not_recorded_is_unknown() -> None:
    absent = {"velocity_valid": False, "acceleration_valid": False, "can_valid": False}
    rows = planning_rows({**absent, "history_valid": [False, False, False, True]}, {})
    lines = planning_prompts(rows, DEFAULT)[0].split("\n")
    assert lines[3] == (
        "Ego state: velocity unknown, acceleration unknown, yaw rate unknown, CAN speed unknown, "
        "CAN acceleration unknown, steering unknown"
    )
    assert lines[4] == "Positions in the last 2 s, every 0.5 s: [(-0.12,-4.00)]"


def test_answers_by_profile_and_codec() -> None:
    rows = planning_rows({}, {"future_valid": [True] * 5 + [False]})
    plan = (
        "[(-0.50,4.00),(-1.00,8.00),(-1.50,12.00),(-2.00,16.00),(-2.50,20.00),(-3.00,24.00)]",
        "[(-0.50,4.00),(-0.50,4.00),(-0.50,4.00),(-0.50,4.00),(-0.50,4.00),(-0.50,4.00)]",
    )
    marked = [f"<traj_start>{text}<traj_end>" for text in plan]
    assert planning_answers(rows, RELEASED, get_codec("text")) == [marked[0], marked[0]]
    assert planning_answers(rows, DEFAULT, get_codec("text")) == [marked[0], None]
    assert planning_answers(rows, DEFAULT, get_codec("delta")) == [marked[1], None]
    assert planning_answers(rows.slice(2), DEFAULT, get_codec("text")) == []


@pytest.mark.parametrize("profile", [DEFAULT, RELEASED], ids=lambda p: p.name)
def test_prompts_need_no_column_of_the_future(profile: prompts.PromptProfile) -> None:
    columns = prompt_columns(profile)
    assert not set(columns) & {*FUTURE_COLUMNS, "future_turn_rad"}
    rows = planning_rows()
    assert planning_prompts(rows.select(["sample_token", *columns]), profile) == planning_prompts(
        rows, profile
    )


def test_digest_names_the_wording() -> None:
    assert DEFAULT.digest != RELEASED.digest
    assert dataclasses.replace(DEFAULT, name="default").digest == DEFAULT.digest
    changed = dataclasses.replace(DEFAULT, system=DEFAULT.system + " ")
    assert changed.digest != DEFAULT.digest


def test_one_wording_or_many() -> None:
    rows = [f"r{i}" for i in range(200)]
    one = {DEFAULT.question("object_caption", row) for row in rows}
    many = [DEFAULT.question("object_caption", row, seed=1) for row in rows]
    assert one == {"What is this object, and where is it?"}
    assert len(set(many)) == 4
    assert many == [DEFAULT.question("object_caption", row, seed=1) for row in rows]
    assert many != [DEFAULT.question("object_caption", row, seed=2) for row in rows]
    assert DEFAULT.question("qa", "r1", seed=1) == ""


def test_system_text_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "system.txt"
    file.write_text("You are\nten", encoding="utf-8")
    with pytest.raises(InputError, match="--system-file"):
        get_profile("released")
    with pytest.raises(InputError, match="no such file"):
        get_profile("released", system_file=tmp_path / "other.txt")
    with pytest.raises(InputError, match="SHA-256"):
        get_profile("released", system_file=file)
    with pytest.raises(InputError, match="its own"):
        get_profile("default", system_file=file)
    with pytest.raises(UnknownNameError, match="Did you mean 'released'"):
        get_profile("release")
    known = dataclasses.replace(RELEASED, system_sha256=hashlib.sha256(b"You are\nten").hexdigest())
    monkeypatch.setitem(prompts.PROFILES, "released", known)
    assert get_profile("released", system_file=file).system == "You are\nten"
