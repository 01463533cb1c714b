"""Rates against map masks: BEV-Planner's curb collision, OmniDrive's leaving the drivable area."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray, box_corners
from odvla_bench.metrics.collision import packed_hits
from odvla_bench.metrics.displacement import BoolArray
from odvla_bench.metrics.footprint import Probe
from odvla_bench.metrics.occupancy import ByteArray, vertex_cells
from odvla_bench.metrics.protocols import N_STEPS, FootprintRule, RasterRule

_OFF_DRIVABLE_LENGTH_M = 4.08
"""OmniDrive draws this rate's car a little shorter than the collision footprint."""


def curb_hits(boundary: ByteArray, probes: Sequence[Probe]) -> list[BoolArray]:
    """For each probe, whether its footprint covers a boundary cell; (N * 6,) a probe.

    Args:
        boundary: (N, rows, columns / 8) packed lines (`occupancy.rasterise_polylines`).
        probes: footprints on N * 6 frames; all steps of a sample share its mask.
    """
    sample = np.arange(len(boundary) * N_STEPS) // N_STEPS
    return [packed_hits(boundary, sample, probe) for probe in probes]


def off_drivable(
    pred_m: FloatArray, drivable: ByteArray, rule: FootprintRule, raster: RasterRule
) -> BoolArray:
    """Steps at which OmniDrive's footprint leaves the drivable area.

    The rectangle follows the direction of the last displacement, however short, but its offset
    ahead of the waypoint is added to x (forward) without being turned. A sample whose rectangle
    at t0 is not fully drivable has no such step.

    Args:
        pred_m: (N, 6, 2) waypoints, LIDAR, metres.
        drivable: (N, rows, columns / 8) packed masks in EGO at t0, rows left, columns forward.
        rule: offset and width of the rectangle.
        raster: the grid of the masks.

    Returns:
        (N, 6) flags.
    """
    polygons = _polygons(pred_m.astype(np.float64), rule, raster)
    off = np.zeros(polygons.shape[:2], bool)
    for sample, packed in enumerate(drivable):
        blocked = np.unpackbits(packed, axis=-1) == 0
        off[sample] = [_covers(blocked, polygon) for polygon in polygons[sample]]
    return off[:, 1:] & ~off[:, :1]


def _polygons(pred_m: FloatArray, rule: FootprintRule, raster: RasterRule) -> npt.NDArray[np.int32]:
    """(N, 7, 4, 2) vertices (column, row) of the rectangle at t0 and at each step."""
    ego = np.stack([pred_m[..., 1], -pred_m[..., 0]], -1)
    path = np.concatenate([np.zeros_like(ego[:, :1]), ego], axis=1)
    moved = np.diff(path, axis=1, prepend=path[:, :1])
    size = np.full(path.shape[:2], 1.0)
    corners = box_corners(
        path + np.array([rule.forward_m, 0.0]),
        np.arctan2(moved[..., 1], moved[..., 0]),
        size * _OFF_DRIVABLE_LENGTH_M,
        size * rule.width_m,
    )
    return vertex_cells(corners, raster)


def _covers(blocked: BoolArray, polygon: npt.NDArray[np.int32]) -> bool:
    """Whether the filled polygon covers a blocked cell; only its bounding rectangle is drawn."""
    top, end = np.maximum(polygon.min(0), 0), np.maximum(polygon.max(0) + 1, 0)
    crop = blocked[top[1] : end[1], top[0] : end[0]]
    if not crop.any():
        return False
    canvas = np.zeros(crop.shape, np.uint8)
    cv2.fillPoly(canvas, [polygon - top], 1)
    return bool((canvas.astype(bool) & crop).any())
