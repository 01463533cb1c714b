"""Vector maps: the layers of a nuScenes map as geometry, and what lies in patches of it.

The expansion's JSON is read once; its geometry goes into a content-keyed cache as WKB. Patches are
asked for by the thousand: one tree search for all, one numpy step into the patches' frames, one
vectorised clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from odvla_bench.datasets.nuscenes.cache import fingerprint_files, new_directory
from odvla_bench.datasets.nuscenes.map_json import (
    BOUNDARY,
    CROSSING_EDGES,
    Elements,
    Geometries,
    read_map,
)
from odvla_bench.datasets.nuscenes.map_records import LINE_LAYERS, POLYGON_LAYERS
from odvla_bench.geometry import FloatArray, Pose, box_corners, yaw_of
from odvla_bench.provenance import digest_text
from odvla_bench.registry import suggest

SCHEMA_VERSION = 1
"""Raised whenever the cached geometry or its meaning changes."""

LAYERS = (*LINE_LAYERS, *POLYGON_LAYERS, CROSSING_EDGES, BOUNDARY)
BOUNDARY_INSET_M = 0.2
"""How far the field's code draws a patch in before it takes the boundary, metres."""

_CELL_M = 64.0
_LONG_VERTICES = 256
_BLOCK_VERTICES = 1 << 16  # vertices clipped at a time; they fit into a processor's cache
_MARGIN_M = 1e-3

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Patches:
    """P rectangles of one size on a map, each turned its own way."""

    centre_m: FloatArray
    """(P, 2) centres, GLOBAL, metres."""
    yaw_rad: FloatArray
    """(P,) heading of each patch's +x axis, counter-clockwise from GLOBAL +x."""
    size_m: tuple[float, float]
    """Extent along the patch's x and along its y, metres."""

    @classmethod
    def around(cls, global_from_frame: Pose, size_m: tuple[float, float]) -> Patches:
        """Patches centred on P poses, in whose frame their vectors will be.

        With LIDAR poses x is right and y forward, with EGO poses x is forward and y left. Only
        the heading of a pose counts, not its pitch and roll.
        """
        place = global_from_frame.translation_m[:, :2]
        return cls(place, yaw_of(global_from_frame.rotation), size_m)

    @cached_property
    def outlines(self) -> Geometries:
        """(P,) the rectangles as polygons, GLOBAL."""
        length, width = np.array(self.size_m)
        corners = box_corners(self.centre_m, self.yaw_rad, length, width)
        return np.atleast_1d(shapely.polygons(corners))

    def from_global(self, xy_m: FloatArray, patch: IntArray) -> FloatArray:
        """(N, 2) GLOBAL points → (N, 2) points in the frames of the patches of rows `patch`."""
        dx, dy = xy_m[:, 0] - self.centre_m[patch, 0], xy_m[:, 1] - self.centre_m[patch, 1]
        cos, sin = np.cos(self.yaw_rad)[patch], np.sin(self.yaw_rad)[patch]
        return np.stack([cos * dx + sin * dy, cos * dy - sin * dx], -1)


@dataclass(frozen=True)
class Clipped:
    """What of one layer lies in patches: one row a connected line or polygon."""

    patch: IntArray
    """(K,) rows of the patches, ascending."""
    element: IntArray
    """(K,) rows of the layer's elements (of its first piece, where a line was merged)."""
    geometry: Geometries
    """(K,) LineStrings or Polygons in the frame of their patch, metres."""


