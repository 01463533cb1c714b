"""nuScenes v1.0 tables as columns: JSON → Parquet cache → numpy.

The JSON is read once, by DuckDB, with explicit columns and a memory limit. What the package needs
of it (keyframes joined with poses and calibration, annotations joined with ids) goes into a cache
directory whose name is a fingerprint of the files' contents and of this module's schema, so that
loading again takes about a second.

Scenes are numbered by name and keyframes by (scene, time): `sample_id` is a row of `samples`,
`scene_id` one of `scenes`, `instance_id` one of `instances`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench import geometry
from odvla_bench.datasets.nuscenes import load
from odvla_bench.datasets.nuscenes.cache import fingerprint_files
from odvla_bench.errors import InputError
from odvla_bench.provenance import default_cache_dir

LIDAR_CHANNEL = "LIDAR_TOP"
CAMERA_CHANNELS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
"""The six cameras in the order of the field's info files."""


@dataclass(frozen=True)
class NuScenesTables:
    """One version of nuScenes; tables are read from the cache when first asked for."""

    root: Path
    """The nuScenes root: the folder that holds `VERSION/`, `samples/`, `maps/`, `can_bus/`."""
    version: str
    """Such as `v1.0-trainval`."""
    fingerprint: str
    """Digest of the contents of the JSON files read."""
    cache_dir: Path
    """Where this fingerprint's Parquet files lie."""

    @cached_property
    def scenes(self) -> pa.Table:
        """`scene_id, token, name, description, location, vehicle, logfile, n_samples`."""
        return self._read("scenes")

    @cached_property
    def samples(self) -> pa.Table:
        """One row a keyframe, by scene and time.

        `sample_id, token, scene_id, frame_index, timestamp_us`, the LIDAR_TOP keyframe's file,
        time, ego pose (`ego_*`, EGO in GLOBAL) and calibration (`lidar_*`, LIDAR in EGO), and
        `has_lidar`: false where the keyframe has no LIDAR_TOP record, and with it no pose.
        """
        return self._read("samples")

    @cached_property
    def cameras(self) -> pa.Table:
        """One row a camera keyframe: file, time, ego pose at that time, calibration, intrinsics."""
        return self._read("cameras")

    @cached_property
    def instances(self) -> pa.Table:
        """`instance_id, token, category`."""
        return self._read("instances")

    @cached_property
    def annotations(self) -> pa.Table:
        """One row a box, by (sample_id, instance_id), in the GLOBAL frame.

        `token, sample_id, instance_id, x_m … qz, width_m, length_m, height_m, visibility`
        (1…4, 0 unknown), `n_lidar_points, n_radar_points, attribute`.
        """
        return self._read("annotations")

    def _read(self, table: str) -> pa.Table:
        return pq.ParquetFile(self.cache_dir / f"{table}.parquet").read()


def load_tables(
    root: Path | str,
    version: str,
    *,
    cache_dir: Path | str | None = None,
    memory_limit: str = "2GB",
) -> NuScenesTables:
    """Open a nuScenes version, reading its JSON only if these contents were never read before.

    Args:
        root: the nuScenes root, which holds the folder `version`.
        version: `v1.0-trainval`, `v1.0-mini`, `v1.0-test` or any folder of v1.0 tables.
        cache_dir: parent of the caches; default `$ODVLA_CACHE`, else `~/.cache/odvla_bench`.
        memory_limit: what DuckDB may take while it reads the JSON, such as "500MB".

    Raises:
        InputError: a missing, truncated or malformed table, a reference to a token that does not
            exist, a pose that is not finite; with file and token.
    """
    root = Path(root)
    folder = root / version
    if not folder.is_dir():
        found = ", ".join(sorted(p.name for p in root.glob("v1.0-*") if p.is_dir()))
        raise InputError(
            f"{root}: no folder {version!r} here (found: {found or 'no v1.0-* folder'}). "
            "Give the folder that holds the tables' folder, and --version."
        )
    parent = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    salt = f"tables {load.SCHEMA_VERSION}"
    fingerprint = fingerprint_files(load.table_files(folder), parent, salt)
    target = parent / "nuscenes" / fingerprint
    if not target.is_dir():
        load.build_cache(folder, target, memory_limit=memory_limit)
    return NuScenesTables(root, version, fingerprint, target)


def numpy_columns(table: pa.Table, *names: str) -> npt.NDArray[Any]:
    """Columns of equal type side by side: (rows,) for one name, (rows, n) for n names."""
    columns = [table[name].to_numpy() for name in names]
    return columns[0] if len(columns) == 1 else np.stack(columns, -1)


def list_column(rows: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column of equally long lists → (N, length); (0, 0) without rows."""
    column = rows[name].combine_chunks()
    if not len(column):
        return np.zeros((0, 0))
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def poses(table: pa.Table, prefix: str) -> geometry.Pose:
    """The poses in a table's seven columns `<prefix>x_m … <prefix>qz`."""
    q = numpy_columns(table, *(f"{prefix}{c}" for c in ("qw", "qx", "qy", "qz")))
    t = numpy_columns(table, *(f"{prefix}{c}" for c in ("x_m", "y_m", "z_m")))
    return geometry.pose_from_quaternion(q, t)
