"""The car at a waypoint: its heading, its rectangle, and the grid cells that stand for it.

Trajectories are in LIDAR at t0 (x right, y forward), metres; headings are counter-clockwise from
straight ahead (+y), radians. Grids are indexed as the metric is given them, flips applied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.obstacles import IntArray
from odvla_bench.metrics.protocols import Axis, FootprintRule, PlanningProtocol, RasterRule

_MOVED_M = 0.5
_SLACK_CELLS = 3.0
"""Rounding of footprint and polygon cells, each way, with room to spare."""


class Cells(NamedTuple):
    """Cells of a grid, one group a frame; the two arrays broadcast to (F, a, b)."""

    rows: IntArray
    cols: IntArray
    inside: npt.NDArray[np.bool_] | None = None
    """Broadcastable to the same shape: cells that are looked at; None for all."""


class Probe(NamedTuple):
    """Something to look up on the grids of all frames (sample * 6 + step - 1)."""

    centre: FloatArray
    """(F, 2) row and column about which its cells lie."""
    reach: float
    """Greatest distance of a cell it may touch from the centre, in cells."""
    cells: Callable[[IntArray], Cells]
    """Frame numbers → their cells."""


def headings_rad(trajectory_m: FloatArray, n_valid: IntArray, rule: FootprintRule) -> FloatArray:
    """Heading of the car at each waypoint.

    Args:
        trajectory_m: (N, 6, 2) waypoints, LIDAR, metres.
        n_valid: (N,) steps that exist; `central_held` looks at no other.
        rule: which heading.

    Returns:
        (N, 6) radians from straight ahead, counter-clockwise, in the dtype of the input.
    """
    path = np.concatenate([np.zeros_like(trajectory_m[:, :1]), trajectory_m], axis=1)
    if rule.heading == "ignored":
        return np.zeros(trajectory_m.shape[:2], trajectory_m.dtype)
    if rule.heading == "last_displacement":
        return _last_displacement(np.diff(path, axis=1))
    if rule.heading == "central":
        return _central(path)
    return _central_held(path, n_valid)


def _ahead_angle(displacement: FloatArray) -> FloatArray:
    """Angle of (..., 2) displacements from +y, counter-clockwise."""
    return np.arctan2(-displacement[..., 0], displacement[..., 1])


def _last_displacement(moved: FloatArray) -> FloatArray:
    """BEV-Planner, OmniDrive: direction of the step just made, 0 if it is under 1 m."""
    length = np.sqrt((moved * moved).sum(-1))
    return np.where(length < 1, moved.dtype.type(0), _ahead_angle(moved))


def _central(path: FloatArray) -> FloatArray:
    """SparseDrive: central differences, backward at the end; 0 for a car that hardly moves.

    Where a difference is zero the original's angle from +x is 0: the car points right.
    """
    spans = np.concatenate([path[:, 2:] - path[:, :-2], path[:, -1:] - path[:, -2:-1]], axis=1)
    still = np.linalg.norm(path[:, -1] - path[:, 1], axis=-1) < _MOVED_M
    from_right = np.arctan2(spans[..., 1], spans[..., 0]) - spans.dtype.type(np.pi / 2)
    return np.where(still[:, None], spans.dtype.type(0), from_right)


def _central_held(path: FloatArray, n_valid: IntArray) -> FloatArray:
    """`exact`: the difference each heading is taken from must itself span 0.5 m, or is not used."""
    last = np.arange(1, path.shape[1]) >= n_valid[:, None]
    backward = path[:, 1:] - path[:, :-1]
    central = np.concatenate([path[:, 2:] - path[:, :-2], backward[:, -1:]], axis=1)
    spans = np.where(last[..., None], backward, central)
    heading = np.zeros(spans.shape[:2], path.dtype)
    held = np.zeros(len(path), path.dtype)
    for step in range(spans.shape[1]):
        moved = np.linalg.norm(spans[:, step], axis=-1) >= _MOVED_M
        held = np.where(moved, _ahead_angle(spans[:, step]), held)
        heading[:, step] = held
    return heading


def footprint_boxes(
    trajectory_m: FloatArray, heading_rad: FloatArray, rule: FootprintRule
) -> FloatArray:
    """(N, 6, 3) centre and yaw of the rectangle, LIDAR, float64; yaw counter-clockwise from +x."""
    yaw = heading_rad.astype(np.float64) + np.pi / 2
    ahead = np.stack([np.cos(yaw), np.sin(yaw)], -1) * rule.forward_m
    return np.concatenate([trajectory_m + ahead, yaw[..., None]], -1)


def along(trajectory_m: FloatArray, axis: Axis) -> FloatArray:
    """The coordinate of (..., 2) LIDAR points that grows along an axis of a grid."""
    if axis in ("forward", "backward"):
        return trajectory_m[..., 1] if axis == "forward" else -trajectory_m[..., 1]
    return trajectory_m[..., 0] if axis == "right" else -trajectory_m[..., 0]


def template_cells(rule: FootprintRule, raster: RasterRule) -> tuple[IntArray, IntArray]:
    """Indices along forward and sideways whose cell centres lie in the rectangle at the origin."""
    start, cell = float(raster.start_f32), float(raster.cell_f32)

    def between(low_m: float, high_m: float) -> IntArray:
        return np.arange(np.ceil((low_m - start) / cell), (high_m - start) / cell).astype(int)

    half_length, half_width = rule.length_m / 2, rule.width_m / 2
    return (
        between(rule.forward_m - half_length, rule.forward_m + half_length),
        between(-half_width, half_width),
    )


def footprint_probe(
    trajectory_m: FloatArray, heading_rad: FloatArray, protocol: PlanningProtocol
) -> Probe:
    """The footprint's cells at every waypoint of (N, 6, 2) trajectories, LIDAR, metres.

    The arithmetic is that of the originals: the waypoint is divided by the cell size in its own
    dtype, the template's indices are added in float64, the sum is truncated, then clipped to the
    grid.
    """
    raster, rule = _raster(protocol), protocol.footprint
    points = trajectory_m.reshape(-1, 2)
    heading = heading_rad.reshape(-1)
    cells_of = _fixed_cells if rule.heading == "ignored" else _turned_cells
    centre = _clipped_centre(points, heading, rule, raster)
    reach = np.hypot(rule.length_m, rule.width_m) / 2 / raster.cell_m + _SLACK_CELLS
    return Probe(centre, reach, lambda f: cells_of(points[f], heading[f], rule, raster))


def point_probe(trajectory_m: FloatArray, protocol: PlanningProtocol) -> Probe:
    """The single cell of the point collision, in the arithmetic of the trajectory's dtype."""
    raster = _raster(protocol)
    start = raster.start_f32 / (2 if protocol.point == "waypoint_cell_halved_start" else 1)
    points = trajectory_m.reshape(-1, 2)
    axes = (raster.given_rows, raster.given_cols)
    index = np.stack([np.trunc((along(points, a) - start) / raster.cell_f32) for a in axes], -1)
    inside = ((index >= 0) & (index < raster.n_cells)).all(-1)
    index = np.where(inside[:, None], index, 0).astype(np.int64)
    shape = (-1, 1, 1)

    def cells(frames: IntArray) -> Cells:
        rows, cols = index[frames].T
        return Cells(rows.reshape(shape), cols.reshape(shape), inside[frames].reshape(shape))

    return Probe(index.astype(np.float64), _SLACK_CELLS, cells)


