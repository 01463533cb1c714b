"""Motion of agents: minADE, minFDE and miss rate at 1, 2 and 3 s.

Over K answers to one row, minADE is the least mean displacement up to the horizon, minFDE the
least displacement at it, and a row is missed if minFDE exceeds 2 m (Argoverse's threshold). A row
counts at a horizon if its recorded future reaches it; with one answer a row, the values are ADE
and FDE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.bootstrap import bootstrap_interval

BoolArray = npt.NDArray[np.bool_]

HORIZONS_S = (1, 2, 3)
HORIZON_STEPS = (2, 4, 6)
"""Steps of half a second at each horizon."""
MISS_THRESHOLD_M = 2.0

MOTION_METRICS = ("min_ade_m", "min_fde_m", "missed")


@dataclass(frozen=True, eq=False)
class MotionScores:
    """Values of N rows at three horizons, and which of them count."""

    min_ade_m: FloatArray
    """(N, 3) metres; 0 where the row does not count."""
    min_fde_m: FloatArray
    """(N, 3) metres; likewise."""
    missed: BoolArray
    """(N, 3)"""
    counted: BoolArray
    """(N, 3) whether the recorded future reaches the horizon."""

    def mean(self, metric: str, rows: BoolArray | None = None) -> FloatArray:
        """(3,) a metric at the horizons over the rows that count; NaN where none does.

        Args:
            metric: of `MOTION_METRICS`.
            rows: (N,) which rows; all by default.
        """
        counted = self.counted if rows is None else self.counted & rows[:, None]
        sums = np.where(counted, getattr(self, metric), 0.0).sum(0)
        n = counted.sum(0)
        return np.where(n > 0, sums / np.maximum(n, 1), np.nan)


def score_motion(
    pred_m: FloatArray,
    truth_m: FloatArray,
    valid: BoolArray,
    *,
    miss_threshold_m: float = MISS_THRESHOLD_M,
) -> MotionScores:
    """Score K predicted futures of N agents.

    Args:
        pred_m: (N, K, 6, 2) positions at 0.5 … 3.0 s, metres; any frame, the truth's.
        truth_m: (N, 6, 2) recorded positions; any value where not valid.
        valid: (N, 6) steps that were recorded.
        miss_threshold_m: error at the horizon beyond which a row is missed.

    Raises:
        InputError: shapes that do not fit, or predictions that are not finite.

    >>> straight, valid = np.stack([np.zeros(6), np.arange(1.0, 7.0)], -1), np.ones((1, 6), bool)
    >>> scores = score_motion(straight[None, None] + [3.0, 0.0], straight[None], valid)
    >>> scores.mean("min_fde_m").tolist(), scores.mean("missed").tolist()
    ([3.0, 3.0, 3.0], [1.0, 1.0, 1.0])
    """
    n = len(truth_m)
    if pred_m.shape[:1] + pred_m.shape[2:] != (n, 6, 2) or valid.shape != (n, 6):
        raise InputError(
            f"Motion has shapes {pred_m.shape} predicted, {truth_m.shape} recorded, {valid.shape} "
            "valid; (N, K, 6, 2), (N, 6, 2) and (N, 6) expected."
        )
    if not np.isfinite(pred_m).all():
        row = int(np.argmax(~np.isfinite(pred_m).reshape(n, -1).all(1)))
        raise InputError(f"Predicted motion of row {row} is not finite.")
    difference = pred_m - np.where(valid[..., None], truth_m, 0.0)[:, None]
    distance = np.linalg.norm(difference, axis=-1) * valid[:, None]
    last = np.array(HORIZON_STEPS) - 1
    steps = np.maximum(np.cumsum(valid, 1), 1)[:, None]
    counted = valid[:, last]
    ade = (np.cumsum(distance, -1) / steps)[..., last].min(1) * counted
    fde = distance[..., last].min(1) * counted
    return MotionScores(ade, fde, fde > miss_threshold_m, counted)


def motion_table(
    scores: MotionScores, category: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Means at the horizons over all rows and by category, with the rows that count.

    Args:
        scores: of N rows.
        category: (N,) such as "vehicle.car".

    Returns:
        "all" and each category, sorted → metric → three values; "rows" → three counts.
    """
    names = np.array(category, dtype=object)
    groups = {"all": np.ones(len(names), bool)}
    groups |= {str(name): names == name for name in sorted(set(category))}
    return {
        name: {metric: scores.mean(metric, rows).tolist() for metric in MOTION_METRICS}
        | {"rows": (scores.counted & rows[:, None]).sum(0).tolist()}
        for name, rows in groups.items()
    }


def motion_intervals(
    scores: MotionScores, category: Sequence[str], scene: Sequence[str], *, seed: int = 0
) -> dict[str, dict[str, list[list[float]]]]:
    """95 % intervals of what `motion_table` says, by resampling whole scenes.

    Args:
        scores: of N rows.
        category: (N,)
        scene: (N,) names of scenes.
        seed: of the resampling.

    Returns:
        "all" and each category, sorted → metric → three pairs of low and high.
    """
    names, group = np.unique(np.array(category, dtype=str), return_inverse=True)
    scenes, cluster = np.unique(np.array(scene, dtype=str), return_inverse=True)
    values = [getattr(scores, metric) * scores.counted for metric in MOTION_METRICS]
    addends = np.stack([*values, scores.counted], 1).astype(np.float64)
    sums = np.zeros((len(scenes), len(names) + 1, *addends.shape[1:]))
    np.add.at(sums, (cluster, group + 1), addends)
    sums[:, 0] = sums.sum(1)

    def means(total: FloatArray) -> FloatArray:
        parts = total.reshape(len(total), *sums.shape[1:])
        whole, count = parts[:, :, :-1], parts[:, :, -1:]
        ratio = np.divide(whole, count, out=np.full(whole.shape, np.nan), where=count > 0)
        return ratio.reshape(len(total), -1)

    found = bootstrap_interval(sums, np.arange(len(scenes)), means, seed=seed)
    bounds = np.stack([found.low, found.high], -1)
    shaped = bounds.reshape(len(names) + 1, len(MOTION_METRICS), len(HORIZONS_S), 2)
    return {
        name: {m: shaped[g, i].tolist() for i, m in enumerate(MOTION_METRICS)}
        for g, name in enumerate(("all", *names.tolist()))
    }


def hold_last(xy_m: FloatArray) -> FloatArray:
    """(N, 6, 2) positions with what is NaN at the last position before it, or at the origin."""
    held = np.where(np.isfinite(xy_m), xy_m, 0.0)
    there = np.isfinite(xy_m).all(-1)
    for step in range(1, xy_m.shape[1]):
        held[:, step] = np.where(there[:, step, None], held[:, step], held[:, step - 1])
    return held
