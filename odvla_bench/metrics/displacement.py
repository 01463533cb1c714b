"""L2 displacement, and the three ways a protocol reduces six steps to 1, 2 and 3 s.

A reduction gives, for each sample and horizon, what the sample adds to the numerator and to the
denominator of the printed value. Sums of both over samples are all that a table, a bootstrap or
a paired comparison needs.

Order of averaging: ST-P3, UniAD and SparseDrive average over samples, then over steps; VAD,
BEV-Planner and OmniDrive over steps, then over samples. All of them divide every step by the
same count, so the two orders differ by rounding only and one formula serves both. A protocol
that drops single steps (`exact`) uses `at_horizon` and `any_up_to`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.protocols import HORIZON_STEPS, Reduction

BoolArray = npt.NDArray[np.bool_]

_LAST = np.array(HORIZON_STEPS) - 1


def displacement_m(pred_m: FloatArray, gt_m: FloatArray) -> FloatArray:
    """Euclidean distance at each step: (N, 6, 2) pairs of one frame, metres → (N, 6) float64."""
    difference = pred_m.astype(np.float64) - gt_m
    return np.sqrt(np.einsum("...i,...i->...", difference, difference))


def reduce_steps(
    values: FloatArray | BoolArray, counted: BoolArray, exists: BoolArray, reduction: Reduction
) -> FloatArray:
    """What each sample adds to numerator and denominator of each horizon.

    Args:
        values: (N, 6) distances or flags.
        counted: (N, 6) steps that count.
        exists: (N, 6) steps that exist for the protocol; a step that exists may still not count.
        reduction: `at_horizon`, the horizon's own step; `cumulative`, the mean over the counted
            steps up to it, of samples whose step at the horizon counts; `any_up_to`, whether any
            counted step up to it is set, of samples whose step at the horizon exists and that
            have a counted step up to it.

    Returns:
        (N, 3, 2) numerators and denominators, float64.
    """
    weighted = np.where(counted, values, 0.0)
    if reduction == "at_horizon":
        return np.stack([weighted[:, _LAST], counted[:, _LAST]], -1)
    if reduction == "any_up_to":
        hit = np.maximum.accumulate(weighted, axis=1)[:, _LAST]
        in_table = np.maximum.accumulate(counted, axis=1)[:, _LAST] & exists[:, _LAST]
        return np.stack([hit * in_table, in_table], -1)
    n_counted = np.cumsum(counted, axis=1)[:, _LAST]
    mean = np.cumsum(weighted, axis=1)[:, _LAST] / np.maximum(n_counted, 1)
    in_table = counted[:, _LAST]
    return np.stack([mean * in_table, in_table], -1)
