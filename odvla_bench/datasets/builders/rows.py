"""What builders share: scenes as units, and columns as tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Unit
from odvla_bench.datasets.nuscenes.splits import split_of_scene

Columns = dict[str, Any]


def scene_units(source: str, context: Context) -> list[Unit]:
    """Groups of `scenes_per_shard` scenes of one split that have keyframes, in scene order."""
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


def where_in(table: pa.Table, column: str, values: Any) -> pa.Table:
    """The rows whose `column` holds one of `values`, in their order."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return table.filter(pc.is_in(table[column], pa.array(values, table[column].type)))


def to_table(columns: Columns, schema: pa.Schema) -> pa.Table:
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