def _raster(protocol: PlanningProtocol) -> RasterRule:
    assert protocol.raster is not None, protocol.name
    return protocol.raster


def _clipped_centre(
    points: FloatArray, heading: FloatArray, rule: FootprintRule, raster: RasterRule
) -> FloatArray:
    """(F, 2) row and column of the rectangle's centre, held inside the grid."""
    ahead = np.stack([-np.sin(heading), np.cos(heading)], -1) * rule.forward_m
    axes = (raster.given_rows, raster.given_cols)
    centre = np.stack([along(points + ahead, axis) for axis in axes], -1)
    return np.clip(centre / raster.cell_m + raster.n_cells / 2, 0, raster.n_cells - 1)


def _is_lengthwise(axis: Axis) -> bool:
    return axis in ("forward", "backward")


def _fixed_cells(
    points: FloatArray, _heading: FloatArray, rule: FootprintRule, raster: RasterRule
) -> Cells:
    """Cells of a rectangle that is never turned: rows and columns separate."""
    lengthwise, sideways = template_cells(rule, raster)

    def clipped(axis: Axis) -> IntArray:
        template = lengthwise if _is_lengthwise(axis) else sideways
        ahead: Axis = "forward" if axis == "backward" else axis
        index = along(points, ahead)[:, None] / raster.cell_f32 + template
        index = raster.n_cells - index if axis == "backward" else index
        return np.clip(index, 0, raster.n_cells - 1).astype(np.int64)

    return Cells(clipped(raster.given_rows)[:, :, None], clipped(raster.given_cols)[:, None, :])


def _turned_cells(
    points: FloatArray, heading: FloatArray, rule: FootprintRule, raster: RasterRule
) -> Cells:
    """Cells of a rectangle turned about the waypoint: template cells are turned and rounded."""
    lengthwise, sideways = template_cells(rule, raster)
    offset = (raster.n_cells - 1) / 2
    forward, left = (
        part.reshape(1, -1) - offset for part in np.meshgrid(lengthwise, sideways, indexing="ij")
    )
    cos = np.cos(heading).astype(np.float32).astype(np.float64)[:, None]
    sin = np.sin(heading).astype(np.float32).astype(np.float64)[:, None]

    def clipped(axis: Axis) -> IntArray:
        turned = forward * cos - left * sin if _is_lengthwise(axis) else forward * sin + left * cos
        sign = -1 if axis in ("backward", "right") else 1
        index = along(points, axis)[:, None] / raster.cell_f32 + np.round(sign * turned + offset)
        return np.clip(index, 0, raster.n_cells - 1).astype(np.int64)[:, :, None]

    return Cells(clipped(raster.given_rows), clipped(raster.given_cols))
