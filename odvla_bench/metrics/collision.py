"""Collisions of footprints: with packed occupancy, with boxes drawn on demand, with polygons.

All three take every frame (sample * 6 + step - 1) at once. From boxes, only what can matter is
touched: a box is drawn or intersected only if its circle comes near a footprint's. That changes
no result, for a grid cell is set or not whatever else is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import shapely

from odvla_bench.geometry import FloatArray, box_corners
from odvla_bench.metrics.displacement import BoolArray
from odvla_bench.metrics.footprint import Cells, Probe
from odvla_bench.metrics.obstacles import IntArray, ObstacleBoxes, Obstacles
from odvla_bench.metrics.occupancy import (
    ByteArray,
    box_centre_cells,
    cell_polygons,
    draw,
    ego_motion,
    nearest_source,
    warp_source,
    warps,
)
from odvla_bench.metrics.protocols import FootprintRule, RasterRule

_Index = TypeVar("_Index", IntArray, FloatArray)

_BLOCK_CELLS = 1 << 21
_CANVASES = 32
_BOX_SLACK_CELLS = 3.0
"""Room for the rounding of vertices, border pixels and the warp's nearest cell."""
TOUCH_M = 1e-9
"""Overlaps up to this depth are touching."""


def packed_hits(grids: ByteArray, grid: IntArray, probe: Probe) -> BoolArray:
    """Whether any cell of each frame's probe is set.

    Args:
        grids: (G, rows, columns / 8) uint8, packed along the columns.
        grid: (F,) the grid that belongs to each frame.
        probe: cells of F frames, in the axes of the grids.
    """
    hits = np.zeros(len(grid), bool)
    for frames in _blocks(len(grid), probe):
        hits[frames] = _packed_lookup(grids, grid[frames], probe.cells(frames))
    return hits


