"""Many lines or rings as two arrays of coordinates: all points of the first, then of the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from odvla_bench.geometry import FloatArray

IntArray = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Paths:
    """K polylines in one frame, each of two or more points; a ring ends where it begins."""

    x_m: FloatArray
    """(V,) of all points."""
    y_m: FloatArray
    """(V,)"""
    size: IntArray
    """(K,) points of each."""

    @classmethod
    def of(cls, geometry: Geometries) -> Paths:
        """K LineStrings or LinearRings."""
        x, y = shapely.get_coordinates(geometry).T
        size = np.asarray(shapely.get_num_points(geometry), np.int64)
        return cls(np.ascontiguousarray(x), np.ascontiguousarray(y), size)

    @classmethod
    def joined(cls, parts: Sequence[Paths]) -> Paths:
        """All paths of one or more, in order."""
        columns = zip(*((part.x_m, part.y_m, part.size) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def __len__(self) -> int:
        return len(self.size)

    @cached_property
    def stop(self) -> IntArray:
        """(K,) index after each path's last point."""
        return np.cumsum(self.size)

    @cached_property
    def start(self) -> IntArray:
        """(K,) index of each path's first point."""
        return self.stop - self.size

    @cached_property
    def is_closed(self) -> Bools:
        """(K,) which end where they begin."""
        first, last = self.start, self.stop - 1
        x, y = self.x_m, self.y_m
        return np.asarray((x[first] == x[last]) & (y[first] == y[last]))

    def take(self, rows: IntArray | Bools) -> Paths:
        """The paths of these rows, or where a mask is true."""
        return self.ranges(self.start[rows], self.size[rows])

    def ranges(self, start: IntArray, size: IntArray) -> Paths:
        """Paths through runs of so many points, from these on."""
        points = indices(start, size)
        return Paths(self.x_m[points], self.y_m[points], size)

    def flipped(self, back: Bools) -> Paths:
        """The same paths; those where `back` is true run the other way."""
        if not back.any():
            return self
        first = np.where(back, self.stop - 1, self.start)
        step = np.repeat(np.where(back, -1, 1), self.size)
        inside = np.arange(len(step)) - np.repeat(self.start, self.size)
        points = np.repeat(first, self.size) + step * inside
        return Paths(self.x_m[points], self.y_m[points], self.size)

    @cached_property
    def steps(self) -> Steps:
        """From each point to the next; 0 from the end of one path to the start of another."""
        dx, dy = np.zeros_like(self.x_m), np.zeros_like(self.y_m)
        np.subtract(self.x_m[1:], self.x_m[:-1], out=dx[:-1])
        np.subtract(self.y_m[1:], self.y_m[:-1], out=dy[:-1])
        dx[self.stop - 1] = dy[self.stop - 1] = 0
        return Steps(dx, dy)

    def encloses_origin(self) -> Bools:
        """(K,) which rings have the origin inside."""
        x, y, (dx, dy) = self.x_m, self.y_m, self.steps
        above = y > 0
        rises = np.append(above[1:], above[:1])
        rises[self.stop - 1] = above[self.stop - 1]
        # Of the steps across the x axis, those right of the origin, one way or the other.
        crosses = (above != rises) & ((x * dy - y * dx > 0) == rises)
        return self._reduced(np.logical_xor, crosses)

    def area_m2(self) -> FloatArray:
        """(K,) enclosed by each ring; negative where it runs clockwise."""
        return self.moments(rings=True)[0]

    def moments(self, *, rings: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(K,) area of rings, or length of lines, and the same times x and y of its middle."""
        (dx, dy), first = self.steps, np.repeat(self.start, self.size)
        base_x, base_y = self.x_m[self.start], self.y_m[self.start]
        # Far from the origin nothing may cancel out.
        x, y = self.x_m - self.x_m[first], self.y_m - self.y_m[first]
        if rings:
            weight = (x * dy - y * dx) / 2
            along_x, along_y = (2 * x + dx) / 3, (2 * y + dy) / 3
        else:
            weight = np.hypot(dx, dy)
            along_x, along_y = x + dx / 2, y + dy / 2
        total, at_x, at_y = (
            self._reduced(np.add, values) for values in (weight, weight * along_x, weight * along_y)
        )
        return total, at_x + base_x * total, at_y + base_y * total

    def distance_m(self) -> FloatArray:
        """(K,) from the origin to each line; of a ring, to its outline."""
        x, y, (dx, dy) = self.x_m, self.y_m, self.steps
        length2 = dx * dx + dy * dy
        length2[length2 == 0] = 1
        share = np.clip(-(x * dx + y * dy) / length2, 0, 1)
        nearest = np.square(x + share * dx) + np.square(y + share * dy)
        return np.sqrt(self._reduced(np.minimum, nearest))

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(V,) numbers of points, or of the steps from them → (K,) their sums by path."""
        return self._reduced(np.add, values)

    def _reduced(self, how: np.ufunc, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(V,) values of points, or of the steps from them → one a path."""
        return np.asarray(how.reduceat(values, self.start)) if len(self) else values[:0]

    def lines(self) -> Geometries:
        """(K,) LineStrings."""
        return self._shapes(shapely.linestrings)

    def rings(self) -> Geometries:
        """(K,) LinearRings."""
        return self._shapes(shapely.linearrings)

    def _shapes(self, make: np.ufunc) -> Geometries:
        owner = np.repeat(np.arange(len(self)), self.size)
        xy = np.column_stack([self.x_m, self.y_m])
        return np.atleast_1d(make(xy, indices=owner))


class Steps(NamedTuple):
    """What leads from points to the next ones."""

    dx_m: FloatArray
    dy_m: FloatArray


def indices(start: IntArray, size: IntArray) -> IntArray:
    """Runs of so many indices each, from these on: `start[0], start[0] + 1, ..., start[1], ...`."""
    before = np.cumsum(size) - size
    return np.arange(size.sum()) + np.repeat(start - before, size)


def blocks(size: IntArray, most: int) -> Iterator[slice]:
    """Runs of rows that hold about so many points each."""
    block = np.cumsum(size) // most
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1), len(block)]
    return (slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True))
