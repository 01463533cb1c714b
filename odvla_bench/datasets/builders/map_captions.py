"""Stage-1 map captions: the vector map around each keyframe as text, and its vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.builders.map_text import (
    AREA_M,
    CAPTION_LAYERS,
    Found,
    around,
    captions,
)
from odvla_bench.datasets.builders.rows import Columns, scene_units, to_table, where_in
from odvla_bench.datasets.nuscenes.ego import EgoMotion
from odvla_bench.datasets.nuscenes.map_json import POLYGON_LAYERS
from odvla_bench.datasets.nuscenes.maps import Patches
from odvla_bench.datasets.prompts import DEFAULT
from odvla_bench.datasets.schema import ALIGNMENT, MAP_ELEMENTS

TASK = "map_caption"
LICENSE = "terms of the nuScenes map expansion"
"""The wording is this package's, the content the map's."""

_EMPTY_TEXTS = (
    *("instance_token", "annotation_token", "category", "view", "raw"),
    *("appearance", "motion", "environment", "relation"),
)


class MapCaptionsBuilder:
    """One caption a keyframe with a LIDAR pose whose location has a map."""

    name = "map_captions"
    tables = (ALIGNMENT.name, MAP_ELEMENTS.name)

    def plan(self, context: Context) -> list[Unit]:
        """Groups of scenes; none where the map expansion is absent."""
        return scene_units(self.name, context) if context.maps else []

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """Captions and vectors of the unit's keyframes, location by location."""
        samples = where_in(context.nuscenes.samples, "scene_id", unit.payload)
        scenes = context.nuscenes.scenes.take(samples["scene_id"])
        samples = samples.append_column("location", scenes["location"])
        samples = samples.append_column("scene_name", scenes["name"])
        read = {ALIGNMENT.name: samples.num_rows}
        if not unit.split:
            return UnitRows({}, read, list(_drops(samples, "no_split")))
        mapped = pc.is_in(samples["location"], pa.array(list(context.maps), pa.string()))
        kept = pc.and_(samples["has_lidar"], mapped)
        dropped = [
            *_drops(samples.filter(pc.invert(samples["has_lidar"])), "no_lidar"),
            *_drops(samples.filter(pc.and_(samples["has_lidar"], pc.invert(mapped))), "no_map"),
        ]
        rows, elements = _rows(context, samples.filter(kept), unit.split)
        tables = {ALIGNMENT.name: rows, MAP_ELEMENTS.name: elements}
        return UnitRows(tables, {**read, MAP_ELEMENTS.name: elements.num_rows}, dropped)


BUILDER = MapCaptionsBuilder()


def _rows(context: Context, samples: pa.Table, split: str) -> tuple[pa.Table, pa.Table]:
    """Rows of both tables, by keyframe."""
    rows, elements = [ALIGNMENT.schema.empty_table()], [MAP_ELEMENTS.schema.empty_table()]
    for location in samples["location"].unique().to_pylist():
        here = samples.filter(pc.equal(samples["location"], location))
        pose = EgoMotion.from_samples(here).global_from_lidar
        found = around(context.maps[location], Patches.around(pose, AREA_M))
        texts = captions(found, here.num_rows, AREA_M)
        rows.append(to_table(caption_columns(here, texts, split), ALIGNMENT.schema))
        elements += [
            to_table(element_columns(here, name, found[name]), MAP_ELEMENTS.schema)
            for name in CAPTION_LAYERS
        ]
    by_sample = [("sample_id", "ascending")]
    return pa.concat_tables(rows).sort_by(by_sample), pa.concat_tables(elements).sort_by(by_sample)


def caption_columns(samples: pa.Table, texts: list[str], split: str) -> Columns:
    """Columns of the alignment table."""
    n = samples.num_rows
    answers = pa.array(texts, pa.string())
    question = f"<map>\n{DEFAULT.question(TASK)}"
    messages = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        for text in texts
    ]
    return {
        **{name: pa.repeat("", n) for name in _EMPTY_TEXTS},
        "row_id": pc.binary_join_element_wise(BUILDER.name, samples["token"], ":"),
        "sample_id": samples["sample_id"],
        "sample_token": samples["token"],
        "scene_name": samples["scene_name"],
        "split": pa.repeat(split, n),
        "source": pa.repeat(BUILDER.name, n),
        "license": pa.repeat(LICENSE, n),
        "task": pa.repeat(TASK, n),
        "flags": pa.array([[]] * n, pa.list_(pa.string())),
        "instance_id": np.full(n, -1),
        "x_m": np.zeros(n),
        "y_m": np.zeros(n),
        "source_key": samples["token"],
        "source_row": np.full(n, -1),
        "messages": pa.array(messages, ALIGNMENT.schema.field("messages").type),
        "answer": answers,
        "references": _singletons(answers),
    }


def element_columns(samples: pa.Table, layer: str, found: Found) -> Columns:
    """Columns of the table of map elements: one row a line, or a ring of a polygon."""
    closed = layer in POLYGON_LAYERS
    lines, owner = found.geometry, np.arange(len(found.geometry))
    if closed:
        lines, owner = shapely.get_rings(found.geometry, return_index=True)
    hole = np.diff(owner, prepend=-1) == 0
    kind = np.where(hole, "hole", found.kind[owner])
    xy = shapely.get_coordinates(lines)
    ends = np.cumsum(shapely.get_num_points(lines))
    offsets = pa.array(np.r_[0, ends].astype(np.int32))
    of = samples.take(pa.array(found.keyframe[owner]))
    return {
        "sample_id": of["sample_id"],
        "sample_token": of["token"],
        "layer": pa.repeat(layer, len(lines)),
        "kind": pa.array(kind, pa.string()),
        "element_token": pa.array(found.token[owner], pa.string()),
        "closed": pa.repeat(closed, len(lines)),
        **{
            f"{axis}_m": pa.ListArray.from_arrays(offsets, pa.array(xy[:, i], pa.float64()))
            for i, axis in enumerate("xy")
        },
    }


def _singletons(texts: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1, dtype=np.int32)), texts)


def _drops(samples: pa.Table, reason: str) -> Iterator[Drop]:
    why = {
        "no_split": "no official split names its scene",
        "no_lidar": "it has no LIDAR_TOP record, and with it no pose",
        "no_map": "the map expansion has no file for its location",
    }[reason]
    for token in samples["token"].to_pylist():
        yield Drop(ALIGNMENT.name, token, reason, f"keyframe {token}: {why}")
