"""Lines of few points in a form of their own: where they start, which way they run, what counts."""

from __future__ import annotations

import numpy as np
import shapely

from odvla_bench.datasets.nuscenes.paths import Bools, IntArray, Paths, indices
from odvla_bench.geometry import FloatArray

_DIGITS = 6


def in_normal_form(paths: Paths) -> Paths:
    """Lines that run towards +y, else towards +x; closed ones clockwise from their least point.

    Points are rounded to micrometres: where a ring starts must not hang on the last bit of a
    rotation. The least point is the one of least x, of these the one of least y.
    """
    paths = _rounded(paths)
    first, last, closed = paths.start, paths.stop - 1, paths.is_closed
    dx, dy = (axis[last] - axis[first] for axis in (paths.x_m, paths.y_m))
    found = paths.flipped((dy < 0) | ((dy == 0) & (dx < 0)))
    if not closed.any():
        return found
    rings = paths.take(closed)
    return _replaced(found, closed, _from_least_point(rings, rings.area_m2() > 0))


def clockwise(rings: Paths, runs_back: Bools) -> Paths:
    """Rings in their normal form, if it is known which run counter-clockwise."""
    return _from_least_point(_rounded(rings), runs_back) if len(rings) else rings


def _rounded(paths: Paths) -> Paths:
    return Paths(paths.x_m.round(_DIGITS) + 0.0, paths.y_m.round(_DIGITS) + 0.0, paths.size)


def _from_least_point(rings: Paths, back: Bools) -> Paths:
    """Rings that start at their least point; those where `back` is true run the other way."""
    x, y, row = rings.x_m, rings.y_m, np.repeat(np.arange(len(rings)), rings.size)
    height = np.where(x == np.minimum.reduceat(x, rings.start)[row], y, np.inf)
    least = np.flatnonzero(height == np.minimum.reduceat(height, rings.start)[row])
    least = least[np.diff(row[least], prepend=-1) != 0] - rings.start
    step = (np.arange(len(x)) - rings.start[row]) * np.where(back, -1, 1)[row]
    points = rings.start[row] + (least[row] + step) % (rings.size - 1)[row]
    return Paths(x[points], y[points], rings.size)


def thinned(paths: Paths, tolerance_m: float) -> Paths:
    """The corners that matter: of what is left out nothing is farther away than the tolerance.

    By Douglas and Peucker's rule; lines that would cross or fold themselves with it by GEOS, which
    minds that and takes most of the time over it.
    """
    thin = _without_minding(paths, tolerance_m)
    closed = paths.is_closed
    wrong = closed & (thin.size < 4)
    unsure = np.flatnonzero(thin.size > np.where(closed, 4, 3))
    wrong[unsure] = ~shapely.is_simple(thin.take(unsure).lines())
    if not wrong.any():
        return thin
    lines = paths.take(wrong).lines()
    lines[closed[wrong]] = paths.take(wrong & closed).rings()
    return _replaced(thin, wrong, Paths.of(shapely.simplify(lines, tolerance_m)))


def resampled(paths: Paths, most: int) -> Paths:
    """Lines of more than so many points: so many, equally far apart, from end to end."""
    long = paths.size > most
    if not long.any():
        return paths
    share = np.linspace(0, 1, most)
    at = shapely.line_interpolate_point(paths.take(long).lines()[:, None], share, normalized=True)
    x, y = np.ascontiguousarray(shapely.get_coordinates(at).T)
    return _replaced(paths, long, Paths(x, y, np.full(long.sum(), most)))


def _without_minding(paths: Paths, tolerance_m: float) -> Paths:
    x, y = paths.x_m, paths.y_m
    kept = np.zeros(len(x), bool)
    start, stop = paths.start, paths.stop - 1
    kept[start] = kept[stop] = True
    while len(start):
        long = stop - start > 1
        start, stop = start[long], stop[long]
        inner = stop - start - 1
        point, stretch = indices(start + 1, inner), np.repeat(np.arange(len(inner)), inner)
        away2 = _distance2(x, y, point, start[stretch], stop[stretch])
        farthest = np.maximum.reduceat(away2, np.cumsum(inner) - inner) if len(inner) else away2
        split = np.flatnonzero(farthest > tolerance_m**2)
        hit = np.flatnonzero(away2 == farthest[stretch])
        hit = hit[np.diff(stretch[hit], prepend=-1) != 0]
        corner = point[hit][split]
        kept[corner] = True
        start, stop = np.append(start[split], corner), np.append(corner, stop[split])
    return Paths(x[kept], y[kept], paths.sums(kept.astype(np.int64)))


def _distance2(x: FloatArray, y: FloatArray, at: IntArray, a: IntArray, b: IntArray) -> FloatArray:
    """(N,) squared distances of points `at` from the segments from points `a` to points `b`."""
    dx, dy = x[b] - x[a], y[b] - y[a]
    px, py = x[at] - x[a], y[at] - y[a]
    length2 = dx * dx + dy * dy
    length2[length2 == 0] = 1
    share = np.clip((px * dx + py * dy) / length2, 0, 1)
    return np.square(px - share * dx) + np.square(py - share * dy)


def _replaced(paths: Paths, rows: Bools, others: Paths) -> Paths:
    """The paths, at these rows the others."""
    order = np.arange(len(paths))
    order[rows] = len(paths) + np.arange(len(others))
    return Paths.joined([paths, others]).take(order)
