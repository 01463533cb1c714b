"""Maps in words: what lies around a keyframe as structured text in the LIDAR frame.

The text has one line a layer, always in the same order: how many elements there are and where the
nearest are. Points are `(x right, y ahead)` in metres with one decimal; lines are thinned to a few
points, each runs from behind to ahead. A text has at most about 2,500 characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from odvla_bench.datasets.nuscenes.map_json import BOUNDARY, Geometries
from odvla_bench.datasets.nuscenes.maps import IntArray, Patches, VectorMap
from odvla_bench.geometry import FloatArray

AREA_M = (30.0, 60.0)
"""Extent of the described area, centred on the LIDAR: to the right, and ahead. The range in which
the field's online-mapping models are scored."""
MAX_ELEMENTS = 5
MAX_POINTS = 6
TOLERANCE_M = 0.25
"""How far a thinned line may stray from the line, if it has few enough points."""

Strings = npt.NDArray[np.object_]


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

    keyframe: IntArray
    """(K,) rows of the keyframes."""
    token: Strings
    """(K,) map tokens; of the boundary the number of its ring."""
    kind: Strings
    """(K,) types as the map names them; may be empty."""
    geometry: Geometries
    """(K,) lines or polygons, LIDAR frame, metres."""
    distance_m: FloatArray
    """(K,) from the LIDAR, to the millimetre; 0 inside a polygon."""

    def nearest(self, count: int) -> Found:
        """The first `count` of each keyframe."""
        rank = np.arange(len(self.keyframe)) - np.searchsorted(self.keyframe, self.keyframe)
        rows = rank < count
        return Found(
            self.keyframe[rows],
            self.token[rows],
            self.kind[rows],
            self.geometry[rows],
            self.distance_m[rows],
        )


def around(vector_map: VectorMap, patches: Patches) -> dict[str, Found]:
    """Layer → what of it lies in each patch; also of road segments, which are not listed."""
    return {name: _sorted(vector_map, name, patches) for name in (*CAPTION_LAYERS, "road_segment")}


def captions(found: Mapping[str, Found], count: int, area_m: tuple[float, float]) -> list[str]:
    """The texts of `count` keyframes.

    Args:
        found: what `around` gave.
        count: number of keyframes.
        area_m: size of the patches.
    """
    right, ahead = (size / 2 for size in area_m)
    head = (
        f"Map up to {right:.1f} m to either side and {ahead:.1f} m ahead and behind, points "
        "(x right, y ahead) in metres."
    )
    lines = [_layer_lines(name, found[name], count) for name in LINES]
    place = _place_lines(found, count, area_m[0] * area_m[1])
    return ["\n".join((head, *parts)) for parts in zip(*lines, place, strict=True)]


def _sorted(vector_map: VectorMap, name: str, patches: Patches) -> Found:
    layer = vector_map.layer(name)
    clipped = layer.query(patches)
    distance = shapely.distance(clipped.geometry, shapely.Point(0, 0)).round(3)
    order = np.lexsort((clipped.element, distance, clipped.patch))
    rows = clipped.element[order]
    return Found(
        clipped.patch[order],
        layer.token[rows],
        layer.kind[rows],
        clipped.geometry[order],
        distance[order],
    )


def _layer_lines(name: str, found: Found, count: int) -> Iterator[str]:
    """One line of text a keyframe."""
    how = LINES[name]
    listed = found.nearest(MAX_ELEMENTS)
    texts = outlines(listed.geometry) if how.form == "outline" else centres(listed.geometry)
    if name == "stop_line":
        purpose = (_STOP_FOR.get(k, k.lower().replace("_", " ")) for k in listed.kind)
        texts = [f"{text} {why}".strip() for text, why in zip(texts, purpose, strict=True)]
    total = np.bincount(found.keyframe, minlength=count).tolist()
    ends = np.cumsum(np.bincount(listed.keyframe, minlength=count)).tolist()
    none = f"{how.title}: none."
    for n, start, end in zip(total, [0, *ends[:-1]], ends, strict=True):
        shown = "" if end - start == n else f", nearest {end - start}"
        yield f"{how.title} ({n}{shown}): {'; '.join(texts[start:end])}." if n else none


def _place_lines(found: Mapping[str, Found], count: int, area_m2: float) -> Iterator[str]:
    """One line a keyframe on the drivable area and on where the ego vehicle is."""
    paved = found["drivable_area"]
    area = np.bincount(paved.keyframe, shapely.area(paved.geometry), minlength=count)
    share = np.minimum(100 * area / area_m2, 100).round().astype(int).tolist()
    inside = (
        _is_inside(paved, count),
        _is_inside(found["lane"], count),
        _is_inside(found["road_segment"], count, "INTERSECTION"),
    )
    for percent, on_paved, in_lane, in_junction in zip(share, *inside, strict=True):
        where = ["in a lane"] * in_lane + ["at a junction"] * in_junction
        where.append("on the drivable area" if on_paved else "off the drivable area")
        yield f"Drivable area: {percent}%. The car is {' and '.join(where)}."


def _is_inside(found: Found, count: int, kind: str | None = None) -> list[bool]:
    """Whether each keyframe is inside an element, of one kind if one is given."""
    rows = found.distance_m == 0
    if kind is not None:
        rows &= found.kind == kind
    return (np.bincount(found.keyframe[rows], minlength=count) > 0).tolist()


def outlines(geometry: Geometries) -> list[str]:
    """`[(x,y),…]` for each LineString, and for each Polygon's outline without its last point."""
    if not len(geometry):
        return []
    ring = shapely.get_dimensions(geometry) == 2
    path = np.where(ring, shapely.get_exterior_ring(geometry), geometry)
    # Where a ring starts must not hang on the last bit of a rotation.
    path = shapely.set_coordinates(path, shapely.get_coordinates(path).round(6) + 0.0)
    path = _thinned(_forwards(shapely.normalize(path)))
    count = shapely.get_num_points(path)
    texts = points(shapely.get_coordinates(path))
    ends = np.cumsum(count)
    bounds = zip((ends - count).tolist(), (ends - ring).tolist(), strict=True)
    return [f"[{','.join(texts[start:end])}]" for start, end in bounds]


def centres(geometry: Geometries) -> list[str]:
    """`(x,y)` of the middle of each geometry."""
    return points(shapely.get_coordinates(shapely.centroid(geometry)))


def points(xy_m: FloatArray) -> list[str]:
    """(N, 2) → `(x,y)` with one decimal and no minus before a zero."""
    return [f"({x:.1f},{y:.1f})" for x, y in (xy_m.round(1) + 0.0).tolist()]


def _forwards(lines: Geometries) -> Geometries:
    """Lines that run from behind to ahead."""
    back = shapely.get_y(shapely.get_point(lines, 0)) > shapely.get_y(shapely.get_point(lines, -1))
    return np.where(back, shapely.reverse(lines), lines)


def _thinned(lines: Geometries) -> Geometries:
    """Lines of at most `MAX_POINTS` points: corners that matter, else points equally far apart."""
    lines = shapely.simplify(lines, TOLERANCE_M)
    long = shapely.get_num_points(lines) > MAX_POINTS
    share = np.linspace(0, 1, MAX_POINTS)
    at = shapely.line_interpolate_point(lines[long][:, None], share, normalized=True)
    xy = shapely.get_coordinates(at).reshape(-1, MAX_POINTS, 2)
    lines[long] = shapely.linestrings(xy)
    return lines
