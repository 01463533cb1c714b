"""The map expansion's JSON files (version 1.3) as vectorised geometry.

A file lists `node` (x, y), `line` and `polygon` (tokens of nodes, holes) and, by layer, records
that name a line or polygon. Here each record becomes one geometry in the GLOBAL frame; two layers
are derived: the long edges of the pedestrian crossings and the boundary of the road.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from odvla_bench.errors import InputError

LINE_LAYERS = ("lane_divider", "road_divider", "traffic_light")
POLYGON_LAYERS = (
    "drivable_area",
    "road_segment",
    "lane",
    "lane_connector",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
)
CROSSING_EDGES, BOUNDARY = "ped_crossing_edge", "boundary"
ROAD_LAYERS = ("road_segment", "lane")
"""The layers whose union the boundary encloses."""

_OLDEST_VERSION = (1, 3)
_MAX_FILE_BYTES = 1 << 30
_FARTHEST_M = 1e6
_PIECE_VERTICES = 16  # short pieces keep a patch's candidates near the patch
_KIND_FIELDS = {
    "stop_line": "stop_line_type",
    "traffic_light": "traffic_light_type",
    "lane": "lane_type",
}

Geometries = npt.NDArray[np.object_]
Record = dict[str, Any]


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
    source = _Source(path, _parse(path))
    layers = {name: source.line_layer(name) for name in LINE_LAYERS}
    polygons = {name: source.polygon_layer(name) for name in POLYGON_LAYERS}
    layers |= {name: _valid_only(found) for name, found in polygons.items()}
    layers[CROSSING_EDGES] = crossing_edges(polygons["ped_crossing"])
    layers[BOUNDARY] = boundary_pieces(
        np.concatenate([layers[name].geometry for name in ROAD_LAYERS])
    )
    return layers


def crossing_edges(crossings: Elements) -> Elements:
    """The two longest edges of each pedestrian crossing: where it meets the road.

    The rule is that of the field's vector-map code; of equal edges the later ones are taken, and
    an invalid polygon has edges as well as any.
    """
    edges = Elements()
    lines = []
    for token, polygon in zip(crossings.token, crossings.geometry, strict=True):
        ring = shapely.get_coordinates(shapely.get_exterior_ring(polygon))
        length = np.square(np.diff(ring, axis=0)).sum(1)
        for edge in np.argsort(length, kind="stable")[-2:]:
            edges.token.append(f"{token}:{edge}")
            lines.append(ring[edge : edge + 2])
    edges.kind = [""] * len(lines)
    edges.geometry = shapely.linestrings(lines) if lines else edges.geometry
    return edges


def boundary_pieces(roads: Geometries) -> Elements:
    """The boundary of the union of road polygons, in pieces of a few vertices.

    All run with the road on their right. A ring's pieces share its token.
    """
    pieces = Elements()
    lines: list[npt.NDArray[np.float64]] = []
    parts = shapely.get_parts(shapely.union_all(roads))
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
    pieces.geometry = _lines(lines)
    return pieces


def _parse(path: Path) -> Record:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than any nuScenes map (1 GiB). Unpack the file again.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole JSON file ({error}). Unpack it again.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a map expansion file (no object). Unpack it again.")
    version = raw.get("version", "1.0")
    try:
        new_enough = tuple(map(int, str(version).split("."))) >= _OLDEST_VERSION
    except ValueError:
        new_enough = False
    if not new_enough:
        raise InputError(
            f"{path}: map expansion version {version}; 1.3 is needed. "
            "Download the latest map expansion of nuScenes."
        )
    return raw


class _Source:
    """A parsed file: its nodes as an array, its lines and polygons by token."""

    def __init__(self, path: Path, raw: Record) -> None:
        self.path, self.raw = path, raw
        nodes = self._records("node")
        self.row = {node["token"]: i for i, node in enumerate(nodes)}
        self.xy_m = np.array([self._xy(node) for node in nodes], np.float64).reshape(-1, 2)
        if (bad := ~(np.abs(self.xy_m) < _FARTHEST_M).all(1)).any():
            raise self._damaged("node", nodes[int(bad.argmax())], "is not a place on a map")
        self.lines = {line["token"]: line for line in self._records("line")}
        self.polygons = {polygon["token"]: polygon for polygon in self._records("polygon")}

    def line_layer(self, name: str) -> Elements:
        """The lines of a layer; those of fewer than two nodes are skipped."""
        found, parts = Elements(), []
        for record in self._records(name):
            line = self._target(name, record, self.lines, record.get("line_token"))
            rows = self._nodes("line", line, line.get("node_tokens"))
            if len(rows) < 2:
                found.skipped.append(record["token"])
                continue
            found.token.append(record["token"])
            found.kind.append(self._kind(name, record))
            parts.append(self.xy_m[rows])
        found.geometry = _lines(parts)
        return found

    def polygon_layer(self, name: str) -> Elements:
        """The polygons of a layer, valid or not; those of fewer than three nodes are skipped."""
        found, rings, owner = Elements(), [], []
        for record, polygon in self._polygon_records(name):
            shell = self._nodes("polygon", polygon, polygon.get("exterior_node_tokens"))
            if len(shell) < 3:
                found.skipped.append(record["token"])
                continue
            around = [shell, *(hole for hole in self._holes(polygon) if len(hole) >= 3)]
            rings += [self.xy_m[rows] for rows in around]
            owner += [len(found.token)] * len(around)
            found.token.append(record["token"])
            found.kind.append(self._kind(name, record))
        polygons = shapely.polygons(_lines(rings, shapely.linearrings), indices=owner)
        found.geometry = np.atleast_1d(polygons)
        return found

    def _polygon_records(self, name: str) -> Iterator[tuple[Record, Record]]:
        """Records with their polygon; a drivable area has several."""
        for record in self._records(name):
            tokens = (
                record.get("polygon_tokens")
                if name == "drivable_area"
                else [record.get("polygon_token")]
            )
            if not isinstance(tokens, list):
                raise self._damaged(name, record, "has no list `polygon_tokens`")
            for token in tokens:
                yield record, self._target(name, record, self.polygons, token)

    def _holes(self, polygon: Record) -> Iterator[list[int]]:
        holes = polygon.get("holes", [])
        if not isinstance(holes, list) or not all(isinstance(hole, dict) for hole in holes):
            raise self._damaged("polygon", polygon, "has `holes` that are not a list of objects")
        for hole in holes:
            yield self._nodes("polygon", polygon, hole.get("node_tokens"))

    def _kind(self, name: str, record: Record) -> str:
        if name == "road_segment":
            return "INTERSECTION" if record.get("is_intersection") else ""
        return str(record.get(_KIND_FIELDS.get(name, ""), ""))

    def _records(self, layer: str) -> list[Record]:
        records = self.raw.get(layer)
        if not isinstance(records, list):
            raise InputError(f"{self.path}: no layer {layer!r}. Unpack the map expansion again.")
        for number, record in enumerate(records):
            if not isinstance(record, dict) or not isinstance(record.get("token"), str):
                raise InputError(
                    f"{self.path}: record {number} of layer {layer!r} has no `token`. "
                    "Unpack the map expansion again."
                )
        return records

    def _xy(self, node: Record) -> tuple[float, float]:
        try:
            return float(node["x"]), float(node["y"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged("node", node, "has no numbers `x` and `y`") from error

    def _target(self, name: str, record: Record, among: dict[str, Record], token: Any) -> Record:
        if not isinstance(token, str) or token not in among:
            raise self._damaged(name, record, f"refers to geometry {token!r}, which is not there")
        return among[token]

    def _nodes(self, layer: str, record: Record, tokens: Any) -> list[int]:
        """Rows of nodes in `xy_m`."""
        if not isinstance(tokens, list):
            raise self._damaged(layer, record, "has no list of node tokens")
        try:
            return [self.row[token] for token in tokens]
        except (KeyError, TypeError) as error:
            raise self._damaged(layer, record, f"refers to node {error}, not there") from error

    def _damaged(self, layer: str, record: Record, what: str) -> InputError:
        return InputError(
            f"{self.path}: {layer} {record['token']} {what}. Unpack the map expansion again."
        )


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


def _lines(
    parts: Sequence[npt.NDArray[np.float64]], make: Callable[..., Any] = shapely.linestrings
) -> Geometries:
    """(n, 2) coordinate arrays → linestrings or, as `make` says, rings."""
    owner = np.repeat(np.arange(len(parts)), [len(xy) for xy in parts])
    xy = np.concatenate([np.empty((0, 2)), *parts])
    return np.atleast_1d(make(xy, indices=owner))
