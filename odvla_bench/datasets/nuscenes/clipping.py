"""What of lines and rings lies in a rectangle around the origin, for thousands at a time.

The outline of a polygon enters and leaves the rectangle; its pieces inside are tied together along
the rectangle's border, as GEOS's `clip_by_rect` does it, but on arrays of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.datasets.nuscenes.paths import Bools, IntArray, Paths
from odvla_bench.geometry import FloatArray

Half = tuple[float, float]
"""Half the rectangle's extent along x and along y, metres."""


class Pieces(NamedTuple):
    """What is inside of lines or rings."""

    paths: Paths
    owner: IntArray
    """(K,) rows of the lines or rings they are parts of, ascending."""
    odd: IntArray = np.empty(0, np.int64)
    """Rows of rings that can't be cut by this rule: they meet themselves on the border."""

    @classmethod
    def joined(cls, blocks: Sequence[tuple[slice, Pieces]]) -> Pieces:
        """The pieces of consecutive blocks of rows."""
        owner = np.concatenate([pieces.owner + rows.start for rows, pieces in blocks])
        return cls(Paths.joined([pieces.paths for _, pieces in blocks]), owner)

    def where(self, rows: Bools) -> Pieces:
        """Those for which a mask is true."""
        return self._replace(paths=self.paths.take(rows), owner=self.owner[rows])


def clip_lines(lines: Paths, half_m: Half) -> Pieces:
    """The pieces of lines inside the rectangle; what runs along its very border is not inside.

    Args:
        lines: K lines, in the rectangle's frame.
        half_m: the rectangle.
    """
    seen = _seen(lines, half_m)
    first = np.flatnonzero(seen.begins)
    size = np.diff(np.append(first, len(seen.step))) + 1
    # A piece is the start of its first step and the end of each.
    last = np.arange(len(seen.step)) + np.cumsum(seen.begins)
    x, y = np.empty((2, size.sum()))
    for axis, head, tail in zip((x, y), seen.head, seen.tail, strict=True):
        axis[first + np.arange(len(first))] = head[seen.step[first]]
        axis[last] = tail[seen.step]
    owner = np.searchsorted(lines.stop, seen.step[first], side="right")
    return Pieces(Paths(x, y, size), owner)


def rings_of(pieces: Pieces, around: IntArray, half_m: Half) -> Pieces:
    """The parts inside the rectangle of polygons without holes: counter-clockwise outlines.

    Args:
        pieces: what `clip_lines` gave for their outlines, which must run counter-clockwise.
        around: rows of the polygons that have the whole rectangle inside: those that have no
            pieces, and the origin inside.
        half_m: the rectangle.
    """
    paths, first = end_to_end(pieces.paths, pieces.owner)
    found = _tied(Pieces(paths, pieces.owner[first]), half_m)
    if not len(around):
        return found
    x, y = np.tile(_corners(half_m)[:, :5], len(around))
    whole = Paths(x, y, np.full(len(around), 5))
    owner = np.concatenate([found.owner, around])
    order = np.argsort(owner, kind="stable")
    return Pieces(Paths.joined([found.paths, whole]).take(order), owner[order], found.odd)


def end_to_end(pieces: Paths, line: IntArray) -> tuple[Paths, IntArray]:
    """Join the pieces of each line that meet, and what meets over the end of a closed line.

    Args:
        pieces: K pieces, in the order of their lines.
        line: (K,) number of the line that each is a piece of; equal ones are side by side.

    Returns:
        The joined pieces, and the row of the first piece of each.
    """
    begins = np.diff(line, prepend=-1) != 0
    opens = np.flatnonzero(begins)
    closes = np.append(opens[1:], len(line))[: len(opens)] - 1
    before = np.arange(len(line)) - 1
    before[opens] = closes
    first, last = pieces.start, pieces.stop[before] - 1
    goes_on = (pieces.x_m[first] == pieces.x_m[last]) & (pieces.y_m[first] == pieces.y_m[last])
    group = np.cumsum(begins) - 1
    heads = np.bincount(group[~goes_on], minlength=len(opens))
    goes_on[opens[heads == 0]] = False  # it goes on in a circle
    if not goes_on.any():
        return pieces, np.arange(len(line))
    # What is before the first head of a line follows its last piece.
    seen = np.cumsum(~goes_on)
    order = np.lexsort((seen == (seen - ~goes_on)[opens][group], group))
    paths, goes_on = pieces.take(order), goes_on[order]
    kept = np.ones(len(paths.x_m), bool)
    kept[paths.start[goes_on]] = False
    size = np.add.reduceat(paths.size - goes_on, np.flatnonzero(~goes_on))
    return Paths(paths.x_m[kept], paths.y_m[kept], size), order[~goes_on]


