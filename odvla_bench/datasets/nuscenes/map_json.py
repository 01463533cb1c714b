"""The map expansion's JSON files (version 1.3) as vectorised geometry.

A file lists `node` (x, y), `line` and `polygon` (tokens of nodes, holes) and, by layer, records
that name a line or polygon. Here each record becomes one geometry in the GLOBAL frame; two layers
are derived: the long edges of the pedestrian crossings and the boundary of the road.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from odvla_bench.datasets.nuscenes.map_records import (
    LINE_LAYERS,
    POLYGON_LAYERS,
    Columns,
    damaged,
    lacks,
    read_records,
)
from odvla_bench.datasets.nuscenes.paths import Geometries, IntArray

CROSSING_EDGES, BOUNDARY = "ped_crossing_edge", "boundary"
_NOTHING_M = 1e-6
"""How far a lane may reach beyond the road segments and still add nothing to them."""

_FARTHEST_M = 1e6
_PIECE_VERTICES = 16  # short pieces keep a patch's candidates near the patch
_KIND_FIELDS = {
    "stop_line": "stop_line_type",
    "traffic_light": "traffic_light_type",
    "lane": "lane_type",
}


@dataclass
class Elements:
    """The elements of one layer, row by row."""

    token: list[str] = field(default_factory=list)
    """The record's token; pieces of one line share a token and are merged again in a patch."""
    kind: list[str] = field(default_factory=list)
    """What the map says of its type, such as TRAFFIC_LIGHT for a stop line; may be empty."""
    geometry: Geometries = field(default_factory=lambda: np.empty(0, object))
    """Lines or polygons, GLOBAL, metres."""
    skipped: list[str] = field(default_factory=list)
    """Tokens of records without a valid geometry; nuscenes-devkit passes them over too (but
    fails on an invalid drivable area)."""


def read_map(path: Path) -> dict[str, Elements]:
    """Every layer of a map expansion file, and the two derived ones.

    Raises:
        InputError: not a map of version 1.3, or a record that is damaged; with layer and token.
    """
    source = _Source(path, read_records(path))
    layers = {name: source.line_layer(name) for name in LINE_LAYERS}
    polygons = {name: source.polygon_layer(name) for name in POLYGON_LAYERS}
    layers |= {name: _valid_only(found) for name, found in polygons.items()}
    layers[CROSSING_EDGES] = crossing_edges(polygons["ped_crossing"])
    layers[BOUNDARY] = boundary_pieces(layers["road_segment"].geometry, layers["lane"].geometry)
    return layers


def crossing_edges(crossings: Elements) -> Elements:
    """The two longest edges of each pedestrian crossing: where it meets the road.

    The rule is that of the field's vector-map code; of equal edges the later ones are taken, and
    an invalid polygon has edges as well as any.
    """
    rings = shapely.get_exterior_ring(crossings.geometry)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    length = np.square(np.diff(xy, axis=0)).sum(1)
    edges = np.flatnonzero(np.diff(ring) == 0)
    edges = edges[np.lexsort((length[edges], ring[edges]))]
    longest = np.diff(ring[edges], append=-1) != 0
    edges = edges[longest | np.r_[longest[1:], False]]
    number = edges - np.searchsorted(ring, ring[edges])
    return Elements(
        [f"{crossings.token[i]}:{n}" for i, n in zip(ring[edges], number, strict=True)],
        [""] * len(edges),
        _shapes(np.stack([xy[edges], xy[edges + 1]], 1).reshape(-1, 2), np.full(len(edges), 2)),
    )


def boundary_pieces(segments: Geometries, lanes: Geometries) -> Elements:
    """The boundary of the union of road segments and lanes, in pieces of a few vertices.

    All run with the road on their right. A ring's pieces share its token.
    """
    pieces = Elements()
    lines: list[npt.NDArray[np.float64]] = []
    parts = shapely.get_parts(_union(segments, lanes))
    rings, part = shapely.get_rings(parts, return_index=True)
    outer = np.diff(part, prepend=-1) > 0
    for number, (ring, is_outer) in enumerate(zip(rings, outer, strict=True)):
        xy = shapely.get_coordinates(ring)
        if shapely.is_ccw(ring) == is_outer:
            xy = xy[::-1]
        cut = [xy[i : i + _PIECE_VERTICES] for i in range(0, len(xy) - 1, _PIECE_VERTICES - 1)]
        lines += cut
        pieces.token += [f"ring {number}"] * len(cut)
        pieces.kind += ["outer" if is_outer else "hole"] * len(cut)
    size = np.array([len(line) for line in lines], np.int64)
    pieces.geometry = _shapes(np.concatenate([np.empty((0, 2)), *lines]), size)
    return pieces