@dataclass(frozen=True)
class Layer:
    """One layer of a map."""

    name: str
    token: npt.NDArray[np.object_]
    """(E,) tokens of the records; pieces of one line share one."""
    kind: npt.NDArray[np.object_]
    """(E,) what the map says of the type, such as TRAFFIC_LIGHT for a stop line; may be empty."""
    geometry: Geometries
    """(E,) LineStrings or Polygons, GLOBAL, metres."""

    @cached_property
    def tree(self) -> shapely.STRtree:
        """A search tree over the geometry."""
        return shapely.STRtree(self.geometry)

    @cached_property
    def is_long(self) -> npt.NDArray[np.bool_]:
        """(E,) which outlines are worth to be cut before they are looked at."""
        return np.asarray(shapely.get_num_coordinates(self.geometry) > _LONG_VERTICES)

    @cached_property
    def bounds(self) -> FloatArray:
        """(E, 4) lowest x and y, highest x and y, GLOBAL."""
        return np.asarray(shapely.bounds(self.geometry)).reshape(-1, 4)

    @cached_property
    def line_of_piece(self) -> IntArray | None:
        """(E,) first row of the line that each row is a piece of; None where all are whole."""
        if self.name != BOUNDARY:
            return None
        _, first, inverse = np.unique(self.token, return_index=True, return_inverse=True)
        return first[inverse]

    def query(self, patches: Patches) -> Clipped:
        """What of the layer lies in each patch; a line along a patch's very edge does not."""
        inset = BOUNDARY_INSET_M if self.name == BOUNDARY else 0.0
        half = (patches.size_m[0] / 2 - inset, patches.size_m[1] / 2 - inset)
        patch, element = self._candidates(patches, half)
        shapes = self._trimmed(element, patches, patch)
        parts = [
            _clip(shapes[rows], patches, patch[rows], half)
            for rows in _blocks(shapely.get_num_coordinates(shapes))
        ]
        inside = np.concatenate([np.empty(0, object), *parts])
        if self.line_of_piece is not None:
            patch, element, inside = _merged(patch, self.line_of_piece[element], inside)
        single, owner = _singles(inside, 2 if self.name in POLYGON_LAYERS else 1)
        return Clipped(patch[owner], element[owner], single)

    def _candidates(
        self, patches: Patches, half_m: tuple[float, float]
    ) -> tuple[IntArray, IntArray]:
        """Pairs of patch and element, sorted, without those whose boxes are apart."""
        patch, element = self.tree.query(patches.outlines)
        # Of what a turned patch's upright box holds, much is outside the patch.
        low, high = self.bounds[element, :2], self.bounds[element, 2:]
        middle = patches.from_global((low + high) / 2, patch)
        x, y = ((high - low) / 2).T
        cos, sin = np.abs(np.cos(patches.yaw_rad)[patch]), np.abs(np.sin(patches.yaw_rad)[patch])
        reach = np.stack([cos * x + sin * y, cos * y + sin * x], -1) + half_m + _MARGIN_M
        near = (np.abs(middle) < reach).all(1)
        patch, element = patch[near], element[near]
        order = np.argsort(patch * len(self.geometry) + element)
        return patch[order], element[order]

    def _trimmed(self, element: IntArray, patches: Patches, patch: IntArray) -> Geometries:
        """The geometry of each (element, patch) pair; of long outlines what is near the patch.

        A town's drivable area is one polygon with every block as a hole. It is cut once for each
        cell of a coarse grid, with so much around the cell that no patch with its centre there
        reaches the cut.
        """
        shapes = self.geometry[element]
        long = np.flatnonzero(self.is_long[element])
        cell = np.floor(patches.centre_m[patch[long]] / _CELL_M).astype(np.int64)
        keys, pair = np.unique(np.column_stack([element[long], cell]), axis=0, return_inverse=True)
        reach = np.hypot(*patches.size_m) / 2 + 1.0
        cut = np.empty(len(keys), object)
        for i, (row, x, y) in enumerate(keys):
            low = np.array([x, y]) * _CELL_M - reach
            high = low + _CELL_M + 2 * reach
            cut[i] = shapely.clip_by_rect(self.geometry[row], *low, *high)
        shapes[long] = cut[pair.reshape(-1)]
        return shapes


@dataclass(frozen=True)
class VectorMap:
    """The layers of one location's map; read from the cache when first asked for."""

    location: str
    file: Path
    """The cache's Parquet file: layer, token, kind, WKB in GLOBAL metres."""

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """Every layer of `LAYERS`, by name."""
        table = pq.read_table(self.file)
        names = table["layer"].to_numpy()
        token, kind, wkb = (table[c].to_numpy().astype(object) for c in ("token", "kind", "wkb"))
        geometry = shapely.from_wkb(wkb)
        rows = {name: names == name for name in LAYERS}
        return {name: Layer(name, token[r], kind[r], geometry[r]) for name, r in rows.items()}

    def layer(self, name: str) -> Layer:
        """A layer by name.

        Raises:
            UnknownNameError: no such layer.
        """
        if name not in LAYERS:
            raise suggest(name, list(LAYERS), kind="map layer")
        return self.layers[name]

    def query(self, patches: Patches, layers: Iterable[str] = LAYERS) -> dict[str, Clipped]:
        """What lies in each patch, layer by layer, in the patches' own frames.

        Args:
            patches: where to look.
            layers: names of `LAYERS`: the map's own; `ped_crossing_edge`, the two long edges of
                each crossing; `boundary`, the border of the union of road segments and lanes, up
                to `BOUNDARY_INSET_M` from the patch's edge, the road on its right.
        """
        return {name: self.layer(name).query(patches) for name in layers}

    @cached_property
    def skipped(self) -> dict[str, list[str]]:
        """Layer → tokens of records that have no valid geometry."""
        rows = pq.read_table(self.file.with_name("skipped.parquet")).to_pylist()
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["layer"], []).append(row["token"])
        return found


