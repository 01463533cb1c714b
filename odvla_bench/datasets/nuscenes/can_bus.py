"""The CAN-bus expansion: messages of every scene as columns, and what was said at a given time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.datasets.nuscenes.cache import (
    connect,
    fingerprint_files,
    json_source,
    new_directory,
    read_error,
    write_cached,
)
from odvla_bench.datasets.nuscenes.tables import numpy_columns

SCHEMA_VERSION = 1
MAX_AGE_S = 0.5
"""A message further away than one keyframe step says nothing about a keyframe."""

_VECTOR = "DOUBLE[]"
MESSAGES: dict[str, dict[str, str]] = {
    "pose": {
        **{"utime": "BIGINT", "pos": _VECTOR, "orientation": _VECTOR, "vel": _VECTOR},
        **{"accel": _VECTOR, "rotation_rate": _VECTOR},
    },
    "steeranglefeedback": {"utime": "BIGINT", "value": "DOUBLE"},
    "vehicle_monitor": {
        "utime": "BIGINT",
        **dict.fromkeys(("vehicle_speed", "steering", "yaw_rate"), "DOUBLE"),
        **dict.fromkeys(("throttle", "brake", "left_signal", "right_signal"), "DOUBLE"),
    },
}
"""Message kinds read, and of each the fields. Pose: 50 Hz, metres and seconds, vectors in EGO (x
forward) but `pos` and `orientation` (w, x, y, z); steeranglefeedback: 100 Hz, steering wheel angle
in radians, left positive; vehicle_monitor: 2 Hz, km/h and degrees."""
_LENGTHS = {"pos": 3, "orientation": 4, "vel": 3, "accel": 3, "rotation_rate": 3}
_TIME_BITS = 51  # 2**51 microseconds reach to the year 2041


@dataclass(frozen=True)
class Messages:
    """All messages of one kind, by scene and time."""

    table: pa.Table
    """`scene_id`, `utime` and one number a column; vectors as `vel_0, vel_1, …`."""

    def values(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """(N,) one column at `rows`; NaN where there are no messages at all."""
        if not self.table.num_rows:
            return np.full(len(rows), np.nan)
        return numpy_columns(self.table, name)[rows].astype(np.float64)

    def nearest(
        self, scene_id: npt.NDArray[np.int64], timestamp_us: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Rows of the messages nearest in time (of two equally near the later), same scene.

        Returns:
            (N,) rows and (N,) whether the scene has any message.
        """
        after, has = self._first(scene_id, timestamp_us, "left")
        if not has.any():
            return after, has
        before = np.maximum(after - 1, 0)
        t = numpy_columns(self.table, "utime")
        usable = has & (after > 0) & (self._scene[before] == scene_id)
        since, until = timestamp_us - t[before], t[after] - timestamp_us
        return np.where(usable & (until >= 0) & (since < until), before, after), has

    def next(
        self, scene_id: npt.NDArray[np.int64], timestamp_us: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Rows of the first messages after the given times, the scene's last where there is none.

        The field's perception code reads the CAN bus this way.
        """
        return self._first(scene_id, timestamp_us, "right")

    @property
    def _scene(self) -> npt.NDArray[np.int64]:
        return numpy_columns(self.table, "scene_id").astype(np.int64)

    def _first(
        self, scene_id: npt.NDArray[np.int64], timestamp_us: npt.NDArray[np.int64], side: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """First row at or after (left), or after (right), a time; else the scene's last row."""
        if not self.table.num_rows:
            return np.zeros(len(scene_id), np.int64), np.zeros(len(scene_id), bool)
        scene = self._scene
        keys = (scene << _TIME_BITS) + numpy_columns(self.table, "utime")
        wanted = (scene_id.astype(np.int64) << _TIME_BITS) + timestamp_us
        rows = np.searchsorted(keys, wanted, side="left" if side == "left" else "right")
        ends = np.searchsorted(scene, scene_id, side="right")
        starts = np.searchsorted(scene, scene_id, side="left")
        return np.clip(rows, 0, np.maximum(ends - 1, 0)), ends > starts

    def age_s(
        self, rows: npt.NDArray[np.int64], timestamp_us: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """(N,) how far in time the messages at `rows` are, seconds; infinite without messages."""
        if not self.table.num_rows:
            return np.full(len(rows), np.inf)
        return np.abs(numpy_columns(self.table, "utime")[rows] - timestamp_us) * 1e-6


@dataclass(frozen=True)
class CanBus:
    """The CAN bus of a nuScenes root; a kind whose files are absent has no messages."""

    fingerprint: str
    pose: Messages
    steeranglefeedback: Messages
    vehicle_monitor: Messages

    @property
    def n_scenes(self) -> int:
        """Scenes with pose messages."""
        return len(self.pose.table["scene_id"].unique())


def load_can_bus(
    root: Path, scenes: pa.Table, cache_parent: Path, *, memory_limit: str = "2GB"
) -> CanBus:
    """Read `root/can_bus/*.json` of the given scenes through the cache.

    Args:
        root: the nuScenes root.
        scenes: `NuScenesTables.scenes`; files of other scenes are not read.
        cache_parent: the cache directory that holds the tables' caches.
        memory_limit: what DuckDB may take.

    Raises:
        InputError: a file that is not a list of messages; with its path.
    """
    files = can_bus_files(root, scenes)
    labels = {f"{kind} {scene}": path for (kind, scene), path in files.items()}
    ids = [
        f"{n}={i}"
        for n, i in zip(scenes["name"].to_pylist(), scenes["scene_id"].to_pylist(), strict=True)
    ]
    fingerprint = fingerprint_files(labels, cache_parent, f"can bus {SCHEMA_VERSION}", *ids)
    target = cache_parent / "can_bus" / fingerprint[:24]
    if not target.is_dir():
        _build(files, scenes, target, memory_limit)
    files_read = {kind: pq.ParquetFile(target / f"{kind}.parquet").read() for kind in MESSAGES}
    return CanBus(fingerprint, **{kind: Messages(table) for kind, table in files_read.items()})


def can_bus_files(root: Path, scenes: pa.Table) -> dict[tuple[str, str], Path]:
    """(kind, scene name) → file, of those that exist."""
    folder = root / "can_bus"
    here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {
        (kind, name): folder / file
        for name in scenes["name"].to_pylist()
        for kind in MESSAGES
        if (file := f"{name}_{kind}.json") in here
    }


def _build(
    files: dict[tuple[str, str], Path], scenes: pa.Table, target: Path, memory_limit: str
) -> None:
    with new_directory(target) as work, connect(work / "spill", memory_limit) as con:
        con.register("scenes", scenes)
        for kind in MESSAGES:
            paths = [path for (k, _), path in files.items() if k == kind]
            try:
                write_cached(con.sql(_query(kind, paths)), work / f"{kind}.parquet")
            except duckdb.Error as error:
                raise read_error(paths[0].parent, error) from error


def _query(kind: str, paths: list[Path]) -> str:
    """SQL for one kind's messages of all scenes, flat, by scene and time."""
    flat = ", ".join(
        f"{name}[{i + 1}] AS {name}_{i}" if name in _LENGTHS else name
        for name in MESSAGES[kind]
        for i in range(_LENGTHS.get(name, 1))
    )
    return f"""
        SELECT scene_id, {flat}
        FROM {json_source(paths, MESSAGES[kind], filename=True)} m
        JOIN scenes ON parse_filename(m.filename) = scenes.name || '_{kind}.json'
        WHERE utime IS NOT NULL ORDER BY scene_id, utime
    """
