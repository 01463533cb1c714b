"""Maps in words: what lies around a keyframe as structured text in the LIDAR frame.

The text has one line a layer, always in the same order: how many elements there are and where the
nearest are. Points are `(x right, y ahead)` in metres with one decimal; lines are thinned to a few
points, each runs from behind to ahead. A text has at most about 2,500 characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from odvla_bench.datasets.nuscenes.map_json import BOUNDARY
from odvla_bench.datasets.nuscenes.map_layers import Layer
from odvla_bench.datasets.nuscenes.maps import VectorMap
from odvla_bench.datasets.nuscenes.patches import Clipped, Patches
from odvla_bench.datasets.nuscenes.paths import Bools, IntArray, Paths
from odvla_bench.datasets.nuscenes.thinning import in_normal_form, resampled, thinned
from odvla_bench.geometry import FloatArray

AREA_M = (30.0, 60.0)
"""Extent of the described area, centred on the LIDAR: to the right, and ahead. The range in which
the field's online-mapping models are scored."""
MAX_ELEMENTS = 5
MAX_POINTS = 6
TOLERANCE_M = 0.25
"""How far a thinned line may stray from the line, if it has few enough points."""

_INSIDE_M = 0.0005
"""What is nearer is at a distance of 0, to the millimetre."""


@dataclass(frozen=True)
class Line:
    """How the text speaks of a layer."""

    title: str
    form: str
    """"outline": the points of a line or ring; "centre": the middle point."""


LINES = {
    "road_divider": Line("Road dividers", "outline"),
    "lane_divider": Line("Lane dividers", "outline"),
    BOUNDARY: Line("Road boundaries", "outline"),
    "ped_crossing": Line("Pedestrian crossings", "outline"),
    "stop_line": Line("Stop lines", "centre"),
    "traffic_light": Line("Traffic lights", "centre"),
    "lane": Line("Lane centres", "centre"),
}
"""Layers whose elements are listed, in the order of the text."""
CAPTION_LAYERS = (*LINES, "drivable_area")
"""Layers whose elements are in the table of vectors."""
_STOP_FOR = {
    "TRAFFIC_LIGHT": "for a traffic light",
    "PED_CROSSING": "for a crossing",
    "STOP_SIGN": "for a stop sign",
    "TURN_STOP": "before a turn",
    "YIELD": "to give way",
}


@dataclass(frozen=True)
class Found:
    """What of one layer lies around N keyframes, sorted by keyframe and distance."""

    layer: Layer
    there: Clipped
    """(K,) lines or polygons, LIDAR frame, metres; patches are the keyframes."""
    distance_m: FloatArray
    """(K,) from the LIDAR, to the millimetre; 0 inside a polygon."""

    @property
    def keyframe(self) -> IntArray:
        """(K,) rows of the keyframes."""
        return self.there.patch

    def nearest(self, count: int) -> Clipped:
        """The first `count` of each keyframe."""
        rank = np.arange(len(self.there)) - np.searchsorted(self.keyframe, self.keyframe)
        return self.there.take(rank < count)


def around(vector_map: VectorMap, patches: Patches) -> dict[str, Found]:
    """Layer → what of it lies in each patch."""
    return {name: _sorted(vector_map, name, patches) for name in CAPTION_LAYERS}


def at_junctions(vector_map: VectorMap, patches: Patches) -> Bools:
    """(P,) whether the middle of each patch is in a road segment that is an intersection."""
    roads = vector_map.layer("road_segment")
    middle = shapely.points(patches.centre_m)
    patch, road = roads.tree.query(middle, predicate="dwithin", distance=_INSIDE_M)
    inside = np.zeros(len(patches.centre_m), bool)
    inside[patch[roads.kind[road] == "INTERSECTION"]] = True
    return inside


def captions(
    found: Mapping[str, Found], in_junction: Bools, area_m: tuple[float, float]
) -> pa.Array:
    """The texts of N keyframes.

    Args:
        found: what `around` gave.
        in_junction: (N,) what `at_junctions` gave.
        area_m: size of the patches.
    """
    count = len(in_junction)
    right, ahead = (size / 2 for size in area_m)
    head = (
        f"Map up to {right:.1f} m to either side and {ahead:.1f} m ahead and behind, points "
        "(x right, y ahead) in metres."
    )
    lines = [_layer_lines(name, found[name], count) for name in LINES]
    place = _place_lines(found, in_junction, area_m[0] * area_m[1])
    return pc.binary_join_element_wise(head, *lines, place, "\n")


