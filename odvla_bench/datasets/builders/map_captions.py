"""Stage-1 map captions: the vector map around each keyframe as text, and its vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.builders.language import text_table
from odvla_bench.datasets.builders.map_text import (
    AREA_M,
    CAPTION_LAYERS,
    Found,
    around,
    captions,
)
from odvla_bench.datasets.builders.planning import plan_scenes, rows_where
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.nuscenes.ego import EgoMotion
from odvla_bench.datasets.nuscenes.map_records import POLYGON_LAYERS
from odvla_bench.datasets.nuscenes.maps import Patches
from odvla_bench.datasets.prompts import DEFAULT
from odvla_bench.datasets.schema import ALIGNMENT, MAP_ELEMENTS

LICENSE = "CC BY-NC-SA 4.0"
"""The map's; the wording is this package's."""

LOCATIONS = (
    "boston-seaport",
    "singapore-hollandvillage",
    "singapore-onenorth",
    "singapore-queenstown",
)


def _file(location: str) -> Requirement:
    return Requirement(
        location,
        (f"maps/expansion/{location}.json",),
        "map expansion v1.3 on nuscenes.org/download, unpacked into the nuScenes root's maps/",
        LICENSE,
        "tens of MB",
        ALIGNMENT.name,
        place="nuscenes",
    )


class MapCaptionsBuilder:
    """One caption a keyframe that has a LIDAR pose and whose location has a map."""

    name = "map_captions"
    tables = (ALIGNMENT.name, MAP_ELEMENTS.name)
    requires = tuple(map(_file, LOCATIONS))

    def plan(self, context: Context) -> list[Unit]:
        """Units of `scenes_per_shard` scenes of one split, in scene order; none without maps."""
        return plan_scenes(self.name, context) if context.maps else []

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """Captions and vectors of the unit's keyframes, location by location."""
        samples = rows_where(context.nuscenes.samples, "scene_id", unit.payload)
        location = context.nuscenes.scenes["location"].take(samples["scene_id"])
        samples = samples.append_column("location", location)
        read = {ALIGNMENT.name: samples.num_rows}
        if not unit.split:
            return UnitRows({}, read, list(_drops(samples, "no_split")))
        seen = samples.filter(samples["has_lidar"])
        mapped = pc.is_in(seen["location"], pa.array(list(context.maps), pa.string()))
        dropped = [
            *_drops(samples.filter(pc.invert(samples["has_lidar"])), "no_lidar"),
            *_drops(seen.filter(pc.invert(mapped)), "no_map"),
        ]
        rows, elements = _rows(context, seen.filter(mapped))
        tables = {ALIGNMENT.name: rows, MAP_ELEMENTS.name: elements}
        return UnitRows(tables, {**read, MAP_ELEMENTS.name: elements.num_rows}, dropped)


BUILDER = MapCaptionsBuilder()
_ELEMENTS = pa.schema(f for f in MAP_ELEMENTS.schema if f.name != "sample_token")
"""Of what is found; which keyframe it is of is looked up once, for all."""


def _rows(context: Context, samples: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows of both tables, by keyframe."""
    ids, texts = [pa.array([], pa.int32())], [pa.array([], pa.string())]
    elements = [_ELEMENTS.empty_table()]
    for location in samples["location"].unique().to_pylist():
        here = samples.filter(pc.equal(samples["location"], location))
        pose = EgoMotion.from_samples(here).global_from_lidar
        found = around(context.maps[location], Patches.around(pose, AREA_M))
        ids += here["sample_id"].chunks
        texts.append(captions(found, here.num_rows, AREA_M))
        elements += [element_table(here["sample_id"], name, found[name]) for name in CAPTION_LAYERS]
    sample = pa.concat_arrays(ids)
    order = pc.sort_indices(sample)
    table = _caption_table(context, sample.take(order), pa.concat_arrays(texts).take(order))
    rows = pa.concat_tables(elements).sort_by([("sample_id", "ascending")])
    token = context.keyframes.columns["sample_token"].take(rows["sample_id"])
    return table, rows.append_column("sample_token", token).select(MAP_ELEMENTS.schema.names)


def _caption_table(context: Context, sample: pa.Array, text: pa.Array) -> pa.Table:
    token = context.keyframes.columns["sample_token"].take(sample).combine_chunks()
    rows = {
        "row_id": token,
        "sample_id": sample,
        "task": "map_caption",
        "sentinels": "<map>",
        "question": DEFAULT.question("map_caption"),
        "answer": text,
        "source_key": token,
        "source_row": -1,
    }
    return text_table(ALIGNMENT, BUILDER.name, LICENSE, context.keyframes, rows)


def element_table(sample_id: pa.ChunkedArray, layer: str, found: Found) -> pa.Table:
    """Rows of the table of map elements: one a line, or a ring of a polygon.

    Args:
        sample_id: of the keyframes.
        layer: its name.
        found: what of it lies around them.
    """
    closed = layer in POLYGON_LAYERS
    lines, owner = found.geometry, np.arange(len(found.geometry))
    if closed:
        lines, owner = shapely.get_rings(found.geometry, return_index=True)
    kind = found.kind[owner]
    kind[np.diff(owner, prepend=-1) == 0] = "hole"
    xy = shapely.get_coordinates(lines).astype(np.float32)
    ends = np.cumsum(shapely.get_num_points(lines))
    offsets = pa.array(np.r_[0, ends].astype(np.int32))
    columns = {
        "sample_id": sample_id.take(pa.array(found.keyframe[owner])),
        "layer": pa.repeat(layer, len(lines)),
        "kind": pa.array(kind, pa.string()),
        "element_token": pa.array(found.token[owner], pa.string()),
        "closed": pa.repeat(closed, len(lines)),
        "x_m": pa.ListArray.from_arrays(offsets, pa.array(xy[:, 0])),
        "y_m": pa.ListArray.from_arrays(offsets, pa.array(xy[:, 1])),
    }
    return pa.table([columns[name] for name in _ELEMENTS.names], schema=_ELEMENTS)


def _drops(samples: pa.Table, reason: str) -> Iterator[Drop]:
    why = {
        "no_split": "no official split names its scene",
        "no_lidar": "it has no LIDAR_TOP record, and with it no pose",
        "no_map": "the map expansion has no file for its location",
    }[reason]
    for token in samples["token"].to_pylist():
        yield Drop(ALIGNMENT.name, token, reason, f"keyframe {token}: {why}")