def _union(segments: Geometries, lanes: Geometries) -> shapely.Geometry:
    """The union of road segments and lanes; most lanes lie in the segments, and cost little."""
    road = shapely.union_all(segments)
    grown = shapely.buffer(road, _NOTHING_M, join_style="mitre")
    shapely.prepare(grown)
    return shapely.union_all([road, *lanes[~shapely.covers(grown, lanes)]])


class _Source:
    """A parsed file: its nodes as an array, and its layers' geometry."""

    def __init__(self, path: Path, layers: dict[str, Columns]) -> None:
        self.path, self.layers = path, layers
        node = layers["node"]
        self.xy_m = np.column_stack([_numbers(node[axis]) for axis in "xy"])
        for axis in "xy":
            self._refuse("node", node["token"], node[axis].is_null(), lacks(axis))
        far = ~(np.abs(self.xy_m) < _FARTHEST_M).all(1)
        self._refuse("node", node["token"], pa.array(far), "is not a place on a map")

    @cached_property
    def places(self) -> dict[str, pa.ListArray]:
        """Column of node tokens → the same lists with rows of `xy_m`; null where there is none."""
        polygon, token = self.layers["polygon"], self.layers["node"]["token"]
        (holes,) = polygon["holes"].values.flatten()
        lists = {
            "node_tokens": self.layers["line"]["node_tokens"],
            "exterior_node_tokens": polygon["exterior_node_tokens"],
            "holes": holes,
        }
        # All at once, because each search first hashes the tokens of all nodes.
        rows = _rows(pa.concat_arrays([tokens.values for tokens in lists.values()]), token)
        found = {}
        for name, tokens in lists.items():
            found[name] = _with(tokens, rows.slice(0, len(tokens.values)))
            rows = rows.slice(len(tokens.values))
        return found | {"holes": _with(polygon["holes"], found["holes"])}

    def line_layer(self, name: str) -> Elements:
        """The lines of a layer; those of fewer than two nodes are skipped."""
        token = self.layers[name]["token"]
        rows = self._targets(name, token, self.layers[name]["line_token"], "line")
        lines = {n: column.take(rows) for n, column in self.layers["line"].items()}
        places = self.places["node_tokens"].take(rows)
        xy, size = self._points("line", lines["token"], lines["node_tokens"], places)
        whole = size >= 2
        geometry = _shapes(xy[np.repeat(whole, size)], size[whole])
        return _elements(token, self._kinds(name), whole, geometry)

    def polygon_layer(self, name: str) -> Elements:
        """The polygons of a layer, valid or not; those of fewer than three nodes are skipped."""
        token, kind, target = self._polygons_of(name)
        rows = self._targets(name, token, target, "polygon")
        polygons = {n: column.take(rows) for n, column in self.layers["polygon"].items()}
        shells, holes = (self.places[n].take(rows) for n in ("exterior_node_tokens", "holes"))
        hole_places, of = _flat(holes)
        (hole_tokens,) = polygons["holes"].flatten().flatten()
        owners = polygons["token"].take(pa.array(of))
        xy, size = self._points(
            "polygon", polygons["token"], polygons["exterior_node_tokens"], shells
        )
        hole_xy, hole_size = self._points("polygon", owners, hole_tokens, hole_places)
        whole = size >= 3
        # Each polygon's outline, then its holes.
        owner, size = np.r_[np.arange(len(size)), of], np.r_[size, hole_size]
        good = (size >= 3) & whole[owner]
        xy = np.concatenate([xy, hole_xy])[np.repeat(good, size)]
        rings = _shapes(xy, size[good], shapely.linearrings)
        owner = (np.cumsum(whole) - 1)[owner[good]]
        order = np.argsort(owner, kind="stable")
        geometry = np.atleast_1d(shapely.polygons(rings[order], indices=owner[order]))
        return _elements(token, kind, whole, geometry)

    def _polygons_of(self, name: str) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Token and kind of a layer's records, and their polygon; a drivable area has several."""
        columns = self.layers[name]
        token, kind = columns["token"], self._kinds(name)
        if name != "drivable_area":
            return token, kind, columns["polygon_token"]
        lists = columns["polygon_tokens"]
        self._refuse(name, token, lists.is_null(), lacks("polygon_tokens"))
        polygons, of = _flat(lists)
        return token.take(pa.array(of)), kind.take(pa.array(of)), polygons

    def _kinds(self, name: str) -> pa.Array:
        columns = self.layers[name]
        if name == "road_segment":
            inside = pc.equal(columns["is_intersection"], pa.scalar(value=True))
            return pc.if_else(inside, "INTERSECTION", "").fill_null("")
        if field_name := _KIND_FIELDS.get(name):
            return pc.fill_null(columns[field_name], "")
        return pa.repeat("", len(columns["token"]))

    def _targets(self, name: str, token: pa.Array, wanted: pa.Array, layer: str) -> pa.Array:
        """Rows of the lines or polygons that records name."""
        rows = _rows(wanted, self.layers[layer]["token"])
        if (first := _first(rows.is_null())) >= 0:
            what = f"refers to geometry {wanted[first].as_py()!r}, which is not there"
            raise damaged(self.path, name, token[first].as_py(), what)
        return rows

    def _points(
        self, layer: str, token: pa.Array, nodes: pa.ListArray, places: pa.ListArray
    ) -> tuple[npt.NDArray[np.float64], IntArray]:
        """The points of lines or rings, and how many each has.

        Args:
            layer: "line" or "polygon".
            token: whose they are.
            nodes: tokens of their nodes.
            places: rows of the same in `xy_m`.
        """
        self._refuse(layer, token, nodes.is_null(), lacks("node_tokens"))
        rows, of = _flat(places)
        if (first := _first(rows.is_null())) >= 0:
            what = f"refers to node {nodes.flatten()[first].as_py()!r}, not there"
            raise damaged(self.path, layer, token[int(of[first])].as_py(), what)
        return self.xy_m[_numbers(rows)], np.bincount(of, minlength=len(nodes))

    def _refuse(self, layer: str, token: pa.Array, bad: pa.Array, what: str) -> None:
        """Raise for the first bad record, if there is one."""
        if (first := _first(bad)) >= 0:
            raise damaged(self.path, layer, token[first].as_py(), what)


