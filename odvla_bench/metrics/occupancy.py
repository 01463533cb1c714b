"""Occupancy grids drawn from boxes, identical to the originals' `cv2.fillPoly` rasters.

Polygons are drawn one by one, on bytes: one call for many polygons lets overlaps cancel, and
other fillers choose other border pixels. Grids leave this module bit-packed along their last
axis (`numpy.packbits`), as `score_planning` of the same protocol takes them: flips applied.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray, box_corners
from odvla_bench.metrics.boxes import boxes_from_tracks
from odvla_bench.metrics.obstacles import (
    IntArray,
    ObstacleBoxes,
    Obstacles,
    select_obstacles,
)
from odvla_bench.metrics.protocols import (
    N_STEPS,
    Axis,
    PlanningProtocol,
    RasterRule,
    get_protocol,
)

ByteArray = npt.NDArray[np.uint8]

_CANVAS_BYTES = 1 << 22
_FAR_CELLS = 1 << 20
"""Vertices farther out are moved here; fillPoly's arithmetic is fixed-point."""


def rasterise_obstacles(
    xy_yaw: FloatArray,
    wl: FloatArray,
    alive: npt.NDArray[np.bool_],
    category: Sequence[str],
    visibility: IntArray,
    *,
    protocol: str | PlanningProtocol,
) -> ByteArray:
    """Occupancy of one sample's objects, as `score_planning` of that protocol takes it.

    Missing frames are not filled: which steps exist is known to `score_planning` only, so a
    caller who passes grids of a protocol with `missing_frame="occupied"` fills them with ones.

    Args:
        xy_yaw: (M, 7, 3) centres and headings at 0, 0.5, … 3 s, LIDAR at t0, metres and radians.
        wl: (M, 2) widths and lengths, metres.
        alive: (M, 7) whether the object is annotated at that time.
        category: (M,) nuScenes category names.
        visibility: (M,) visibility tokens 1 to 4, of all times.
        protocol: name or protocol; it must have a raster.

    Returns:
        (6, rows, columns / 8) uint8; (6, 200, 25) on 0.5 m grids, (6, 1000, 125) on 0.1 m grids.
    """
    boxes = boxes_from_tracks(xy_yaw, wl, alive, category=category, visibility=visibility)
    return rasterise_boxes(boxes, 1, protocol=protocol)[0]


def rasterise_boxes(
    boxes: ObstacleBoxes, n_samples: int, *, protocol: str | PlanningProtocol
) -> ByteArray:
    """Occupancy of every sample and step, as `score_planning` of that protocol takes it.

    Args:
        boxes: annotated boxes of `n_samples` samples.
        n_samples: N.
        protocol: name or protocol; it must have a raster.

    Returns:
        (N, 6, rows, columns / 8) uint8, packed along the columns; missing frames are not filled.

    Raises:
        InputError: the protocol intersects polygons and has no raster.
    """
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    raster = protocol.raster
    if raster is None:
        raise InputError(
            f"Protocol {protocol.name!r} intersects boxes as polygons and has no occupancy grid; "
            "pass the boxes to score_planning instead."
        )
    boxes.check_samples(n_samples)
    obstacles = select_obstacles(boxes, protocol.obstacles)
    polygons = cell_polygons(boxes, obstacles, raster)
    keep = np.flatnonzero(_in_grid(polygons, raster))
    keep = keep[np.argsort(obstacles.frame[keep], kind="stable")]
    packed = _packed_frames(
        polygons[keep], obstacles.frame[keep], n_samples * N_STEPS, boxes, raster
    )
    return packed.reshape(n_samples, N_STEPS, *packed.shape[1:])


