"""The tables of a build: columns, units, frames. The one place that says what a column means."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.errors import FormatError

FORMAT_VERSION = 1
"""Raised with every change of columns or their meaning."""

HISTORY_LENGTH = 4
FUTURE_LENGTH = 6

_FLOATS = pa.list_(pa.float32())
_DOUBLES = pa.list_(pa.float64())
_BOOLS = pa.list_(pa.bool_())
_TEXTS = pa.list_(pa.string())
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: pa.DataType
    meaning: str
    """What it is, with frame and unit where it has one."""
    length: int | None = None
    """Of a list column: the length of every list."""

    def field(self) -> pa.Field:
        """The Arrow field; never null, its meaning and length in the metadata."""
        metadata = {"meaning": self.meaning}
        if self.length is not None:
            metadata["length"] = str(self.length)
        return pa.field(self.name, self.type, nullable=False, metadata=metadata)


@dataclass(frozen=True)
class Table:
    """One table of a build: a folder of Parquet shards, `<name>/<split>-<i>-of-<n>.parquet`."""

    name: str
    what: str
    """What one row is."""
    row_group_rows: int
    columns: tuple[Column, ...]
    shared: bool = False
    """Whether several sources write it, each in a folder of its own."""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every shard."""
        return pa.schema([column.field() for column in self.columns])

    def check(self, rows: pa.Table) -> None:
        """Check names, types, nulls and list lengths of rows about to be written.

        Raises:
            FormatError: rows that are not as the schema says; names table and column.
        """
        if not rows.schema.equals(self.schema):
            raise FormatError(f"table {self.name}: rows have schema {rows.schema.to_string()}")
        for column in self.columns:
            values = rows[column.name]
            if values.null_count:
                raise FormatError(f"table {self.name}: column {column.name} holds nulls")
            if column.length is not None and len(values):
                lengths = pc.min_max(pc.list_value_length(values)).as_py()
                if set(lengths.values()) != {column.length}:
                    raise FormatError(
                        f"table {self.name}: lists of {column.name} have lengths "
                        f"{lengths['min']}…{lengths['max']}, not {column.length}"
                    )


def _xy(prefix: str, length: int, what: str, frame: str) -> tuple[Column, ...]:
    """Columns of positions at steps."""
    return (
        Column(f"{prefix}_x_m", _FLOATS, f"x (right) of {what}, {frame}, metres", length),
        Column(f"{prefix}_y_m", _FLOATS, f"y (forward) of {what}, {frame}, metres", length),
    )


def _valid(prefix: str, length: int) -> Column:
    return Column(f"{prefix}_valid", _BOOLS, "whether each of these steps was recorded", length)


def _ego_steps(prefix: str, length: int, when: str) -> tuple[Column, ...]:
    """The LIDAR origin at steps."""
    positions = _xy(prefix, length, f"the LIDAR origin at {when}", "LIDAR frame at t0")
    return (*positions, _valid(prefix, length))


def _agent_steps(prefix: str, length: int, when: str) -> tuple[Column, ...]:
    """A box at steps: in the LIDAR frame and in its own frame at t0."""
    what = f"the box centre at {when}"
    heading = f"heading of the box at {when}, LIDAR frame at t0, radians"
    return (
        *_xy(prefix, length, what, "LIDAR frame at t0"),
        Column(f"{prefix}_yaw_rad", _FLOATS, heading, length),
        *_xy(f"own_{prefix}", length, what, "frame of the box at t0 (y along its heading)"),
        _valid(prefix, length),
    )


_PAST = "-2.0, -1.5, -1.0, -0.5 s"
_NEXT = "0.5, 1.0, … 3.0 s"
_KEYS = (
    Column("sample_id", pa.int32(), "number of the keyframe, by scene name and time"),
    Column("sample_token", pa.string(), "nuScenes token of the keyframe"),
)

