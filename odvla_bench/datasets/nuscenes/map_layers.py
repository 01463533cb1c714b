"""A layer of a map, and what of it lies in patches.

Patches are asked for by the thousand: one tree search for all, one step into the patches' frames,
one clip. The geometry stays arrays of points from end to end; only polygons that have holes or very
long outlines go through GEOS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from odvla_bench.datasets.nuscenes.clipping import Half, Pieces, clip_lines, end_to_end, rings_of
from odvla_bench.datasets.nuscenes.map_json import BOUNDARY
from odvla_bench.datasets.nuscenes.map_records import POLYGON_LAYERS
from odvla_bench.datasets.nuscenes.patches import Clipped, Patches
from odvla_bench.datasets.nuscenes.paths import Bools, Geometries, IntArray, Paths, blocks
from odvla_bench.geometry import FloatArray

BOUNDARY_INSET_M = 0.2
"""How far the field's code draws a patch in before it takes the boundary, metres."""

_CELL_M, _COARSER, _LARGEST_M = 64.0, 8, 512.0
_LONG_VERTICES = 256
_BLOCK_VERTICES = 1 << 15  # points clipped at a time; they fit into a processor's cache
_MARGIN_M = 1e-3


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

    @property
    def is_area(self) -> bool:
        """Whether the elements are polygons."""
        return self.name in POLYGON_LAYERS

    @cached_property
    def tree(self) -> shapely.STRtree:
        """A search tree over the geometry."""
        return shapely.STRtree(self.geometry)

    @cached_property
    def bounds(self) -> FloatArray:
        """(E, 4) lowest x and y, highest x and y, GLOBAL."""
        return np.asarray(shapely.bounds(self.geometry)).reshape(-1, 4)

    @cached_property
    def paths(self) -> Paths:
        """(E,) the lines, or the polygons' outlines counter-clockwise, GLOBAL."""
        if not self.is_area:
            return Paths.of(self.geometry)
        outlines = Paths.of(shapely.get_exterior_ring(self.geometry))
        return outlines.flipped(outlines.area_m2() < 0)

    @cached_property
    def is_plain(self) -> Bools:
        """(E,) which polygons are clipped as arrays of points."""
        size, holes = (
            count(self.geometry)
            for count in (shapely.get_num_coordinates, shapely.get_num_interior_rings)
        )
        return np.asarray((size <= _LONG_VERTICES) & (holes == 0))

    @cached_property
    def line_of_piece(self) -> IntArray:
        """(E,) first row of the line that each row is a piece of."""
        _, first, inverse = np.unique(self.token, return_index=True, return_inverse=True)
        return first[inverse]

    def query(self, patches: Patches) -> Clipped:
        """What of the layer lies in each patch; a line along a patch's very edge does not."""
        inset = BOUNDARY_INSET_M if self.name == BOUNDARY else 0.0
        half = (patches.size_m[0] / 2 - inset, patches.size_m[1] / 2 - inset)
        patch, element = self._candidates(patches, half)
        if self.is_area:
            return self._areas(patches, patch, element, half)
        paths, owner, _ = self._pieces(patches, patch, element, half)
        patch, element = patch[owner], element[owner]
        if self.name == BOUNDARY:
            element = self.line_of_piece[element]
            paths, first = end_to_end(paths, patch * len(self.geometry) + element)
            patch, element = patch[first], element[first]
        return Clipped(patch, element, paths, np.arange(len(patch)), is_area=False)

    def _candidates(self, patches: Patches, half_m: Half) -> tuple[IntArray, IntArray]:
        """Pairs of patch and element, sorted, without those whose boxes are apart."""
        patch, element = self.tree.query(patches.outlines)
        # Of what a turned patch's upright box holds, much is outside the patch.
        low, high = self.bounds[element, :2], self.bounds[element, 2:]
        x, y = ((high - low) / 2).T
        cos, sin = (np.abs(values)[patch] for values in patches.axis)
        middle_x, middle_y = ((low + high) / 2).T
        middle = patches.from_global(middle_x, middle_y, patch)
        reach = (cos * x + sin * y + half_m[0], cos * y + sin * x + half_m[1])
        near = [np.abs(m) < r + _MARGIN_M for m, r in zip(middle, reach, strict=True)]
        patch, element = (rows[near[0] & near[1]] for rows in (patch, element))
        order = np.argsort(patch * len(self.geometry) + element)
        return patch[order], element[order]

    def _pieces(self, patches: Patches, patch: IntArray, element: IntArray, half_m: Half) -> Pieces:
        """What is of paths in patches; owners are rows of the (patch, element) pairs."""
        found = []
        for rows in blocks(self.paths.size[element], _BLOCK_VERTICES):
            local = self._in_patches(patches, patch[rows], element[rows])
            found.append((rows, clip_lines(local, half_m)))
        return Pieces.joined(found)

    def _in_patches(self, patches: Patches, patch: IntArray, element: IntArray) -> Paths:
        """The path of each pair in the frame of its patch."""
        paths = self.paths.take(element)
        x, y = patches.from_global(paths.x_m, paths.y_m, np.repeat(patch, paths.size))
        return Paths(x, y, paths.size)

    def _areas(self, patches: Patches, patch: IntArray, element: IntArray, half_m: Half) -> Clipped:
        """What lies of polygons in patches, for pairs of both."""
        plain = np.flatnonzero(self.is_plain[element])
        pieces = self._pieces(patches, patch[plain], element[plain], half_m)
        missed = np.setdiff1d(np.arange(len(plain)), pieces.owner)
        local = self._in_patches(patches, patch[plain[missed]], element[plain[missed]])
        around = missed[local.encloses_origin()]
        paths, owner, odd = rings_of(pieces, around, half_m)
        rows = plain[owner]
        found = Clipped(patch[rows], element[rows], paths, np.arange(len(rows)), is_area=True)
        others = np.ones(len(patch), bool)
        others[plain] = False
        others[plain[odd]] = True
        if not others.any():
            return found
        patch, element = patch[others], element[others]
        shapes = self._trimmed(element, patches, patch)
        polygons, of = _clip_by_geos(shapes, patches, patch, half_m)
        return Clipped.joined([found, Clipped.of_polygons(patch[of], element[of], polygons)])

    def _trimmed(self, element: IntArray, patches: Patches, patch: IntArray) -> Geometries:
        """The geometry of each (element, patch) pair; of long outlines what is near the patch.

        A town's drivable area is one polygon with every block as a hole. It is cut once for each
        cell of a coarse grid, with so much around the cell that no patch with its centre there
        reaches the cut.
        """
        shapes = self.geometry[element]
        reach = float(np.hypot(*patches.size_m)) / 2 + 1.0
        long = np.flatnonzero(shapely.get_num_coordinates(shapes) > _LONG_VERTICES)
        cell = np.floor(patches.centre_m[patch[long]] / _CELL_M).astype(np.int64)
        keys, of = np.unique(np.column_stack([element[long], cell]), axis=0, return_inverse=True)
        cut = np.array([self._near(_Cell(reach, _CELL_M, *key)) for key in keys.tolist()], object)
        shapes[long] = cut[of.reshape(-1)]
        return shapes

    def _near(self, cell: _Cell) -> shapely.Geometry:
        """What of an element is in a cell or near it; cut from a larger cell's, and kept."""
        if cell not in self._cuts:
            is_largest = cell.size_m >= _LARGEST_M
            whole = self.geometry[cell.element] if is_largest else self._near(cell.larger())
            self._cuts[cell] = shapely.clip_by_rect(whole, *cell.window())
        return self._cuts[cell]

    @cached_property
    def _cuts(self) -> dict[_Cell, shapely.Geometry]:
        return {}