def _blocks(n_frames: int, probe: Probe) -> list[IntArray]:
    """Frame numbers in blocks whose cells fit in memory."""
    if not n_frames:
        return []
    one = probe.cells(np.zeros(1, np.int64))
    size = max(1, _BLOCK_CELLS // max(one.rows.size, one.cols.size))
    return np.split(np.arange(n_frames), range(size, n_frames, size))


def _packed_lookup(grids: ByteArray, grid: IntArray, cells: Cells) -> BoolArray:
    """A row of cells lies in two neighbouring bytes: one 16-bit mask tests it."""
    rows, cols = cells.rows, cells.cols
    if cols.shape[-1] > 8:
        rows, cols = (part.reshape(len(grid), -1, 1) for part in np.broadcast_arrays(rows, cols))
    n_rows, n_bytes = grids.shape[1:]
    first = cols.min(-1) >> 3
    mask = np.bitwise_or.reduce(1 << (15 - (cols - 8 * first[..., None])), axis=-1)
    at = (grid[:, None] * n_rows + rows[..., 0]) * n_bytes + first
    flat = grids.reshape(-1)
    pair = flat[at].astype(np.int64) << 8 | flat[at + (first < n_bytes - 1)]
    hit = (pair & mask) != 0
    return (hit if cells.inside is None else hit & cells.inside[..., 0]).any(1)


def drawn_hits(
    boxes: ObstacleBoxes,
    obstacles: Obstacles,
    probes: Sequence[Probe],
    raster: RasterRule,
    n_frames: int,
) -> list[BoolArray]:
    """For each probe, whether any of its cells is set on the grids that the obstacles draw.

    Equal to `packed_hits` on `rasterise_boxes`; returns one (n_frames,) array a probe.
    """
    centre = box_centre_cells(boxes, obstacles, raster)
    reach = np.hypot(*obstacles.wl.T) / (2 * raster.cell_m) + _BOX_SLACK_CELLS
    near = [
        _within(centre, _drawing_centre(probe, boxes, raster), obstacles.frame, reach + probe.reach)
        for probe in probes
    ]
    looked_at = [np.zeros(n_frames, bool) for _ in probes]
    for frames, rows in zip(looked_at, near, strict=True):
        frames[obstacles.frame[rows]] = True
    keep = np.flatnonzero(np.logical_or.reduce(near))
    keep = keep[np.argsort(obstacles.frame[keep], kind="stable")]
    return _draw_and_look(boxes, obstacles.at(keep), probes, looked_at, raster)


def _draw_and_look(
    boxes: ObstacleBoxes,
    drawn: Obstacles,
    probes: Sequence[Probe],
    looked_at: Sequence[BoolArray],
    raster: RasterRule,
) -> list[BoolArray]:
    """Draw obstacles, sorted by frame, on reused grids, look each probe up, wipe the polygons."""
    polygons = cell_polygons(boxes, drawn, raster)
    frames, slot = np.unique(drawn.frame, return_inverse=True)
    canvases = np.zeros((_CANVASES, raster.n_cells, raster.n_cells), np.uint8)
    hits = [np.zeros(len(mask), bool) for mask in looked_at]
    for first in range(0, len(frames), _CANVASES):
        block = frames[first : first + _CANVASES]
        start, stop = np.searchsorted(slot, (first, first + _CANVASES))
        draw(canvases, slot[start:stop] - first, polygons[start:stop], 1)
        for probe, mask, hit in zip(probes, looked_at, hits, strict=True):
            canvas = np.flatnonzero(mask[block])
            at = block[canvas]
            rows, cols, inside = _drawing_cells(probe.cells(at), at, boxes, raster)
            value = canvases[canvas[:, None, None], rows, cols]
            hit[at] = (value if inside is None else value & inside).any((1, 2))
        draw(canvases, slot[start:stop] - first, polygons[start:stop], 0)
    return hits


def _within(
    centre: FloatArray, probe_centre: FloatArray, frame: IntArray, reach: FloatArray
) -> BoolArray:
    """(R,) whether a box's centre lies within reach of its frame's probe."""
    row = centre[:, 0] - probe_centre[frame, 0]
    col = centre[:, 1] - probe_centre[frame, 1]
    return row * row + col * col <= reach * reach


def _unflipped(rows: _Index, cols: _Index, raster: RasterRule) -> tuple[_Index, _Index]:
    """Indices of the given grid → of the drawn one."""
    top = raster.n_cells - 1
    return (top - rows if raster.flip_rows else rows, top - cols if raster.flip_cols else cols)


def _drawing_centre(probe: Probe, boxes: ObstacleBoxes, raster: RasterRule) -> FloatArray:
    """(F, 2) float32 centres of a probe on the grids as they are drawn."""
    rows, cols = _unflipped(probe.centre[:, 0], probe.centre[:, 1], raster)
    if warps(boxes, raster):
        motion = ego_motion(boxes, np.arange(len(rows)))
        source = warp_source(rows[:, None, None], cols[:, None, None], motion, raster)
        rows, cols = (part[:, 0, 0] for part in source)
    return np.stack([rows, cols], -1).astype(np.float32)


def _drawing_cells(
    cells: Cells, frames: IntArray, boxes: ObstacleBoxes, raster: RasterRule
) -> Cells:
    """Cells of the given grids → of the drawn ones, undoing flips and the warp."""
    rows, cols = _unflipped(cells.rows, cells.cols, raster)
    if not warps(boxes, raster):
        return Cells(rows, cols, cells.inside)
    rows, cols, inside = nearest_source(
        rows.astype(np.float64), cols.astype(np.float64), ego_motion(boxes, frames), raster
    )
    return Cells(rows, cols, inside if cells.inside is None else inside & cells.inside)


def polygon_hits(
    obstacles: Obstacles, footprint: FloatArray, rule: FootprintRule, *, touching: bool
) -> BoolArray:
    """Whether each frame's footprint meets an obstacle of that frame, as oriented rectangles.

    Args:
        obstacles: boxes at future steps, LIDAR at t0.
        footprint: (F, 3) centre and yaw of the car's rectangle, LIDAR at t0.
        rule: its size.
        touching: whether a common border without common area is a collision.

    Returns:
        (F,) flags. Rectangles collide if they overlap on all four of their axes (separating
        axes); within 1e-9 m of touching, shapely decides if `touching`, else they do not collide.
    """
    size = np.array([rule.width_m, rule.length_m])
    reach = np.hypot(*obstacles.wl.T) / 2 + np.hypot(*size) / 2 + 1e-6
    near = np.flatnonzero(
        _within(obstacles.xy_yaw[:, :2], footprint[:, :2], obstacles.frame, reach)
    )
    frame = obstacles.frame[near]
    car, other, wl = footprint[frame], obstacles.xy_yaw[near], obstacles.wl[near]
    depth = overlap_depth_m(car, size, other, wl)
    meets = depth > TOUCH_M
    if touching:
        doubtful = np.flatnonzero(np.abs(depth) <= TOUCH_M)
        meets[doubtful] = shapely.intersects(
            _rectangles(car[doubtful], np.broadcast_to(size, (len(doubtful), 2))),
            _rectangles(other[doubtful], wl[doubtful]),
        )
    hits = np.zeros(len(footprint), bool)
    hits[frame[meets]] = True
    return hits


def overlap_depth_m(
    a_xy_yaw: FloatArray, a_wl: FloatArray, b_xy_yaw: FloatArray, b_wl: FloatArray
) -> FloatArray:
    """How far pairs of oriented rectangles overlap, along the axis on which they do least.

    Args:
        a_xy_yaw: (P, 3) centres and yaws, any common frame, metres and radians.
        a_wl: (P, 2) or (2,) widths and lengths; the length lies along the yaw.
        b_xy_yaw: (P, 3).
        b_wl: (P, 2) or (2,).

    Returns:
        (P,) metres; 0 touches, negative is a gap along a separating axis.
    """
    offset = b_xy_yaw[:, :2] - a_xy_yaw[:, :2]
    turn = b_xy_yaw[:, 2] - a_xy_yaw[:, 2]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    one = _axis_overlap(offset, a_xy_yaw[:, 2], a_wl / 2, b_wl / 2, cos, sin)
    other = _axis_overlap(offset, b_xy_yaw[:, 2], b_wl / 2, a_wl / 2, cos, sin)
    return np.minimum(one, other)


def _axis_overlap(
    offset: FloatArray,
    yaw: FloatArray,
    own: FloatArray,
    other: FloatArray,
    cos: FloatArray,
    sin: FloatArray,
) -> FloatArray:
    """Least overlap along the two axes of the rectangle with `yaw` and half sizes `own`."""
    along = np.abs(offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw))
    across = np.abs(offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw))
    return np.minimum(
        own[..., 1] + other[..., 1] * cos + other[..., 0] * sin - along,
        own[..., 0] + other[..., 1] * sin + other[..., 0] * cos - across,
    )


def _rectangles(xy_yaw: FloatArray, wl: FloatArray) -> FloatArray:
    """Shapely polygons of (P, 3) centres and yaws and (P, 2) widths and lengths."""
    return shapely.polygons(box_corners(xy_yaw[:, :2], xy_yaw[:, 2], wl[:, 1], wl[:, 0]))