PLANNING = Table(
    "planning",
    "a keyframe: history, ego state, command and future of the ego vehicle",
    1024,
    (
        *_KEYS,
        Column("scene_token", pa.string(), "nuScenes token of the scene"),
        Column("scene_name", pa.string(), "such as scene-0103"),
        Column("split", pa.string(), "official split of the scene"),
        Column("location", pa.string(), "map of the scene, such as boston-seaport"),
        Column("frame_index", pa.int32(), "index of the keyframe in its scene, from 0"),
        Column("timestamp_us", pa.int64(), "time of the keyframe, microseconds"),
        Column("ego_translation_m", _DOUBLES, "origin of EGO in GLOBAL, metres", 3),
        Column("ego_rotation_wxyz", _DOUBLES, "rotation of EGO in GLOBAL, quaternion", 4),
        Column("lidar_translation_m", _DOUBLES, "origin of LIDAR in EGO, metres", 3),
        Column("lidar_rotation_wxyz", _DOUBLES, "rotation of LIDAR in EGO, quaternion", 4),
        *_ego_steps("history", HISTORY_LENGTH, _PAST),
        *_ego_steps("future", FUTURE_LENGTH, _NEXT),
        Column(
            "future_turn_rad",
            _FLOATS,
            f"heading of the ego at {_NEXT} relative to t0, counter-clockwise, radians",
            FUTURE_LENGTH,
        ),
        Column("command", pa.string(), "driving command; computed from the recorded future"),
        Column("velocity_x_mps", pa.float32(), "LIDAR frame at t0, from the last step, m/s"),
        Column("velocity_y_mps", pa.float32(), "LIDAR frame at t0, from the last step, m/s"),
        Column("velocity_valid", pa.bool_(), "false on a scene's first keyframe"),
        Column("acceleration_x_mps2", pa.float32(), "LIDAR frame at t0, last two steps, m/s²"),
        Column("acceleration_y_mps2", pa.float32(), "LIDAR frame at t0, last two steps, m/s²"),
        Column("acceleration_valid", pa.bool_(), "false on a scene's first two keyframes"),
        Column("yaw_rate_radps", pa.float32(), "counter-clockwise, from the last step, rad/s"),
        Column("can_speed_mps", pa.float32(), "CAN bus, nearest pose message, m/s"),
        Column("can_acceleration_x_mps2", pa.float32(), "CAN bus, nearest, EGO forward, m/s²"),
        Column("can_acceleration_y_mps2", pa.float32(), "CAN bus, nearest, EGO left, m/s²"),
        Column("can_yaw_rate_radps", pa.float32(), "CAN bus, nearest, counter-clockwise, rad/s"),
        Column("steering_rad", pa.float32(), "CAN bus, nearest, steering wheel, left positive"),
        Column("can_valid", pa.bool_(), "whether CAN messages lie within 0.5 s of the keyframe"),
        Column(
            "released_history_x_m",
            _FLOATS,
            "history of the released OpenDriveVLA data, -2.0 … 0 s: missing steps extrapolated",
            HISTORY_LENGTH + 1,
        ),
        Column("released_history_y_m", _FLOATS, "see released_history_x_m", HISTORY_LENGTH + 1),
        Column(
            "released_state",
            _FLOATS,
            "ego state of the released data: vx, vy, CAN acceleration forward and left (next "
            "message), yaw rate, 4.084, 1.85, CAN speed, curvature; with its known errors",
            9,
        ),
    ),
)