@dataclass(frozen=True)
class Maps(Mapping[str, VectorMap]):
    """The maps that a nuScenes root has, by location; those whose file is absent are not in it."""

    files: Mapping[str, Path]
    cache_parent: Path
    _open: dict[str, VectorMap] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the contents of all files."""
        return digest_text(*(f"{name} {self._key(name)}" for name in self))

    def _key(self, location: str) -> str:
        files = {location: self.files[location]}
        return fingerprint_files(files, self.cache_parent, f"map {SCHEMA_VERSION}")

    def __getitem__(self, location: str) -> VectorMap:
        if location not in self._open:
            folder = self.cache_parent / "maps" / self._key(location)
            if not folder.is_dir():
                _write(read_map(self.files[location]), folder)
            self._open[location] = VectorMap(location, folder / "elements.parquet")
        return self._open[location]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.files))

    def __len__(self) -> int:
        return len(self.files)


def find_maps(root: Path, cache_parent: Path) -> Maps:
    """The maps under `root/maps/expansion`; a nuScenes root without them is normal.

    Opening one raises InputError if its file is damaged.

    Args:
        root: the nuScenes root.
        cache_parent: the cache directory that holds the tables' caches.
    """
    files = sorted((root / "maps" / "expansion").glob("*.json"))
    return Maps({path.stem: path for path in files}, cache_parent)


def _write(layers: dict[str, Elements], folder: Path) -> None:
    elements = [
        pa.table(
            {
                "layer": pa.repeat(name, len(found.token)),
                "token": pa.array(found.token, pa.string()),
                "kind": pa.array(found.kind, pa.string()),
                "wkb": pa.array(shapely.to_wkb(found.geometry), pa.binary()),
            }
        )
        for name, found in layers.items()
    ]
    skipped = [(name, token) for name, found in layers.items() for token in found.skipped]
    names, tokens = zip(*skipped, strict=True) if skipped else ((), ())
    with new_directory(folder) as work:
        pq.write_table(pa.concat_tables(elements), work / "elements.parquet", compression="lz4")
        texts = {"layer": pa.array(names, pa.string()), "token": pa.array(tokens, pa.string())}
        pq.write_table(pa.table(texts), work / "skipped.parquet")


def _clip(
    geometry: Geometries, patches: Patches, patch: IntArray, half_m: tuple[float, float]
) -> Geometries:
    """GLOBAL geometries → what of each lies in its patch, in the patch's frame."""
    xy, owner = shapely.get_coordinates(geometry, return_index=True)
    xy = patches.from_global(xy, patch[owner])
    if (shapely.get_type_id(geometry) == shapely.GeometryType.LINESTRING).all():
        local = shapely.linestrings(xy, indices=owner)  # faster than new coordinates for old lines
    else:
        local = shapely.set_coordinates(geometry.copy(), xy)
    return np.atleast_1d(shapely.clip_by_rect(local, -half_m[0], -half_m[1], *half_m))


def _singles(inside: Geometries, dimension: int) -> tuple[Geometries, IntArray]:
    """The lines (dimension 1) or polygons (2) that geometries consist of, and which they are of.

    Of a shape that it only touches a patch holds a point or, of a polygon, a line.
    """
    simple = {1: shapely.GeometryType.LINESTRING, 2: shapely.GeometryType.POLYGON}[dimension]
    there = np.flatnonzero(~shapely.is_empty(inside))
    is_single = shapely.get_type_id(inside[there]) == simple
    owner, several = there[is_single], there[~is_single]
    if not len(several):
        return inside[owner], owner
    parts, of = shapely.get_parts(inside[several], return_index=True)
    real = (shapely.get_dimensions(parts) == dimension) & ~shapely.is_empty(parts)
    owner = np.r_[owner, several[of[real]]]
    order = np.argsort(owner, kind="stable")
    return np.concatenate([inside[there[is_single]], parts[real]])[order], owner[order]


def _blocks(vertices: IntArray) -> Iterator[slice]:
    """Runs of rows that hold about `_BLOCK_VERTICES` vertices each."""
    block = np.cumsum(vertices) // _BLOCK_VERTICES
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1), len(block)]
    return (slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True))


def _merged(
    patch: IntArray, line: IntArray, pieces: Geometries
) -> tuple[IntArray, IntArray, Geometries]:
    """Join the touching pieces of each line in each patch; sorted by patch and line."""
    parts, owner = shapely.get_parts(pieces, return_index=True)
    keep = ~shapely.is_empty(parts)
    parts, owner = parts[keep], owner[keep]
    order = np.lexsort((line[owner], patch[owner]))
    parts, owner = parts[order], owner[order]
    keys = np.stack([patch[owner], line[owner]], -1)
    new = np.r_[True, (keys[1:] != keys[:-1]).any(1)] if len(keys) else np.zeros(0, bool)
    lines = shapely.multilinestrings(parts, indices=np.cumsum(new) - 1)
    return keys[new, 0], keys[new, 1], shapely.line_merge(np.atleast_1d(lines))