def _elements(
    token: pa.Array, kind: pa.Array, whole: npt.NDArray[np.bool_], geometry: Geometries
) -> Elements:
    """The whole ones of some records, whose geometry this is; the others are skipped."""
    kept = pa.array(whole)
    skipped = token.filter(pc.invert(kept))
    return Elements(
        token.filter(kept).to_pylist(), kind.filter(kept).to_pylist(), geometry, skipped.to_pylist()
    )


def _rows(wanted: pa.Array, among: pa.Array) -> pa.Array:
    """Where each token stands, null if nowhere; the last of several equal ones."""
    return pc.subtract(len(among) - 1, pc.index_in(wanted, among[::-1]))


def _flat(lists: pa.ListArray) -> tuple[pa.Array, IntArray]:
    """The items of all lists, and the row of the list that each is in."""
    return lists.flatten(), _numbers(pc.list_parent_indices(lists))


def _with(lists: pa.ListArray, values: pa.Array) -> pa.ListArray:
    """The lists with other values."""
    return pa.ListArray.from_arrays(lists.offsets, values, mask=lists.is_null())


def _first(where: pa.Array) -> int:
    """The first row that is true, or -1."""
    return int(where.index(pa.scalar(value=True)).as_py())


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _valid_only(found: Elements) -> Elements:
    """Without the invalid polygons, which are listed as skipped."""
    valid = shapely.is_valid(found.geometry)
    invalid = itertools.compress(found.token, ~valid)
    return Elements(
        list(itertools.compress(found.token, valid)),
        list(itertools.compress(found.kind, valid)),
        found.geometry[valid],
        [*found.skipped, *invalid],
    )


def _shapes(
    xy: npt.NDArray[np.float64], size: IntArray, make: Callable[..., Any] = shapely.linestrings
) -> Geometries:
    """(n, 2) points → linestrings or, as `make` says, rings of so many points each."""
    return np.atleast_1d(make(xy, indices=np.repeat(np.arange(len(size)), size)))