AGENTS = Table(
    "agents",
    "an annotated box of a keyframe, with its past and future",
    16_384,
    (
        *_KEYS,
        Column("instance_id", pa.int32(), "number of the track"),
        Column("instance_token", pa.string(), "nuScenes token of the track"),
        Column("annotation_token", pa.string(), "nuScenes token of the box"),
        Column("category", pa.string(), "nuScenes category, such as vehicle.car"),
        Column("attribute", pa.string(), "first nuScenes attribute, or empty"),
        Column("visibility", pa.int8(), "visibility token 1…4 (0-40 … 80-100 %), 0 unknown"),
        Column("n_lidar_points", pa.int32(), "LIDAR points in the box"),
        Column("n_radar_points", pa.int32(), "radar points in the box"),
        Column("x_m", pa.float32(), "box centre, LIDAR frame at t0, right, metres"),
        Column("y_m", pa.float32(), "box centre, LIDAR frame at t0, forward, metres"),
        Column("z_m", pa.float32(), "box centre, LIDAR frame at t0, up, metres"),
        Column("yaw_rad", pa.float32(), "heading, counter-clockwise from +x of LIDAR, radians"),
        Column("width_m", pa.float32(), "extent across the heading, metres"),
        Column("length_m", pa.float32(), "extent along the heading, metres"),
        Column("height_m", pa.float32(), "vertical extent, metres"),
        Column("velocity_x_mps", pa.float32(), "LIDAR frame at t0, from neighbouring boxes, m/s"),
        Column("velocity_y_mps", pa.float32(), "LIDAR frame at t0, from neighbouring boxes, m/s"),
        Column("velocity_valid", pa.bool_(), "whether the track has a neighbouring box in time"),
        Column("global_x_m", pa.float64(), "box centre in GLOBAL, metres"),
        Column("global_y_m", pa.float64(), "box centre in GLOBAL, metres"),
        Column("global_z_m", pa.float64(), "box centre in GLOBAL, metres"),
        Column("global_yaw_rad", pa.float64(), "heading in GLOBAL, radians"),
        *_agent_steps("history", HISTORY_LENGTH, _PAST),
        *_agent_steps("future", FUTURE_LENGTH, _NEXT),
    ),
)

_ORIGIN = (
    Column("row_id", pa.string(), "unique in the build: source, and what tells its records apart"),
    *_KEYS,
    Column("scene_name", pa.string(), "such as scene-0103"),
    Column("split", pa.string(), "official split of the scene"),
    Column("source", pa.string(), "builder that made the row"),
    Column("license", pa.string(), "terms of the source's own text, on top of nuScenes'"),
    Column("task", pa.string(), "kind of instruction, such as qa"),
    Column("flags", _TEXTS, "known defects of the record and what was done about them"),
)
_OBJECT = (
    Column("instance_id", pa.int32(), "number of the agent's track; -1 where there is no agent"),
    Column("instance_token", pa.string(), "nuScenes token of the track, or empty"),
    Column("annotation_token", pa.string(), "nuScenes token of the agent's box, or empty"),
    Column("category", pa.string(), "nuScenes category of the agent, or empty"),
)
_TEXT = (
    Column("source_key", pa.string(), "key of the raw record, or the split its file is of"),
    Column("source_row", pa.int64(), "position of the raw record in its file, from 0"),
    Column("view", pa.string(), "camera that the text is about, such as CAM_FRONT; else empty"),
    Column(
        "messages",
        _MESSAGES,
        "user and assistant turn; first line of the user turn: sentinels for what is shown",
    ),
    Column("answer", pa.string(), "what the assistant says, without tags, for scoring"),
    Column("references", _TEXTS, "texts to score an answer against, one or more"),
    Column("raw", pa.string(), "the raw record, JSON as it stands in the file; empty if derived"),
)

ALIGNMENT = Table(
    "alignment",
    "a caption of an agent, of a scene or of the map around the car (stage 1)",
    65_536,
    (
        *_ORIGIN,
        *_OBJECT,
        Column("x_m", pa.float32(), "agent's box centre, LIDAR frame at t0, right, metres; or 0"),
        Column("y_m", pa.float32(), "agent's box centre, LIDAR frame at t0, forward, metres; or 0"),
        *_TEXT,
        Column("appearance", pa.string(), "what the agent looks like, cleaned; or empty"),
        Column("motion", pa.string(), "how the agent moves, cleaned; or empty"),
        Column("environment", pa.string(), "where on the map the agent is, cleaned; or empty"),
        Column("relation", pa.string(), "how the agent stands to others, cleaned; or empty"),
    ),
    shared=True,
)