class _Seen(NamedTuple):
    """Which steps, from one point of a path to the next, are inside the rectangle."""

    step: IntArray
    """(S,) indices of their first points."""
    begins: Bools
    """(S,) whether a piece begins with the step."""
    head: tuple[FloatArray, FloatArray]
    """x and y, (V,) each, of where what is inside of each step starts."""
    tail: tuple[FloatArray, FloatArray]
    """x and y, (V,) each, of where it ends."""


class _Strip(NamedTuple):
    """How C steps cross the strip that one axis of the rectangle spans."""

    start: FloatArray
    step: FloatArray
    border: FloatArray
    """Where each leaves the strip; it enters at the opposite value."""
    enter: FloatArray
    """The share of the step at which it enters; below 0 if that was before."""
    leave: FloatArray

    @classmethod
    def of(cls, values: FloatArray, cut: IntArray, half: float) -> _Strip:
        start = values[cut]
        step = values[cut + 1] - start
        border = np.copysign(half, step)
        with np.errstate(divide="ignore", over="ignore"):
            return cls(start, step, border, (-border - start) / step, (border - start) / step)

    def entry(self, rows: IntArray, at: FloatArray) -> FloatArray:
        """Where steps are after a share of themselves, exactly on the border if they enter."""
        return self._point(rows, at, self.enter[rows] == at, -self.border[rows])

    def exit(self, rows: IntArray, at: FloatArray) -> FloatArray:
        """The same for those that leave."""
        return self._point(rows, at, self.leave[rows] == at, self.border[rows])

    def _point(
        self, rows: IntArray, at: FloatArray, crosses: Bools, border: FloatArray
    ) -> FloatArray:
        limit = np.abs(border)
        point = np.clip(self.start[rows] + at * self.step[rows], -limit, limit)
        return np.where(crosses, border, point)


def _seen(paths: Paths, half_m: Half) -> _Seen:
    axes = paths.x_m, paths.y_m
    sides = _sides(axes[0], half_m[0]) | _sides(axes[1], half_m[1]) << 2
    beyond = np.append(sides[1:], np.uint8(0))
    visible = (sides & beyond) == 0
    visible[paths.stop - 1] = False  # no step, but the way to the next path
    cut = np.flatnonzero(visible & ((sides | beyond) != 0))
    strips = [_Strip.of(axis, cut, half) for axis, half in zip(axes, half_m, strict=True)]
    enter, leave = np.maximum(*(s.enter for s in strips)), np.minimum(*(s.leave for s in strips))
    inside = np.maximum(enter, 0) < np.minimum(leave, 1)
    visible[cut] = inside
    entering, leaving = np.flatnonzero(inside & (enter > 0)), np.flatnonzero(inside & (leave < 1))
    heads, tails = [], []
    for axis, strip in zip(axes, strips, strict=True):
        head, tail = axis.copy(), np.append(axis[1:], 0.0)
        head[cut[entering]] = strip.entry(entering, enter[entering])
        tail[cut[leaving]] = strip.exit(leaving, leave[leaving])
        heads.append(head)
        tails.append(tail)
    whole = np.ones((2, len(sides)), bool)
    whole[0, cut[entering]] = whole[1, cut[leaving]] = False
    step = np.flatnonzero(visible)
    goes_on = (np.diff(step, prepend=-2) == 1) & whole[0, step] & whole[1, step - 1]
    return _Seen(step, ~goes_on, (heads[0], heads[1]), (tails[0], tails[1]))


def _sides(values: FloatArray, half: float) -> npt.NDArray[np.uint8]:
    """1 for what is at or beyond the lower border, 2 at or beyond the upper one, 0 between them."""
    below, above = (values <= -half).view(np.uint8), (values >= half).view(np.uint8)
    return np.asarray(below | above << 1)


