"""Stage-1 map captions: the vector map around each keyframe as text, and its vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.builders.language import text_table
from odvla_bench.datasets.builders.map_text import (
    AREA_M,
    CAPTION_LAYERS,
    Found,
    around,
    at_junctions,
    captions,
)
from odvla_bench.datasets.builders.planning import plan_scenes, rows_where
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.nuscenes.ego import EgoMotion
from odvla_bench.datasets.nuscenes.map_layers import Layer
from odvla_bench.datasets.nuscenes.patches import Patches
from odvla_bench.datasets.nuscenes.paths import Bools, IntArray, Paths
from odvla_bench.datasets.nuscenes.thinning import clockwise
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


def _rows(context: Context, samples: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows of both tables, by keyframe."""
    ids, texts = [np.empty(0, np.int32)], [pa.array([], pa.string())]
    elements = []
    for location in samples["location"].unique().to_pylist():
        here = samples.filter(pc.equal(samples["location"], location))
        vector_map = context.maps[location]
        patches = Patches.around(EgoMotion.from_samples(here).global_from_lidar, AREA_M)
        found = around(vector_map, patches)
        sample_id = here["sample_id"].to_numpy()
        ids.append(sample_id)
        texts.append(captions(found, at_junctions(vector_map, patches), AREA_M))
        elements += [elements_of(sample_id, found[name]) for name in CAPTION_LAYERS]
    sample_id = np.concatenate(ids)
    order = np.argsort(sample_id)
    text = pa.concat_arrays(texts).take(pa.array(order))
    return _caption_table(context, sample_id[order], text), element_table(context, elements)


def _caption_table(context: Context, sample_id: IntArray, text: pa.Array) -> pa.Table:
    token = context.keyframes.columns["sample_token"].take(pa.array(sample_id)).combine_chunks()
    rows = {
        "row_id": token,
        "sample_id": sample_id,
        "task": "map_caption",
        "sentinels": "<map>",
        "question": DEFAULT.question("map_caption"),
        "answer": text,
        "source_key": token,
        "source_row": -1,
    }
    return text_table(ALIGNMENT, BUILDER.name, LICENSE, context.keyframes, rows)


class Elements(NamedTuple):
    """K lines, or rings of polygons, of one layer around keyframes."""

    layer: Layer
    sample_id: IntArray
    """(K,) ids of the keyframes."""
    element: IntArray
    """(K,) rows of the layer."""
    is_hole: Bools
    paths: Paths
    """(K,) LIDAR frame, metres, float32."""


def elements_of(sample_id: IntArray, found: Found) -> Elements:
    """One row a line, or a ring of a polygon, clockwise from its leftmost point.

    Args:
        sample_id: (N,) ids of the keyframes.
        found: what lies around them.
    """
    there = found.there
    paths = clockwise(there.paths, ~there.is_hole) if there.is_area else there.paths
    x, y = (axis.astype(np.float32) for axis in (paths.x_m, paths.y_m))
    return Elements(
        found.layer,
        sample_id[there.patch[there.owner]],
        there.element[there.owner],
        there.is_hole,
        Paths(x, y, paths.size),
    )


def element_table(context: Context, found: Sequence[Elements]) -> pa.Table:
    """Rows of the table of map elements, by keyframe."""
    schema = MAP_ELEMENTS.schema
    if not found:
        return schema.empty_table()
    sample_id, element, is_hole = (
        np.concatenate([getattr(part, name) for part in found])
        for name in ("sample_id", "element", "is_hole")
    )
    part = np.repeat(np.arange(len(found)), [len(part.paths) for part in found])
    order = np.argsort(sample_id, kind="stable")
    paths = Paths.joined([part.paths for part in found]).take(order)
    offsets = np.append(0, paths.stop).astype(np.int32)
    sample = pa.array(sample_id[order])
    rows = {
        "sample_id": sample,
        "sample_token": context.keyframes.columns["sample_token"].take(sample),
        **_names([part.layer for part in found], part[order], element[order], is_hole[order]),
        "x_m": pa.ListArray.from_arrays(offsets, pa.array(paths.x_m)),
        "y_m": pa.ListArray.from_arrays(offsets, pa.array(paths.y_m)),
    }
    return pa.table([rows[name] for name in schema.names], schema=schema)


def _names(
    layers: Sequence[Layer], part: IntArray, element: IntArray, is_hole: Bools
) -> dict[str, pa.Array]:
    """What the map says of elements: of rows `element` of the layers of numbers `part`."""
    first = np.cumsum([0, *(len(layer.token) for layer in layers)])
    number, row = pa.array(part), pa.array(first[part] + element)
    kind = pa.array(np.concatenate([layer.kind for layer in layers]), pa.string())
    token = pa.array(np.concatenate([layer.token for layer in layers]), pa.string())
    return {
        "layer": pa.array([layer.name for layer in layers]).take(number),
        "kind": pc.if_else(pa.array(is_hole), "hole", kind.take(row)),
        "element_token": token.take(row),
        "closed": pa.array([layer.is_area for layer in layers]).take(number),
    }


def _drops(samples: pa.Table, reason: str) -> Iterator[Drop]:
    why = {
        "no_split": "no official split names its scene",
        "no_lidar": "it has no LIDAR_TOP record, and with it no pose",
        "no_map": "the map expansion has no file for its location",
    }[reason]
    for token in samples["token"].to_pylist():
        yield Drop(ALIGNMENT.name, token, reason, f"keyframe {token}: {why}")