MAP_ELEMENTS = Table(
    "map_elements",
    "a map element around a keyframe: the vectors of its map caption",
    16_384,
    (
        *_KEYS,
        Column("layer", pa.string(), "such as lane_divider, ped_crossing, boundary"),
        Column("kind", pa.string(), "type on the map, such as TRAFFIC_LIGHT; or hole; or empty"),
        Column("element_token", pa.string(), "map token of the element; of a boundary, its ring"),
        Column("closed", pa.bool_(), "whether they are a polygon's ring, clockwise from the left"),
        Column("x_m", _FLOATS, "points, LIDAR frame at t0, right, metres"),
        Column("y_m", _FLOATS, "points, LIDAR frame at t0, forward, metres"),
    ),
)

INSTRUCT = Table(
    "instruct",
    "a question about a keyframe and its answer (stage 2)",
    65_536,
    (
        *_ORIGIN,
        *_TEXT,
        Column("template_type", pa.string(), "the source's kind of question, such as exist"),
        Column("num_hop", pa.int8(), "reasoning hops of NuScenes-QA; -1 elsewhere"),
        Column("narration", pa.string(), "what the car does, of Nu-X; else empty"),
        Column("reasoning", pa.string(), "why it does so, of Nu-X; else empty"),
    ),
    shared=True,
)

FORECASTING = Table(
    "forecasting",
    "an agent's next 3 s as numbers, to be written as text at load (stage 2.5)",
    65_536,
    (
        *_ORIGIN,
        *_OBJECT,
        Column(
            "x_m",
            _FLOATS,
            f"box centre at {_NEXT}, the agent's frame at t0, right, metres; recorded steps only",
        ),
        Column("y_m", _FLOATS, "the same, along the agent's heading at t0, metres"),
    ),
)

DROPPED = Table(
    "dropped",
    "a raw record that yielded no row",
    65_536,
    (
        Column("source", pa.string(), "builder that read the record"),
        Column("table", pa.string(), "table of the build that it would have gone to"),
        Column("split", pa.string(), "split, or empty where it is not known"),
        Column("record", pa.string(), "token or position of the record"),
        Column("reason", pa.string(), "why it was dropped, in a fixed word"),
        Column("detail", pa.string(), "the same in a sentence, for a person"),
    ),
)

TABLES = {
    table.name: table
    for table in (PLANNING, AGENTS, ALIGNMENT, MAP_ELEMENTS, INSTRUCT, FORECASTING)
}

STAGE_TABLES = {"1": ALIGNMENT, "2": INSTRUCT, "2.5": FORECASTING, "3": PLANNING}
"""Training stage → the table of its instructions; stages 2.5 and 3 hold numbers, not text."""

TRUTH: dict[str, tuple[str, ...]] = {
    "planning": ("future_x_m", "future_y_m", "future_valid", "future_turn_rad"),
    "agents": (
        *("velocity_x_mps", "velocity_y_mps", "velocity_valid"),
        *("future_x_m", "future_y_m", "future_yaw_rad", "future_valid"),
    ),
    "alignment": (
        *("x_m", "y_m", "messages", "answer", "references", "raw"),
        *("appearance", "motion", "environment", "relation"),
    ),
    "map_elements": ("layer", "kind", "x_m", "y_m"),
    "instruct": ("messages", "answer", "references", "raw", "narration", "reasoning"),
    "forecasting": ("x_m", "y_m", "flags"),
}
"""Table → columns that hold what a model is to answer; of `messages`, the assistant's turn. The
command of `planning`, which every planner is given, is computed from the future too."""
