"""The planning set: one row a keyframe, and one row an annotated box."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.nuscenes.agents import Agents
from odvla_bench.datasets.nuscenes.can_bus import MAX_AGE_S, CanBus
from odvla_bench.datasets.nuscenes.ego import (
    COMMANDS,
    FUTURE_STEPS,
    HISTORY_STEPS,
    EgoMotion,
    command,
    released_history,
    released_velocity,
)
from odvla_bench.datasets.nuscenes.splits import split_of_scene
from odvla_bench.datasets.nuscenes.tables import numpy_columns
from odvla_bench.datasets.schema import AGENTS, PLANNING

EGO_LENGTH_M, EGO_WIDTH_M = 4.084, 1.85
WHEEL_BASE_M = 2.588

Columns = dict[str, Any]

_COPIED = (
    *("sample_id", "instance_id", "attribute", "visibility", "n_lidar_points", "n_radar_points"),
    *("width_m", "length_m", "height_m"),
)


class PlanningBuilder:
    """Keyframes and agents of every scene that an official split names."""

    name = "planning"
    tables = (PLANNING.name, AGENTS.name)
    requires = ()

    def plan(self, context: Context) -> list[Unit]:
        """Groups of `scenes_per_shard` scenes of one split, in scene order."""
        return plan_scenes(self.name, context)

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """Rows of the unit's scenes; keyframes without LIDAR pose and their boxes are dropped."""
        nuscenes = context.nuscenes
        samples = rows_where(nuscenes.samples, "scene_id", unit.payload)
        annotations = rows_where(nuscenes.annotations, "sample_id", samples["sample_id"])
        read = {PLANNING.name: samples.num_rows, AGENTS.name: annotations.num_rows}
        if not unit.split:
            return UnitRows({}, read, _drops(samples, annotations, "no_split"))
        has_lidar = samples["has_lidar"]
        kept = samples.filter(has_lidar)
        boxed = pc.is_in(annotations["sample_id"], kept["sample_id"].combine_chunks())
        motion = EgoMotion.from_samples(kept)
        planning = planning_columns(context, kept, motion, unit.split)
        agents = agent_columns(context, annotations.filter(boxed), kept, motion)
        tables = {
            PLANNING.name: _table(planning, PLANNING.schema),
            AGENTS.name: _table(agents, AGENTS.schema),
        }
        gone = samples.filter(pc.invert(has_lidar)), annotations.filter(pc.invert(boxed))
        return UnitRows(tables, read, _drops(*gone, "no_lidar"))


BUILDER = PlanningBuilder()


