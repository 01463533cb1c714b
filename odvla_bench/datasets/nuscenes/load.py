"""Read nuScenes' JSON tables with DuckDB, check them, and write the cache's Parquet files."""

from __future__ import annotations

from pathlib import Path

import duckdb

from odvla_bench.datasets.nuscenes.cache import (
    connect,
    json_source,
    new_directory,
    read_error,
    write_cached,
)
from odvla_bench.errors import InputError

SCHEMA_VERSION = 1
"""Raised whenever the cached columns or their meaning change."""

_POSE = {"translation": "DOUBLE[]", "rotation": "DOUBLE[]"}
TABLES: dict[str, dict[str, str]] = {
    "scene": dict.fromkeys(("token", "log_token", "name", "description"), "VARCHAR"),
    "log": dict.fromkeys(("token", "logfile", "vehicle", "location"), "VARCHAR"),
    "sample": {"token": "VARCHAR", "scene_token": "VARCHAR", "timestamp": "BIGINT"},
    "sensor": dict.fromkeys(("token", "channel", "modality"), "VARCHAR"),
    "calibrated_sensor": {
        "token": "VARCHAR",
        "sensor_token": "VARCHAR",
        **_POSE,
        "camera_intrinsic": "DOUBLE[][]",
    },
    "sample_data": {
        **dict.fromkeys(("token", "sample_token", "ego_pose_token"), "VARCHAR"),
        **dict.fromkeys(("calibrated_sensor_token", "filename"), "VARCHAR"),
        **{"timestamp": "BIGINT", "is_key_frame": "BOOLEAN", "height": "INT", "width": "INT"},
    },
    "ego_pose": {"token": "VARCHAR", **_POSE},
    "category": {"token": "VARCHAR", "name": "VARCHAR"},
    "attribute": {"token": "VARCHAR", "name": "VARCHAR"},
    "instance": {"token": "VARCHAR", "category_token": "VARCHAR"},
    "sample_annotation": {
        **dict.fromkeys(("token", "sample_token", "instance_token", "visibility_token"), "VARCHAR"),
        **_POSE,
        **{"size": "DOUBLE[]", "attribute_tokens": "VARCHAR[]"},
        **{"num_lidar_pts": "INT", "num_radar_pts": "INT"},
    },
}
"""The JSON tables read, and of each the columns; a column that a file lacks is read as null."""
OPTIONAL = ("log", "attribute")
"""Tables without which everything still works, with empty names in their place."""
ANNOTATION_TABLES = ("instance", "sample_annotation")
"""Tables that the test version does not have."""


def table_files(folder: Path) -> dict[str, Path]:
    """The tables that the folder holds, after checking that none that is needed is missing.

    Raises:
        InputError: tables are missing; all are named.
    """
    files = {name: folder / f"{name}.json" for name in TABLES}
    absent = [name for name, path in files.items() if not path.is_file()]
    may_miss = OPTIONAL + (ANNOTATION_TABLES if folder.name.endswith("-test") else ())
    if missing := [f"{name}.json" for name in absent if name not in may_miss]:
        raise InputError(
            f"{folder}: missing {', '.join(missing)}. Unpack the metadata archive of this version."
        )
    return {name: path for name, path in files.items() if name not in absent}


def build_cache(folder: Path, target: Path, *, memory_limit: str) -> None:
    """Read the JSON tables of `folder` and write the cache directory `target`, all or nothing.

    Raises:
        InputError: a table is missing, truncated or malformed, refers to a token that does not
            exist, or holds a pose that is not finite.
    """
    files = table_files(folder)
    with new_directory(target) as work, connect(work / "spill", memory_limit) as con:
        Loader(folder, files, work, con).run()


