"""Rectangular patches of a map, and the lines and polygons that were found in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely

from odvla_bench.datasets.nuscenes.paths import Bools, Geometries, IntArray, Paths, indices
from odvla_bench.geometry import FloatArray, Pose, box_corners, yaw_of


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

    @cached_property
    def axis(self) -> tuple[FloatArray, FloatArray]:
        """(P,) cosines and (P,) sines of the headings."""
        return np.cos(self.yaw_rad), np.sin(self.yaw_rad)

    @cached_property
    def _centre(self) -> tuple[FloatArray, FloatArray]:
        x, y = np.ascontiguousarray(self.centre_m.T)
        return x, y

    def from_global(
        self, x_m: FloatArray, y_m: FloatArray, patch: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """(N,) GLOBAL x and y → (N,) x and y in the frames of the patches of rows `patch`."""
        cos, sin, x, y = (values[patch] for values in (*self.axis, *self._centre))
        dx, dy = x_m - x, y_m - y
        return cos * dx + sin * dy, cos * dy - sin * dx


@dataclass(frozen=True)
class Clipped:
    """What of one layer lies in patches: one row a connected line or polygon."""

    patch: IntArray
    """(K,) rows of the patches, ascending."""
    element: IntArray
    """(K,) rows of the layer's elements (of its first piece, where a line was cut in pieces)."""
    paths: Paths
    """(R,) the lines; or the outlines of the polygons, counter-clockwise, each followed by its
    holes, clockwise. In the frame of their patch, metres."""
    owner: IntArray
    """(R,) the row that each path belongs to, ascending."""
    is_area: bool
    """Whether they are polygons."""

    @classmethod
    def of_polygons(cls, patch: IntArray, element: IntArray, polygons: Geometries) -> Clipped:
        """K polygons of these patches and elements."""
        rings, owner = shapely.get_rings(polygons, return_index=True)
        paths = Paths.of(rings)
        is_hole = np.diff(owner, prepend=-1) == 0
        paths = paths.flipped((paths.area_m2() < 0) != is_hole)
        return cls(patch, element, paths, owner, is_area=True)

    @classmethod
    def joined(cls, parts: Sequence[Clipped]) -> Clipped:
        """All rows of several of one kind, sorted by patch and element."""
        before = np.cumsum([0, *(len(part) for part in parts)])
        patch, element = (np.concatenate([getattr(p, n) for p in parts]) for n in _ROWS)
        owner = np.concatenate([p.owner + n for p, n in zip(parts, before, strict=False)])
        paths = Paths.joined([part.paths for part in parts])
        order = np.lexsort((element, patch))
        return cls(patch, element, paths, owner, parts[0].is_area).take(order)

    def __len__(self) -> int:
        return len(self.patch)

    def take(self, rows: IntArray | Bools) -> Clipped:
        """These rows, or those where a mask is true."""
        count = np.bincount(self.owner, minlength=len(self))
        first, count = (np.cumsum(count) - count)[rows], count[rows]
        owner = np.repeat(np.arange(len(count)), count)
        paths = self.paths.take(indices(first, count))
        return Clipped(self.patch[rows], self.element[rows], paths, owner, self.is_area)

    @cached_property
    def geometry(self) -> Geometries:
        """(K,) LineStrings or Polygons in the frame of their patch."""
        if not self.is_area:
            return self.paths.lines()
        return np.atleast_1d(shapely.polygons(self.paths.rings(), indices=self.owner))

    @cached_property
    def is_hole(self) -> Bools:
        """(R,) which paths are holes."""
        return np.diff(self.owner, prepend=-1) == 0

    @cached_property
    def area_m2(self) -> FloatArray:
        """(K,) areas of polygons."""
        return np.asarray(np.bincount(self.owner, self.paths.area_m2(), len(self)), np.float64)

    def distance_m(self) -> FloatArray:
        """(K,) from the patches' centres; 0 inside a polygon."""
        if not len(self):
            return np.empty(0)
        first = np.flatnonzero(~self.is_hole)
        distance = np.minimum.reduceat(self.paths.distance_m(), first)
        if self.is_area:
            inside = np.logical_xor.reduceat(self.paths.encloses_origin(), first)
            distance[inside] = 0
        return distance

    def centroids_m(self) -> FloatArray:
        """(K, 2) middles of the lines, by length, or of the polygons, by area."""
        weight, x, y = self.paths.moments(rings=self.is_area)
        total, *sums = (np.bincount(self.owner, v, minlength=len(self)) for v in (weight, x, y))
        return np.column_stack([of_axis / total for of_axis in sums])


_ROWS = ("patch", "element")