def _sorted(vector_map: VectorMap, name: str, patches: Patches) -> Found:
    layer = vector_map.layer(name)
    there = layer.query(patches)
    millimetres = (there.distance_m() * 1000).round()
    # They are sorted by patch and element already.
    order = np.argsort((there.patch << 32) + millimetres.astype(np.int64), kind="stable")
    return Found(layer, there.take(order), millimetres[order] / 1000)


def _layer_lines(name: str, found: Found, count: int) -> pa.Array:
    """One line of text a keyframe."""
    how = LINES[name]
    listed = found.nearest(MAX_ELEMENTS)
    if how.form == "outline":
        texts = outlines(listed.paths.take(~listed.is_hole), are_rings=listed.is_area)
    else:
        texts = points(listed.centroids_m())
    if name == "stop_line":
        purposes = [f" {_purpose(kind)}".rstrip() for kind in found.layer.kind]
        why = pa.array(purposes, pa.string()).take(pa.array(listed.element))
        texts = pc.binary_join_element_wise(texts, why, "")
    total = np.bincount(found.keyframe, minlength=count)
    shown = np.bincount(listed.patch, minlength=count)
    counts, which = np.unique(total * (MAX_ELEMENTS + 1) + shown, return_inverse=True)
    heads = [_head(how.title, *divmod(n, MAX_ELEMENTS + 1)) for n in counts.tolist()]
    return pc.binary_join_element_wise(
        pa.array(heads, pa.string()).take(pa.array(which)), _joined(texts, shown, "; "), ".", ""
    )


def _head(title: str, total: int, shown: int) -> str:
    """What stands before the elements of a layer."""
    if not total:
        return f"{title}: none"
    return f"{title} ({total}{'' if shown == total else f', nearest {shown}'}): "


@cache
def _purpose(kind: str) -> str:
    return _STOP_FOR.get(kind, kind.lower().replace("_", " "))


def _place_lines(found: Mapping[str, Found], in_junction: Bools, area_m2: float) -> pa.Array:
    """One line a keyframe on the drivable area and on where the ego vehicle is."""
    count, paved = len(in_junction), found["drivable_area"]
    area = np.bincount(paved.keyframe, paved.there.area_m2, minlength=count)
    share = np.minimum(100 * area / area_m2, 100).round().astype(int)
    inside = (_is_inside(paved, count), _is_inside(found["lane"], count), in_junction)
    return pa.array(map(_place, *(column.tolist() for column in (share, *inside))), pa.string())


@cache
def _place(percent: int, on_paved: bool, in_lane: bool, in_junction: bool) -> str:  # noqa: FBT001
    where = ["in a lane"] * in_lane + ["at a junction"] * in_junction
    where.append("on the drivable area" if on_paved else "off the drivable area")
    return f"Drivable area: {percent}%. The car is {' and '.join(where)}."


def _is_inside(found: Found, count: int) -> Bools:
    """Whether each keyframe is inside an element."""
    return np.bincount(found.keyframe[found.distance_m == 0], minlength=count) > 0


def outlines(paths: Paths, *, are_rings: bool) -> pa.Array:
    """`[(x,y),…]` for each line, and for each outline of a polygon without its last point.

    Lines run from behind to ahead, else to the right; closed ones clockwise from their left end.
    """
    paths = resampled(thinned(in_normal_form(paths), TOLERANCE_M), MAX_POINTS)
    shown = np.ones(len(paths.x_m), bool)
    if are_rings:
        shown[paths.stop - 1] = False
    texts = points(np.column_stack([paths.x_m[shown], paths.y_m[shown]]))
    return pc.binary_join_element_wise("[", _joined(texts, paths.size - are_rings, ","), "]", "")


def points(xy_m: FloatArray) -> pa.Array:
    """(N, 2) points of a patch → `(x,y)` with one decimal and no minus before a zero."""
    tenths = (xy_m * 10).round().astype(np.int32)
    limit = 1000 * (1 + int(np.abs(tenths).max(initial=0)) // 1000)
    opened, closed = _numbers(limit)
    x, y = (pa.array(column) for column in (tenths + limit).T)
    return pc.binary_join_element_wise(opened.take(x), closed.take(y), "")


@cache
def _numbers(limit: int) -> tuple[pa.Array, pa.Array]:
    """`(x,` and `y)` of all numbers of tenths up to a limit, from the least."""
    numbers = [f"{n / 10:.1f}" for n in range(-limit, limit + 1)]
    return pa.array([f"({n}," for n in numbers]), pa.array([f"{n})" for n in numbers])


def _joined(texts: pa.Array, lengths: IntArray, separator: str) -> pa.Array:
    """Runs of so many texts each, joined."""
    offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, texts), separator)