def plan_scenes(source: str, context: Context) -> list[Unit]:
    """Units of `scenes_per_shard` scenes of one split, in scene order."""
    scenes, version = context.nuscenes.scenes, context.nuscenes.version
    by_split: dict[str, list[int]] = {}
    for scene_id, name, n_samples in zip(
        *(scenes[c].to_pylist() for c in ("scene_id", "name", "n_samples")), strict=True
    ):
        if n_samples:
            by_split.setdefault(split_of_scene(name, version), []).append(scene_id)
    size = context.request.scenes_per_shard
    return [
        Unit(source, split, i, -(-len(ids) // size), tuple(ids[i * size : (i + 1) * size]))
        for split, ids in sorted(by_split.items())
        for i in range(-(-len(ids) // size))
    ]


def planning_columns(context: Context, samples: pa.Table, motion: EgoMotion, split: str) -> Columns:
    """Columns of the planning table for keyframes of whole scenes."""
    history, history_valid = motion.positions(HISTORY_STEPS)
    future, future_valid = motion.positions(FUTURE_STEPS)
    state, released = motion.state, released_history(motion)
    scene = context.nuscenes.scenes.take(samples["scene_id"])
    return {
        "sample_id": samples["sample_id"],
        "sample_token": samples["token"],
        "scene_token": scene["token"],
        "scene_name": scene["name"],
        "split": pa.repeat(split, samples.num_rows),
        "location": scene["location"],
        "frame_index": samples["frame_index"],
        "timestamp_us": samples["timestamp_us"],
        **_pose_columns(samples, "ego"),
        **_pose_columns(samples, "lidar"),
        **_xy_columns("history", history),
        "history_valid": history_valid,
        **_xy_columns("future", future),
        "future_valid": future_valid,
        "future_turn_rad": motion.yaw_change(FUTURE_STEPS),
        "command": pa.array(np.array(COMMANDS)[command(future, future_valid)]),
        **_vector_columns("velocity", "mps", state.velocity_mps),
        "velocity_valid": state.velocity_valid,
        **_vector_columns("acceleration", "mps2", state.acceleration_mps2),
        "acceleration_valid": state.acceleration_valid,
        "yaw_rate_radps": state.yaw_rate_radps,
        **can_bus_columns(context.can_bus, samples),
        **_xy_columns("released_history", released),
        "released_state": released_state(context.can_bus, samples, motion, scene["location"]),
    }


def can_bus_columns(can_bus: CanBus, samples: pa.Table) -> Columns:
    """What the nearest CAN messages say at each keyframe; zeros where there are none near."""
    scene, t = _scene_and_time(samples)
    pose, pose_has = can_bus.pose.nearest(scene, t)
    steer, steer_has = can_bus.steeranglefeedback.nearest(scene, t)
    near = pose_has & (can_bus.pose.age_s(pose, t) <= MAX_AGE_S)
    near &= steer_has & (can_bus.steeranglefeedback.age_s(steer, t) <= MAX_AGE_S)
    fields = {
        "can_speed_mps": "vel_0",
        "can_acceleration_x_mps2": "accel_0",
        "can_acceleration_y_mps2": "accel_1",
        "can_yaw_rate_radps": "rotation_rate_2",
    }
    columns: Columns = {
        name: np.where(near, can_bus.pose.values(field, pose), 0) for name, field in fields.items()
    }
    steering = can_bus.steeranglefeedback.values("value", steer)
    return {**columns, "steering_rad": np.where(near, steering, 0), "can_valid": near}


def released_state(
    can_bus: CanBus, samples: pa.Table, motion: EgoMotion, location: pa.ChunkedArray
) -> npt.NDArray[np.floating[Any]]:
    """The nine numbers that the released data calls `gt_ego_lcf_feat`, errors included.

    Acceleration is that of the first CAN message after the keyframe; curvature is 2 * steering
    / 2.588 with the sign turned in Singapore. A scene that lacks one of the two CAN files has
    speed and curvature 0, one without poses also acceleration 0.

    Returns:
        (N, 9): vx, vy, acceleration forward, left, yaw rate, length, width, speed, curvature.
    """
    scene, t = _scene_and_time(samples)
    velocity = released_velocity(motion)
    following, pose_has = can_bus.pose.next(scene, t)
    pose, _ = can_bus.pose.nearest(scene, t)
    steer, steer_has = can_bus.steeranglefeedback.nearest(scene, t)
    both = pose_has & steer_has
    sign = np.where(pc.starts_with(location, "singapore").to_numpy(zero_copy_only=False), -1, 1)
    steering = can_bus.steeranglefeedback.values("value", steer) * sign
    n = len(t)
    columns = (
        velocity[:, 0],
        velocity[:, 1],
        np.where(pose_has, can_bus.pose.values("accel_0", following), 0),
        np.where(pose_has, can_bus.pose.values("accel_1", following), 0),
        velocity[:, 2],
        np.full(n, EGO_LENGTH_M),
        np.full(n, EGO_WIDTH_M),
        np.where(both, can_bus.pose.values("vel_0", pose), 0),
        np.where(both, 2 * steering / WHEEL_BASE_M, 0),
    )
    return np.stack(columns, -1)


def agent_columns(
    context: Context, annotations: pa.Table, samples: pa.Table, motion: EgoMotion
) -> Columns:
    """Columns of the agents table for annotations of whole scenes."""
    agents = Agents.from_tables(annotations, samples, motion.global_from_lidar)
    instances = context.nuscenes.instances.take(annotations["instance_id"])
    centre, place = agents.centre_m, agents.place_m
    velocity, velocity_valid = agents.velocity_mps()
    columns: Columns = {name: annotations[name] for name in _COPIED}
    columns |= {
        "sample_token": samples["token"].take(pa.array(agents.sample)),
        "instance_token": instances["token"],
        "annotation_token": annotations["token"],
        "category": instances["category"],
        **{f"{c}_m": centre[:, i] for i, c in enumerate("xyz")},
        "yaw_rad": agents.yaw_rad,
        **_vector_columns("velocity", "mps", velocity),
        "velocity_valid": velocity_valid,
        **{f"global_{c}_m": place[:, i] for i, c in enumerate("xyz")},
        "global_yaw_rad": agents.global_yaw_rad,
    }
    for prefix, steps in (("history", HISTORY_STEPS), ("future", FUTURE_STEPS)):
        moved = agents.motion(steps)
        columns |= _xy_columns(prefix, moved.xy_m)
        columns |= _xy_columns(f"own_{prefix}", moved.own_xy_m)
        columns |= {f"{prefix}_yaw_rad": moved.yaw_rad, f"{prefix}_valid": moved.valid}
    return columns


def _scene_and_time(
    samples: pa.Table,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    scene = numpy_columns(samples, "scene_id").astype(np.int64)
    return scene, numpy_columns(samples, "timestamp_us")


def _pose_columns(samples: pa.Table, frame: str) -> Columns:
    place = numpy_columns(samples, *(f"{frame}_{c}_m" for c in "xyz"))
    turn = numpy_columns(samples, *(f"{frame}_q{c}" for c in "wxyz"))
    return {f"{frame}_translation_m": place, f"{frame}_rotation_wxyz": turn}


def _xy_columns(prefix: str, xy: npt.NDArray[Any]) -> Columns:
    return {f"{prefix}_x_m": xy[..., 0], f"{prefix}_y_m": xy[..., 1]}


def _vector_columns(prefix: str, unit: str, xy: npt.NDArray[Any]) -> Columns:
    return {f"{prefix}_x_{unit}": xy[:, 0], f"{prefix}_y_{unit}": xy[:, 1]}


def rows_where(table: pa.Table, column: str, values: Any) -> pa.Table:
    """The rows of a table whose column holds one of some values."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return table.filter(pc.is_in(table[column], pa.array(values, table[column].type)))


def _table(columns: Columns, schema: pa.Schema) -> pa.Table:
    """Columns of any array kind → a table of the schema; 2-D arrays become lists."""
    arrays = [_arrow(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _arrow(values: Any, kind: pa.DataType) -> Any:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(values.reshape(-1)).cast(kind.value_type)
        offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), flat)
    if isinstance(values, np.ndarray):
        values = pa.array(values)
    return values.cast(kind)


def _drops(samples: pa.Table, annotations: pa.Table, reason: str) -> list[Drop]:
    why = {
        "no_split": "no official split names its scene",
        "no_lidar": "its keyframe has no LIDAR_TOP record, and with it no pose",
    }[reason]
    return [
        Drop(table, token, reason, f"{what} {token}: {why}")
        for table, what, tokens in (
            (PLANNING.name, "keyframe", samples["token"]),
            (AGENTS.name, "box", annotations["token"]),
        )
        for token in tokens.to_pylist()
    ]
