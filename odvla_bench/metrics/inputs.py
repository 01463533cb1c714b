"""What `score_planning` is given: checked, and missing recorded steps filled by the protocol."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import InputError, PredictionError
from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.displacement import BoolArray
from odvla_bench.metrics.obstacles import IntArray, ObstacleBoxes
from odvla_bench.metrics.occupancy import ByteArray
from odvla_bench.metrics.protocols import N_STEPS, PlanningProtocol

_SHOWN = 10
_N_PAST = 2


class Plans(NamedTuple):
    """Predicted and recorded waypoints of N samples, LIDAR at t0, metres."""

    pred_m: FloatArray
    """(N, 6, 2) finite."""
    gt_m: FloatArray
    """(N, 6, 2) finite; steps that do not exist are filled as the protocol says."""
    n_valid: IntArray
    """(N,) future steps that exist."""

    @property
    def real(self) -> BoolArray:
        """(N, 6) steps that exist."""
        return np.arange(N_STEPS) < self.n_valid[:, None]


def checked_plans(
    pred_m: FloatArray, gt_m: FloatArray, n_valid: IntArray, protocol: PlanningProtocol
) -> Plans:
    """Plans that can be scored.

    Raises:
        PredictionError: predictions of the wrong shape or type, or not finite.
        InputError: recorded waypoints or step counts that do not fit.
    """
    pred_m, gt_m, n_valid = np.asarray(pred_m), np.asarray(gt_m), np.asarray(n_valid)
    shape = (len(n_valid), N_STEPS, 2) if n_valid.ndim == 1 else None
    if pred_m.shape != shape or pred_m.dtype not in (np.float32, np.float64):
        raise PredictionError(
            f"Predictions are {pred_m.dtype} of shape {pred_m.shape}; they must be float32 or "
            f"float64 of shape {shape}: one row of 6 waypoints (x, y) for each entry of n_valid."
        )
    _check_finite_predictions(pred_m)
    if gt_m.shape != shape or gt_m.dtype not in (np.float32, np.float64):
        raise InputError(
            f"Recorded waypoints are {gt_m.dtype} of shape {gt_m.shape}; they must be float32 or "
            f"float64 of shape {shape}, like the predictions."
        )
    if n_valid.dtype.kind not in "iu" or (
        n_valid.size and not 0 <= n_valid.min() <= n_valid.max() <= N_STEPS
    ):
        raise InputError(f"n_valid must hold whole numbers from 0 to {N_STEPS}; got {n_valid!r}.")
    n_valid = n_valid.astype(np.int64)
    return Plans(pred_m, _filled(gt_m, n_valid, protocol), n_valid)


def _check_finite_predictions(pred_m: FloatArray) -> None:
    bad = np.argwhere(~np.isfinite(pred_m).all(-1))
    if len(bad):
        rows = np.unique(bad[:, 0])
        problems = [
            f"row {row}, step {step + 1}: {pred_m[row, step].tolist()}"
            for row, step in bad[:_SHOWN].tolist()
        ]
        more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        raise PredictionError(
            f"{len(rows)} of {len(pred_m)} predictions are not finite, first row {rows[0]}; "
            "replace or drop them before scoring.",
            [*problems, *more],
        )


def _filled(gt_m: FloatArray, n_valid: IntArray, protocol: PlanningProtocol) -> FloatArray:
    """Recorded waypoints with 0 or the last position (the origin if none) at missing steps."""
    real = np.arange(N_STEPS) < n_valid[:, None]
    if not np.isfinite(gt_m[real]).all():
        row, step = np.argwhere(real & ~np.isfinite(gt_m).all(-1))[0]
        raise InputError(
            f"Recorded waypoint of row {row}, step {step + 1}, is not finite although n_valid is "
            f"{n_valid[row]}; lower n_valid or mend the row."
        )
    filled = np.where(real[..., None], gt_m, gt_m.dtype.type(0))
    if protocol.missing_future == "zero":
        return filled
    last = filled[np.arange(len(filled)), np.maximum(n_valid - 1, 0)]
    return np.where(real[..., None], filled, last[:, None])


def scored_samples(
    n_valid: IntArray, n_past: IntArray | None, protocol: PlanningProtocol
) -> BoolArray:
    """(N,) samples in the protocol's sample set."""
    if protocol.samples == "all":
        return np.ones(len(n_valid), bool)
    if protocol.samples == "any_future":
        return n_valid > 0
    complete = n_valid == N_STEPS
    if protocol.samples == "complete_with_2_past" and n_past is not None:
        complete &= n_past >= _N_PAST
    return complete


def check_lengths(n: int, **columns: npt.NDArray[Any] | None) -> None:
    """Raise an InputError unless every given column has one entry a sample."""
    for name, column in columns.items():
        if column is not None and np.shape(column) != (n,):
            raise InputError(
                f"{name} has shape {np.shape(column)}; it must hold one entry for each of the "
                f"{n} samples."
            )


def check_obstacles(
    n: int,
    protocol: PlanningProtocol,
    occupancy: ByteArray | None,
    boxes: ObstacleBoxes | None,
) -> None:
    """Raise an InputError unless occupancy or boxes, not both, fit the protocol and N samples."""
    if occupancy is not None and boxes is not None:
        raise InputError("Give either occupancy or boxes: with both, neither would be certain.")
    if boxes is not None:
        boxes.check_samples(n)
    if occupancy is not None and protocol.raster is None:
        raise InputError(
            f"Protocol {protocol.name!r} intersects boxes as polygons; pass boxes=, not occupancy=."
        )
    check_grid("occupancy", occupancy, (n, N_STEPS), protocol)


def check_grid(
    name: str, grid: ByteArray | None, leading: tuple[int, ...], protocol: PlanningProtocol
) -> None:
    """Raise an InputError unless a packed grid has the protocol's size and `leading` axes."""
    if grid is None or protocol.raster is None:
        return
    shape = (*leading, protocol.raster.n_cells, protocol.raster.n_cells // 8)
    if grid.shape != shape or grid.dtype != np.uint8:
        raise InputError(
            f"{name} is {grid.dtype} of shape {grid.shape}; protocol {protocol.name!r} needs "
            f"uint8 of shape {shape}, packed along the last axis with numpy.packbits."
        )