class Loader:
    """One DuckDB connection that turns JSON tables into the cache's Parquet files."""

    def __init__(
        self, folder: Path, files: dict[str, Path], work: Path, con: duckdb.DuckDBPyConnection
    ) -> None:
        """Read from `files` of `folder`, write to `work`."""
        self.folder, self.files, self.work, self.con = folder, files, work, con

    def run(self) -> None:
        """Fill and check every cache table."""
        for name in ("scene", "log", "sample", "sensor", "calibrated_sensor", "category"):
            self._load(name, "SELECT * FROM {json}")
        self._scenes()
        self._keyframes()
        self._samples()
        self._cameras()
        self._instances()
        self._annotations()

    def _scenes(self) -> None:
        if "log" in self.files:
            self._check_reference("scene", "log_token", "log")
        self._check_reference("sample", "scene_token", "scene")
        self.con.execute("""
            CREATE TABLE scene_ids AS
            SELECT (row_number() OVER (ORDER BY name, token) - 1)::INT AS scene_id, * FROM scene;
            CREATE TABLE sample_ids AS
            SELECT
                (row_number() OVER (ORDER BY scene_id, timestamp, s.token) - 1)::INT AS sample_id,
                (row_number() OVER (PARTITION BY scene_id ORDER BY timestamp, s.token) - 1)::INT
                    AS frame_index,
                s.token, scene_id, timestamp
            FROM sample s JOIN scene_ids c ON c.token = s.scene_token
        """)
        self._write(
            "scenes",
            """
            SELECT scene_id, s.token, name, coalesce(description, '') AS description,
                coalesce(location, '') AS location, coalesce(vehicle, '') AS vehicle,
                coalesce(logfile, '') AS logfile, coalesce(n_samples, 0)::INT AS n_samples
            FROM scene_ids s LEFT JOIN log l ON l.token = s.log_token
            LEFT JOIN (SELECT scene_id, count(*) AS n_samples FROM sample_ids GROUP BY scene_id)
                USING (scene_id)
            ORDER BY scene_id
            """,
        )

    def _keyframes(self) -> None:
        """Keyframe records of the LIDAR and the cameras, and their ego poses."""
        self._load(
            "sample_data",
            """
            SELECT d.*, channel, c.translation AS c_translation, c.rotation AS c_rotation,
                camera_intrinsic
            FROM {json} d
            LEFT JOIN calibrated_sensor c ON c.token = d.calibrated_sensor_token
            LEFT JOIN sensor s ON s.token = c.sensor_token
            WHERE is_key_frame
                AND (channel IS NULL OR channel = 'LIDAR_TOP' OR modality = 'camera')
            """,
        )
        self._check_reference("sample_data", "calibrated_sensor_token", "calibrated_sensor")
        self._check_reference("calibrated_sensor", "sensor_token", "sensor")
        self._check_reference("sample_data", "sample_token", "sample")
        self._check(
            "sample_data",
            """
            SELECT max(token), channel FROM sample_data GROUP BY sample_token, channel
            HAVING count(*) > 1
            """,
            "is a second {} keyframe of one sample",
        )
        self.con.execute("CREATE TABLE wanted AS SELECT DISTINCT ego_pose_token FROM sample_data")
        self._load(
            "ego_pose", "SELECT * FROM {json} p SEMI JOIN wanted ON wanted.ego_pose_token = p.token"
        )
        self._check_reference("sample_data", "ego_pose_token", "ego_pose")
        self._check_pose("ego_pose")
        self._check_pose("calibrated_sensor")

    def _samples(self) -> None:
        self._write(
            "samples",
            f"""
            SELECT sample_id, i.token, scene_id, frame_index, i.timestamp AS timestamp_us,
                d.sample_token IS NOT NULL AS has_lidar, coalesce(filename, '') AS lidar_file,
                coalesce(d.timestamp, 0) AS lidar_timestamp_us,
                {_pose_columns("p.translation", "p.rotation", "ego_")},
                {_pose_columns("c_translation", "c_rotation", "lidar_")}
            FROM sample_ids i
            LEFT JOIN (SELECT * FROM sample_data WHERE channel = 'LIDAR_TOP') d
                ON d.sample_token = i.token
            LEFT JOIN ego_pose p ON p.token = d.ego_pose_token
            ORDER BY sample_id
            """,
        )

    def _cameras(self) -> None:
        intrinsics = ", ".join(
            f"camera_intrinsic[{i + 1}][{j + 1}] AS k{i}{j}" for i in range(3) for j in range(3)
        )
        self._write(
            "cameras",
            f"""
            SELECT sample_id, channel, filename AS file, d.timestamp AS timestamp_us,
                width, height,
                {_pose_columns("p.translation", "p.rotation", "ego_")},
                {_pose_columns("c_translation", "c_rotation", "camera_")},
                {intrinsics}
            FROM sample_data d
            JOIN sample_ids i ON i.token = d.sample_token
            JOIN ego_pose p ON p.token = d.ego_pose_token
            WHERE channel != 'LIDAR_TOP'
            ORDER BY sample_id, channel
            """,
        )

    def _instances(self) -> None:
        self._load("instance", "SELECT * FROM {json}")
        self._check_reference("instance", "category_token", "category")
        self.con.execute("""
            CREATE TABLE instance_ids AS
            SELECT (row_number() OVER (ORDER BY i.token) - 1)::INT AS instance_id, i.token,
                name AS category
            FROM instance i JOIN category c ON c.token = i.category_token
        """)
        self._write("instances", "SELECT * FROM instance_ids ORDER BY instance_id")

    def _annotations(self) -> None:
        self._load("attribute", "SELECT * FROM {json}")
        self._load(
            "sample_annotation",
            """
            SELECT a.token, a.sample_token, a.instance_token, sample_id, instance_id,
                translation, rotation, size, coalesce(t.name, '') AS attribute,
                coalesce(try_cast(visibility_token AS TINYINT), 0) AS visibility,
                coalesce(num_lidar_pts, 0) AS n_lidar_points,
                coalesce(num_radar_pts, 0) AS n_radar_points
            FROM {json} a
            LEFT JOIN sample_ids s ON s.token = a.sample_token
            LEFT JOIN instance_ids i ON i.token = a.instance_token
            LEFT JOIN attribute t ON t.token = a.attribute_tokens[1]
            """,
        )
        self._check_reference("sample_annotation", "sample_token", "sample")
        self._check_reference("sample_annotation", "instance_token", "instance")
        self._check_pose("sample_annotation")
        self._check(
            "sample_annotation",
            """
            SELECT token, size::VARCHAR FROM sample_annotation
            WHERE size IS NULL OR len(size) != 3
                OR NOT (isfinite(size[1]) AND isfinite(size[2]) AND isfinite(size[3]))
            """,
            "has size {}, not three finite metres",
        )
        self._check(
            "sample_annotation",
            """
            SELECT max(token), any_value(instance_token) FROM sample_annotation SEMI JOIN (
                SELECT sample_id, instance_id FROM sample_annotation
                GROUP BY ALL HAVING count(*) > 1
            ) USING (sample_id, instance_id) GROUP BY sample_id, instance_id
            """,
            "is a second box of instance {} in one sample",
        )
        self._write(
            "annotations",
            f"""
            SELECT token, sample_id, instance_id, {_pose_columns("translation", "rotation", "")},
                size[1] AS width_m, size[2] AS length_m, size[3] AS height_m, visibility,
                n_lidar_points, n_radar_points, attribute
            FROM sample_annotation ORDER BY sample_id, instance_id
            """,
        )

    def _load(self, name: str, query: str) -> None:
        """Create table `name` from a query over its JSON file, or empty where it has no file."""
        path = self.files.get(name)
        source = json_source([path] if path else [], TABLES[name])
        try:
            self.con.execute(f"CREATE TABLE {name} AS {query.format(json=source)}")
        except duckdb.Error as error:
            raise read_error(path or self.folder, error) from error
        self._check(
            name,
            f"SELECT '(unnamed)', '' FROM {name} WHERE token IS NULL",
            "has no `token`{}",
        )

    def _check(self, name: str, query: str, complaint: str) -> None:
        """Raise if the query, which yields (token, what is wrong), yields anything."""
        if bad := self.con.execute(f"{query} LIMIT 1").fetchall():
            token, what = bad[0]
            raise InputError(
                f"{self.folder / f'{name}.json'}: record {token} {complaint.format(what)}. "
                "The tables are damaged or of different versions; unpack them again."
            )

    def _check_reference(self, name: str, column: str, target: str) -> None:
        """Raise if a token that table `name` refers to does not exist in table `target`."""
        self._check(
            name,
            f"SELECT token, {column} FROM {name} a ANTI JOIN (SELECT token AS t FROM {target}) b "
            f"ON b.t = a.{column}",
            f"names {target} {{}}, which {target}.json does not hold",
        )

    def _check_pose(self, name: str) -> None:
        numbers = [f"translation[{i}]" for i in (1, 2, 3)] + [
            f"rotation[{i}]" for i in (1, 2, 3, 4)
        ]
        finite = " AND ".join(f"coalesce(isfinite({n}), false)" for n in numbers)
        norm = " + ".join(f"rotation[{i}] * rotation[{i}]" for i in (1, 2, 3, 4))
        self._check(
            name,
            f"""
            SELECT token, translation::VARCHAR || ', ' || rotation::VARCHAR FROM {name}
            WHERE NOT ({finite}) OR ({norm}) < 0.5
            """,
            "has pose {}, not three finite metres and a rotation",
        )

    def _write(self, name: str, query: str) -> None:
        write_cached(self.con.sql(query), self.work / f"{name}.parquet")


def _pose_columns(translation: str, rotation: str, prefix: str) -> str:
    """SQL for the seven flat columns of a pose; NaN where there is none."""
    place = [
        f"coalesce({translation}[{i}], 'nan') AS {prefix}{c}_m" for i, c in enumerate("xyz", 1)
    ]
    turn = [f"coalesce({rotation}[{i}], 'nan') AS {prefix}q{c}" for i, c in enumerate("wxyz", 1)]
    return ", ".join(place + turn)