def _tied(pieces: Pieces, half_m: Half) -> Pieces:
    """Rings from pieces of rings, tied along the border.

    Walking counter-clockwise from where a piece leaves, the polygon is on the left up to where the
    next one enters.
    """
    paths, owner, _ = pieces
    is_open = ~paths.is_closed
    number = np.flatnonzero(is_open)
    enters = _along_border(paths, paths.start[number], half_m)
    leaves = _along_border(paths, paths.stop[number] - 1, half_m)
    after, odd = _next_on_border(owner[number], enters, leaves)
    if len(odd):
        rest = pieces.where(~np.isin(owner, odd))
        return _tied(rest, half_m)._replace(odd=odd)
    following = np.arange(len(paths))
    following[number] = number[after]
    enters = enters[after] + np.where(enters[after] < leaves, 4, 0)
    corner, corners = np.zeros((2, len(paths)), np.int64)
    corner[number] = np.floor(leaves) + 1
    corners[number] = np.ceil(enters) - corner[number]
    return _rings(pieces, following, corner, corners, half_m)


def _along_border(paths: Paths, point: IntArray, half_m: Half) -> FloatArray:
    """Where points are on the border: counter-clockwise from the lowest corner, a side a unit.

    NaN for a point that is not on it.
    """
    (right, top), x, y = half_m, paths.x_m[point], paths.y_m[point]
    along_x, along_y = (x / right + 1) / 2, (y / top + 1) / 2
    place = np.where(x == -right, 4 - along_y, np.nan)
    place = np.where(y == top, 3 - along_x, place)
    place = np.where(x == right, 1 + along_y, place)
    return np.where(y == -top, along_x, place)


def _next_on_border(
    owner: IntArray, enters: FloatArray, leaves: FloatArray
) -> tuple[IntArray, IntArray]:
    """For each piece the one that enters next after it leaves, of the same owner.

    Also the owners of whose pieces not each is followed by one that enters.
    """
    count = len(owner)
    # A border is 4 long: the owners' borders follow each other on one scale.
    place = np.concatenate([4 * owner + enters, 4 * owner + leaves])
    order = np.argsort(place)
    row = np.concatenate([owner, owner])[order]
    following = np.roll(order, -1)
    following[np.diff(row, append=-1) != 0] = order[np.diff(row, prepend=-1) != 0]
    is_exit = order >= count
    # Where two ends meet, or one is off the border, nothing says which comes first.
    unsure = ~(np.abs(place[following] - place[order]) > 0)
    odd = np.unique(row[unsure | (is_exit == (following >= count))])
    after = np.empty(count, np.int64)
    after[order[is_exit] - count] = following[is_exit] % max(count, 1)
    return after, odd


def _rings(
    pieces: Pieces, following: IntArray, corner: IntArray, corners: IntArray, half_m: Half
) -> Pieces:
    """Rings through pieces and the rectangle's corners.

    Args:
        pieces: P pieces.
        following: (P,) which piece comes after each; a closed one's own row.
        corner: (P,) the corner to go to after it.
        corners: (P,) how many corners are passed.
        half_m: the rectangle.
    """
    lead, rank = _cycles(following)
    order = np.lexsort((rank, lead))
    first = np.flatnonzero(rank[order] == 0)
    paths, is_last = pieces.paths, np.diff(lead[order], append=-1) != 0
    own = paths.size - paths.is_closed
    start = np.stack([paths.start, len(paths.x_m) + corner, paths.start[lead]], -1)[order]
    size = np.stack([own[order], corners[order], is_last], -1).astype(np.int64)
    x, y = (np.append(a, b) for a, b in zip((paths.x_m, paths.y_m), _corners(half_m), strict=True))
    through = Paths(x, y, paths.size).ranges(start.reshape(-1), size.reshape(-1))
    length = np.add.reduceat(size.sum(1), first) if len(first) else np.empty(0, np.int64)
    return Pieces(Paths(through.x_m, through.y_m, length), pieces.owner[order][first])


def _cycles(following: IntArray) -> tuple[IntArray, IntArray]:
    """The cycles of a permutation: the least row of each row's cycle, and the steps from there."""
    lead, jump = np.arange(len(following)), following
    while (lower := np.minimum(lead, lead[jump])).tolist() != lead.tolist():
        lead, jump = lower, jump[jump]
    rank = np.zeros(len(following), np.int64)
    at = following[lead == np.arange(len(lead))]
    step = 1
    while len(at := at[lead[at] != at]):
        rank[at] = step
        at, step = following[at], step + 1
    return lead, rank


def _corners(half_m: Half) -> FloatArray:
    """(2, 8) x and y of the corners, counter-clockwise from the lowest, twice around."""
    right, top = half_m
    return np.tile([[-right, right, right, -right], [-top, -top, top, top]], 2)