class _Cell(NamedTuple):
    """A cell of a grid over a town, and an element to be cut for it."""

    reach_m: float
    size_m: float
    element: int
    x: int
    y: int

    def larger(self) -> _Cell:
        """The cell of the coarser grid that this one is in."""
        size = self.size_m * _COARSER
        return self._replace(size_m=size, x=self.x // _COARSER, y=self.y // _COARSER)

    def window(self) -> tuple[float, float, float, float]:
        """Lowest x and y and highest, GLOBAL, metres, `reach_m` beyond the cell."""
        low_x, low_y = self.x * self.size_m - self.reach_m, self.y * self.size_m - self.reach_m
        extent = self.size_m + 2 * self.reach_m
        return low_x, low_y, low_x + extent, low_y + extent


def _clip_by_geos(
    shapes: Geometries, patches: Patches, patch: IntArray, half_m: Half
) -> tuple[Geometries, IntArray]:
    """The polygons that lie of GLOBAL polygons in their patches, and which they are of."""
    inside = []
    for rows in blocks(shapely.get_num_coordinates(shapes), _BLOCK_VERTICES):
        xy, of = shapely.get_coordinates(shapes[rows], return_index=True)
        local = np.column_stack(patches.from_global(xy[:, 0], xy[:, 1], patch[rows][of]))
        there = shapely.set_coordinates(shapes[rows].copy(), local)
        cut = shapely.clip_by_rect(there, -half_m[0], -half_m[1], *half_m)
        inside.append(np.atleast_1d(cut))
    parts, of = shapely.get_parts(np.concatenate(inside), return_index=True)
    # Of a polygon that only touches a patch a point or a line is left.
    real = (shapely.get_dimensions(parts) == 2) & ~shapely.is_empty(parts)
    return parts[real], of[real]
