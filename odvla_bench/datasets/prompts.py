"""Prompt profiles: how keyframes, questions and plans become the text a model reads and learns.

A build's user messages are neutral: the first line holds sentinels for what the model is shown,
the lines below it the question. A profile gives each sentinel its line, adds a system text, and
words the questions that are ours to word (a caption's, a plan's); a question that a source asks
stays as it is.

    <scene> <track> <map>   the visual tokens of the keyframe
    <object>                the token of one agent
    <ego>                   state and history of the ego vehicle, numbers of the planning table
    <command>               the driving command

`default` is ours: SI units, what was not recorded is called unknown, and a keyframe whose
3 s future was not fully recorded has no answer. `released` reproduces the input of the released
OpenDriveVLA checkpoint (arXiv 2503.23463), half-second units and padded futures included.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from odvla_bench.datasets.nuscenes.tables import list_column
from odvla_bench.datasets.waypoints import TRAJ_END, TRAJ_START, WaypointCodec
from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_text
from odvla_bench.registry import suggest

PLANNING_SENTINELS = "<scene> <track> <map> <ego> <command>"
MOTION_SENTINELS = "<scene> <track> <map> <ego> <object>"
QUESTION_SENTINELS = "<scene> <track> <map> <ego>"
"""First lines of the user messages of stages 3, 2.5 and 2."""

_SYSTEM_FILE_BYTES = 1 << 16

Lines = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PromptProfile:
    """The wording of a prompt, all of it data, so that its digest names it."""

    name: str
    system: str
    """System text; empty where it must be read from a file."""
    numbers: Literal["recorded", "released"]
    """Which of `EGO_FIELDS` says what the ego state is."""
    incomplete_future: Literal["skip", "pad"]
    """What a keyframe without all six future steps answers: nothing, or a plan that is padded
    with the last recorded position."""
    lines: Lines
    """Sentinel → its line, a format string."""
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    """Task → wordings of its question; the first is the one that is used unless many are asked
    for. A task that is not listed keeps the question of its source."""
    system_sha256: str = ""
    """Digest of the system text where it must be read from a file."""

    @functools.cached_property
    def digest(self) -> str:
        """Content hash of the wording; goes where prompts or predictions are recorded."""
        fields = dataclasses.asdict(self)
        return digest_text(json.dumps(fields, sort_keys=True, ensure_ascii=False))

    @functools.cached_property
    def _line(self) -> dict[str, str]:
        return dict(self.lines)

    @functools.cached_property
    def _questions(self) -> dict[str, tuple[str, ...]]:
        return dict(self.questions)

    def question(self, task: str, row_id: str = "", *, seed: int | None = None) -> str:
        """The profile's question for a task; empty where the source asks it.

        Args:
            task: such as "planning" or "object_caption".
            row_id: what the choice among several wordings depends on.
            seed: with a seed, one of all wordings, the same for the same row and seed.
        """
        wordings = self._questions.get(task, ("",))
        if seed is None or len(wordings) == 1:
            return wordings[0]
        return wordings[int(digest_text(str(seed), row_id), 16) % len(wordings)]

    def user_text(self, sentinels: str, question: str, fields: Mapping[str, str]) -> str:
        """The user text of one instruction.

        Args:
            sentinels: separated by spaces, such as `PLANNING_SENTINELS`.
            question: what is asked, the last line.
            fields: what the lines of `<ego>` and `<command>` hold, see `ego_fields`.
        """
        lines = [self._line[s].format_map(fields) for s in sentinels.split()]
        return "\n".join([*lines, question])


_VISUAL = (
    ("<scene>", "<scene_start><SCENE><scene_end>"),
    ("<track>", "<track_start><TRACK><track_end>"),
    ("<map>", "<map_start><MAP><map_end>"),
    ("<object>", "<track_start><OBJECT><track_end>"),
)


def _visual_lines(*labels: str) -> Lines:
    return tuple((s, f"{label}: {text}") for label, (s, text) in zip(labels, _VISUAL, strict=True))


_OBJECT_QUESTIONS = (
    "What is this object, and where is it?",
    "Describe this object and give its position.",
    "Say what the marked object looks like and at which coordinates it is.",
    "Identify the object and locate it.",
)
_SCENE_QUESTIONS = (
    "Describe the scene in all camera views.",
    "What do the six cameras see?",
    "Give a description of the surroundings, view by view.",
    "Say what is around the car in each view.",
)
_MAP_QUESTIONS = (
    "Describe the map around the car.",
    "Which lanes, crossings and road edges are near, and where?",
    "List the map elements around the car.",
    "What does the road look like here?",
)
_EXPLANATION_QUESTIONS = (
    "Narrate what the car does now, and give the reasoning behind it.",
    "Give a narration of the car's behaviour and its reasoning.",
    "What does the car do? Answer with a narration and a reasoning.",
    "Explain the present manoeuvre: narration first, then reasoning.",
)

DEFAULT = PromptProfile(
    name="default",
    system=(
        "You drive a car and answer questions about what is around it.\n"
        "You are given tokens of the scene, of the tracked agents and of the map, and the state "
        "of the car in numbers.\n"
        "Coordinates are metres: x to the right of the LiDAR, y ahead of it. Headings and yaw "
        "rates count counter-clockwise.\n"
        "A trajectory is the positions 0.5, 1.0, 1.5, 2.0, 2.5 and 3.0 seconds from now: of the "
        "car in its own frame, of another agent in that agent's frame."
    ),
    numbers="recorded",
    incomplete_future="skip",
    lines=(
        *_visual_lines("Scene", "Agents", "Map", "Object"),
        (
            "<ego>",
            "Ego state: velocity {velocity}, acceleration {acceleration}, yaw rate {yaw_rate}, "
            "CAN speed {can_speed}, CAN acceleration {can_acceleration}, steering {steering}\n"
            "Positions in the last 2 s, every 0.5 s: {history}",
        ),
        ("<command>", "Command: {command}"),
    ),
    questions=(
        ("object_caption", _OBJECT_QUESTIONS),
        ("scene_caption", _SCENE_QUESTIONS),
        ("map_caption", _MAP_QUESTIONS),
        ("explanation", _EXPLANATION_QUESTIONS),
        ("motion", ("Where will this object be in the next 3 s? <trajectory>",)),
        ("planning", ("Plan the next 3 s. <trajectory>",)),
    ),
)

RELEASED = PromptProfile(
    name="released",
    system="",
    # Length 1,288; the text stands in the official repository's llava/conversation.py.
    system_sha256="6454913ec3262002434036a9e37ccdb741c75baad8dea3387e7b5011562c7c79",
    numbers="released",
    incomplete_future="pad",
    lines=(
        *_visual_lines(
            "Scene information",
            "Object-wise tracking information",
            "Map information",
            "Object information",
        ),
        (
            "<ego>",
            "Ego states: - Velocity (vx,vy): {velocity} - Heading Angular Velocity (v_yaw): "
            "{yaw_rate} - Acceleration (ax,ay): {acceleration} - Can Bus: {can_acceleration} - "
            "Heading Speed: {can_speed} - Steering: {steering}\n"
            "Historical trajectory (last 2 seconds): {history}",
        ),
        ("<command>", "Mission goal: {command}"),
    ),
    questions=(
        *(q for q in DEFAULT.questions if q[0] not in ("motion", "planning")),
        ("motion", ("Object trajectory: <trajectory>",)),
        ("planning", ("Planning trajectory: <trajectory>",)),
    ),
)

PROFILES = {profile.name: profile for profile in (DEFAULT, RELEASED)}


def get_profile(name: str, *, system_file: Path | None = None) -> PromptProfile:
    """The profile of that name, with its system text.

    Args:
        name: "default" or "released".
        system_file: where the system text is to be read from, for a profile that has none.

    Raises:
        UnknownNameError: no such profile.
        InputError: a system text that is missing, or is not the one that the profile names.
    """
    if name not in PROFILES:
        raise suggest(name, list(PROFILES), kind="prompt profile")
    profile = PROFILES[name]
    if not profile.system_sha256:
        if system_file is not None:
            raise InputError(f"{system_file}: prompt profile {name!r} has its own system text.")
        return profile
    if system_file is None:
        raise InputError(
            f"Prompt profile {name!r} needs the system text of the released checkpoint, which is "
            "not shipped. Save it from the official repository (llava/conversation.py) and name "
            "the file with --system-file."
        )
    return dataclasses.replace(profile, system=_read_system(system_file, profile.system_sha256))


def _read_system(path: Path, sha256: str) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Name the file that holds the system text.")
    with path.open("rb") as f:
        raw = f.read(_SYSTEM_FILE_BYTES)
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise InputError(
            f"{path}: SHA-256 {found}, not {sha256}. Save the system text alone, lines ended by "
            "a line feed and none after the last."
        )
    return raw.decode("utf-8")


RECORDED_COLUMNS = (
    *("velocity_x_mps", "velocity_y_mps", "velocity_valid"),
    *("acceleration_x_mps2", "acceleration_y_mps2", "acceleration_valid", "yaw_rate_radps"),
    *("can_speed_mps", "can_acceleration_x_mps2", "can_acceleration_y_mps2", "steering_rad"),
    *("can_valid", "history_x_m", "history_y_m", "history_valid"),
)
RELEASED_COLUMNS = ("released_state", "released_history_x_m", "released_history_y_m")
FUTURE_COLUMNS = ("future_x_m", "future_y_m", "future_valid")

EgoFields = dict[str, str]

_EGO_NAMES = (
    *("velocity", "acceleration", "yaw_rate", "can_speed", "can_acceleration", "steering"),
    "history",
)


def prompt_columns(profile: PromptProfile) -> tuple[str, ...]:
    """Columns of the planning table that the profile's prompts are made from.

    None holds a future; the command, which is computed from it, is given to every planner.
    """
    numbers = RECORDED_COLUMNS if profile.numbers == "recorded" else RELEASED_COLUMNS
    return ("command", *numbers)


def ego_fields(rows: pa.Table, profile: PromptProfile) -> list[EgoFields]:
    """What the profile's `<ego>` and `<command>` lines hold, one mapping a keyframe.

    Args:
        rows: rows of the planning table with `prompt_columns(profile)`.
        profile: says which numbers.
    """
    commands = rows["command"].to_pylist()
    made = EGO_FIELDS[profile.numbers](rows)
    return [{**fields, "command": c} for fields, c in zip(made, commands, strict=True)]


def planning_prompts(
    rows: pa.Table, profile: PromptProfile, *, seed: int | None = None
) -> list[str]:
    """The stage-3 user texts of keyframes, whose `sample_token` decides among wordings.

    Args:
        rows: rows of the planning table with `sample_token` and `prompt_columns(profile)`.
        profile: the wording.
        seed: see `PromptProfile.question`.
    """
    tokens = rows["sample_token"].to_pylist() if seed is not None else [""] * rows.num_rows
    return [
        profile.user_text(
            PLANNING_SENTINELS, profile.question("planning", token, seed=seed), fields
        )
        for token, fields in zip(tokens, ego_fields(rows, profile), strict=True)
    ]


def planning_answers(
    rows: pa.Table, profile: PromptProfile, codec: WaypointCodec
) -> list[str | None]:
    """The stage-3 answers of keyframes, with trajectory markers.

    Args:
        rows: rows of the planning table with `FUTURE_COLUMNS`.
        profile: what an incomplete future answers.
        codec: how waypoints become text.

    Returns:
        One text a row; None where the profile answers nothing.
    """
    if not rows.num_rows:
        return []
    xy = np.stack([list_column(rows, "future_x_m"), list_column(rows, "future_y_m")], -1)
    answers = [mark(text) for text in codec.encode_batch(xy)]
    if profile.incomplete_future == "pad":
        return list(answers)
    whole = list_column(rows, "future_valid").all(1).tolist()
    return [text if ok else None for text, ok in zip(answers, whole, strict=True)]


def mark(waypoints: str) -> str:
    """Waypoint text between the trajectory markers."""
    return f"{TRAJ_START}{waypoints}{TRAJ_END}"


def _recorded_fields(rows: pa.Table) -> Iterator[EgoFields]:
    """SI units; `unknown` where nothing was recorded."""
    moved, turned = rows["velocity_valid"].to_pylist(), rows["acceleration_valid"].to_pylist()
    can = rows["can_valid"].to_pylist()
    history = np.stack([list_column(rows, "history_x_m"), list_column(rows, "history_y_m")], -1)
    columns = zip(
        _known(_pairs(rows, "velocity_x_mps", "velocity_y_mps"), " m/s", moved),
        _known(_pairs(rows, "acceleration_x_mps2", "acceleration_y_mps2"), " m/s²", turned),
        _known(_numbers(rows, "yaw_rate_radps"), " rad/s", moved),
        _known(_numbers(rows, "can_speed_mps"), " m/s", can),
        _known(_pairs(rows, "can_acceleration_x_mps2", "can_acceleration_y_mps2"), " m/s²", can),
        _known(_numbers(rows, "steering_rad"), " rad", can),
        map(_recorded_history, history.tolist(), list_column(rows, "history_valid").tolist()),
        strict=True,
    )
    return (dict(zip(_EGO_NAMES, values, strict=True)) for values in columns)


def _released_fields(rows: pa.Table) -> Iterator[EgoFields]:
    """What the released prompt calls by these names, in float32 as its data is.

    Velocity, acceleration and speed count in half seconds: m per 0.5 s, m per (0.5 s)².
    """
    state = list_column(rows, "released_state").astype(np.float32)
    history = np.stack(
        [list_column(rows, "released_history_x_m"), list_column(rows, "released_history_y_m")], -1
    ).astype(np.float32)
    step = np.diff(history, axis=1)
    half = np.float32(0.5)
    columns = zip(
        map(_pair, (state[:, 0:2] * half).tolist()),
        map(_pair, (step[:, -1] - step[:, -2]).tolist()),
        (f"({v:.2f})" for v in state[:, 4].tolist()),
        (f"({v:.2f})" for v in (state[:, 7] * half).tolist()),
        map(_pair, state[:, 2:4].tolist()),
        (f"({v:.2f})" for v in state[:, 8].tolist()),
        map(_path, history[:, :-1].tolist()),
        strict=True,
    )
    return (dict(zip(_EGO_NAMES, values, strict=True)) for values in columns)


EGO_FIELDS: Mapping[str, Callable[[pa.Table], Iterator[EgoFields]]] = {
    "recorded": _recorded_fields,
    "released": _released_fields,
}


def _known(texts: Iterator[str], unit: str, known: list[bool]) -> Iterator[str]:
    return (f"{t}{unit}" if ok else "unknown" for t, ok in zip(texts, known, strict=True))


def _numbers(rows: pa.Table, name: str) -> Iterator[str]:
    return (f"{v:.2f}" for v in rows[name].to_pylist())


def _pairs(rows: pa.Table, x: str, y: str) -> Iterator[str]:
    return map(_pair, zip(rows[x].to_pylist(), rows[y].to_pylist(), strict=True))


def _pair(xy: Any) -> str:
    return f"({xy[0]:.2f},{xy[1]:.2f})"


def _path(points: Any) -> str:
    return "[" + ",".join(map(_pair, points)) + "]"


def _recorded_history(points: list[list[float]], valid: list[bool]) -> str:
    return _path([p for p, ok in zip(points, valid, strict=True) if ok])