def _packed_frames(
    polygons: npt.NDArray[np.int32],
    frame: IntArray,
    n_frames: int,
    boxes: ObstacleBoxes,
    raster: RasterRule,
) -> ByteArray:
    """(n_frames, rows, columns / 8) grids of polygons that are sorted by frame."""
    n = raster.n_cells
    packed = np.empty((n_frames, n, n // 8), np.uint8)
    canvases = new_canvases(raster)
    row_step, col_step = (-1 if flip else 1 for flip in (raster.flip_rows, raster.flip_cols))
    for first in range(0, n_frames, len(canvases)):
        last = min(first + len(canvases), n_frames)
        start, stop = np.searchsorted(frame, (first, last))
        draw(canvases, frame[start:stop] - first, polygons[start:stop], 1)
        drawn = canvases[: last - first]
        if warps(boxes, raster):
            drawn = _warped(drawn, ego_motion(boxes, np.arange(first, last)), raster)
        packed[first:last] = np.packbits(drawn[:, ::row_step, ::col_step], axis=-1)
        canvases[:] = 0
    return packed


def new_canvases(raster: RasterRule) -> ByteArray:
    """Empty grids to draw on, as many as stay in the cache."""
    n = raster.n_cells
    return np.zeros((max(1, _CANVAS_BYTES // (n * n)), n, n), np.uint8)


def draw(canvases: ByteArray, slot: IntArray, polygons: npt.NDArray[np.int32], value: int) -> None:
    """Fill each polygon of (R, 4, 2) columns and rows on the canvas `slot` names, in place."""
    for canvas, polygon in zip(slot.tolist(), polygons, strict=True):
        cv2.fillPoly(canvases[canvas], [polygon], value)


def cell_polygons(
    boxes: ObstacleBoxes, obstacles: Obstacles, raster: RasterRule
) -> npt.NDArray[np.int32]:
    """(R, 4, 2) vertices of the drawn boxes as (column, row), before flips."""
    dtype = np.dtype(raster.corner_dtype)
    xy_yaw = in_drawing_frame(boxes, obstacles, raster).astype(dtype)
    width, length = obstacles.wl.astype(dtype).T
    corners = box_corners(xy_yaw[:, :2], xy_yaw[:, 2], length, width)
    metres = np.stack([_coordinate(corners, a, raster) for a in (raster.cols, raster.rows)], -1)
    return vertex_cells(metres, raster)


def vertex_cells(metres: FloatArray, raster: RasterRule) -> npt.NDArray[np.int32]:
    """Grid indices of vertices given in metres along the axes of the drawn grid."""
    metres = metres.astype(raster.index_dtype)
    start, cell = metres.dtype.type(raster.start_f32), metres.dtype.type(raster.cell_f32)
    if raster.rounding == "truncate":
        index = np.trunc((metres - start) / cell)
    else:
        index = np.round((metres - start + cell / 2) / cell)
    return np.clip(index, -_FAR_CELLS, _FAR_CELLS).astype(np.int32)


def in_drawing_frame(boxes: ObstacleBoxes, obstacles: Obstacles, raster: RasterRule) -> FloatArray:
    """(R, 3) centre and yaw of the obstacles in the frame that `raster` draws in."""
    if raster.frame == "own_ego" and boxes.own_ego_xy_yaw is not None:
        return boxes.own_ego_xy_yaw[obstacles.row]
    if raster.frame != "lidar":
        x, y, yaw = obstacles.xy_yaw.T
        lidar_x, lidar_y = boxes.lidar_offset_m(obstacles.frame // N_STEPS).T
        return np.stack([y + lidar_x, lidar_y - x, yaw - np.pi / 2], -1)
    if raster.box_point == "bottom" and boxes.bottom_xy_m is not None:
        return np.concatenate([boxes.bottom_xy_m[obstacles.row], obstacles.xy_yaw[:, 2:]], -1)
    return obstacles.xy_yaw


def _coordinate(points: FloatArray, axis: Axis, raster: RasterRule) -> FloatArray:
    """The coordinate of points in the drawing frame that grows along an axis of the grid."""
    x, y = points[..., 0], points[..., 1]
    forward, right = (y, x) if raster.frame == "lidar" else (x, -y)
    return {"forward": forward, "backward": -forward, "right": right, "left": -right}[axis]


def box_centre_cells(boxes: ObstacleBoxes, obstacles: Obstacles, raster: RasterRule) -> FloatArray:
    """(R, 2) row and column of the obstacles' centres before flips, float32, not rounded."""
    centre = in_drawing_frame(boxes, obstacles, raster)[:, :2].astype(np.float32)
    metres = np.stack([_coordinate(centre, a, raster) for a in (raster.rows, raster.cols)], -1)
    return metres / np.float32(raster.cell_m) + np.float32(raster.n_cells / 2)


def _in_grid(polygons: npt.NDArray[np.int32], raster: RasterRule) -> npt.NDArray[np.bool_]:
    """(R,) whether the polygon's bounding rectangle meets the grid."""
    return ((polygons.max(1) >= 0) & (polygons.min(1) < raster.n_cells)).all(-1)


def warps(boxes: ObstacleBoxes, raster: RasterRule) -> bool:
    """Whether grids are drawn in their own EGO frame and brought to t0 afterwards."""
    return raster.frame == "own_ego" and boxes.future_ego_xy_yaw is not None


def ego_motion(boxes: ObstacleBoxes, frames: IntArray) -> FloatArray:
    """(F, 3) forward, left and heading of each frame's EGO in EGO at t0."""
    assert boxes.future_ego_xy_yaw is not None
    return boxes.future_ego_xy_yaw.reshape(-1, 3)[frames]


def warp_source(
    rows: FloatArray, cols: FloatArray, motion: FloatArray, raster: RasterRule
) -> tuple[FloatArray, FloatArray]:
    """Where ST-P3's warp reads each cell of the grid at t0: row and column, not rounded.

    With the motion (forward, left, heading) of a step's EGO in EGO at t0, it turns the cell's
    centre by the inverse heading and adds (-forward, +left). The inverse motion would turn that
    shift too; the two agree on circular arcs.

    Args:
        rows: row indices at t0 (growing forward), broadcastable with `cols` and (F, 1, 1).
        cols: column indices at t0 (growing to the left).
        motion: (F, 3).
        raster: the grid.
    """
    half_m = raster.n_cells * raster.cell_m / 2
    forward, left, yaw = (part[:, None, None] for part in motion.T)
    sideways, ahead = ((i + 0.5) / raster.n_cells * 2 - 1 for i in (cols, rows))
    cos, sin = np.cos(yaw), np.sin(yaw)
    source_col = cos * sideways - sin * ahead + left / half_m
    source_row = sin * sideways + cos * ahead - forward / half_m
    n = raster.n_cells
    return ((source_row + 1) * n - 1) / 2, ((source_col + 1) * n - 1) / 2


def nearest_source(
    rows: FloatArray, cols: FloatArray, motion: FloatArray, raster: RasterRule
) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
    """Nearest cells of `warp_source`, and which of them lie inside; the others are cell 0, 0."""
    row, col = (np.round(part) for part in warp_source(rows, cols, motion, raster))
    inside = (row >= 0) & (row < raster.n_cells) & (col >= 0) & (col < raster.n_cells)
    row, col = (np.where(inside, part, 0) for part in (row, col))
    return row.astype(np.int64), col.astype(np.int64), inside


def _warped(canvases: ByteArray, motion: FloatArray, raster: RasterRule) -> ByteArray:
    """Grids of (F, n, n), each in its own EGO frame → in EGO at t0; nearest cell, 0 outside."""
    index = np.arange(raster.n_cells, dtype=np.float64)
    rows, cols, inside = nearest_source(index[None, :, None], index[None, None], motion, raster)
    return canvases[np.arange(len(canvases))[:, None, None], rows, cols] * inside


def rasterise_polylines(
    lines_m: FloatArray, *, cell_m: float = 0.1, n_cells: int = 1000
) -> ByteArray:
    """Boundary lines as BEV-Planner draws them for its curb collision.

    Args:
        lines_m: (L, P, 2) points x (forward), y (left) in EGO at t0, metres.
        cell_m: cell size, metres.
        n_cells: cells along each side.

    Returns:
        (n_cells, n_cells / 8) uint8, rows to the left, columns forward, packed along the columns.
        Points outside are pressed onto the border, as in the original.
    """
    canvas = np.zeros((n_cells, n_cells), np.uint8)
    start = np.float32(-n_cells * cell_m / 2 + cell_m / 2)
    index = (np.asarray(lines_m, np.float32) - start) / np.float32(cell_m)
    for line in np.clip(index, 0, n_cells - 1).astype(np.int32):
        for a, b in zip(line[:-1].tolist(), line[1:].tolist(), strict=True):
            cv2.line(canvas, a, b, 1, 1)
    return np.packbits(canvas, axis=-1)
