"""What scoring plans gives: per-step values that add up, and the tables made from their sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.bootstrap import bootstrap_interval, paired_difference
from odvla_bench.metrics.displacement import BoolArray, reduce_steps
from odvla_bench.metrics.obstacles import IntArray
from odvla_bench.metrics.protocols import HORIZON_NAMES, PlanningProtocol

_COLUMNS = (*HORIZON_NAMES, "avg")


@dataclass(frozen=True, eq=False)
class PlanningScores:
    """Plans scored under one protocol: N samples, 6 steps.

    Flags are computed for every sample, whether or not the protocol scores it; tables, counts and
    intervals use the scored ones only.
    """

    protocol: PlanningProtocol
    signature: str
    """Every choice that can move the numbers; `signature.with_build` adds the build."""
    l2_m: FloatArray
    """(N, 6) displacement, metres, float64; 0 at steps that do not exist (`exists` and the
    protocol say whether such a step counts), NaN for samples that are not scored."""
    box_collision: BoolArray | None
    """(N, 6) footprint collisions, steps with a ground-truth collision cleared; None without
    occupancy or boxes."""
    point_collision: BoolArray | None
    """(N, 6) the protocol's point collision, cleared alike; None also if it has none."""
    gt_collision: BoolArray | None
    """(N, 6) whether the footprint of the recorded drive collides; where a protocol fills missing
    frames, it does so at every missing step."""
    map_flags: BoolArray | None
    """(N, 6) curb collisions or steps off the drivable area; None without the map mask, or if
    the protocol has no such rate."""
    gt_collision_sample: BoolArray | None
    """(N,) samples with a ground-truth collision on a frame that is not occupied everywhere."""
    scored: BoolArray
    """(N,) samples in the protocol's sample set."""
    exists: BoolArray
    """(N, 6) steps of scored samples that enter the L2 denominators."""
    counted: BoolArray
    """(N, 6) steps of scored samples that enter the collision denominators."""
    n_valid: IntArray
    """(N,) future steps that exist."""
    scene: npt.NDArray[Any] | None
    """(N,) scene labels for intervals."""

    @property
    def map_metric(self) -> str | None:
        """Name of the rate against the map in tables, None if the protocol has none."""
        names = {"curb": "curb_collision", "off_drivable": "off_drivable"}
        return names.get(self.protocol.map_metric)

    @property
    def not_available(self) -> tuple[str, ...]:
        """Parts of the protocol that lack their input; None in tables, never zero."""
        return tuple(name for name, values in self._metrics().items() if values is None)

    def _metrics(self) -> dict[str, tuple[FloatArray | BoolArray, BoolArray] | None]:
        """Per-step values and the steps that count, by the metric's name in tables."""
        metrics: dict[str, tuple[FloatArray | BoolArray, BoolArray] | None] = {
            "l2_m": (self.l2_m, self.exists),
            "collision": _with(self.box_collision, self.counted),
        }
        if self.protocol.point != "none":
            metrics["point_collision"] = _with(self.point_collision, self.counted)
        if self.map_metric:
            metrics[self.map_metric] = _with(self.map_flags, self.exists)
        return metrics

    def additive(self) -> FloatArray:
        """(N, P, 3, 2) what each sample adds to numerator and denominator of P rows of tables."""
        parts = [
            reduce_steps(*values, self.exists, table.l2 if name == "l2_m" else table.collision)
            for table in self.protocol.tables
            for name, values in self._metrics().items()
            if values is not None
        ]
        return np.stack(parts, axis=1)

    def table(self) -> dict[str, Any]:
        """The printed numbers: rates as fractions, distances in metres.

        `{"l2_m": {"1s", "2s", "3s", "avg"}, "collision": {…}, …}` under the primary reduction;
        a second reduction stands beside it under its own name. NaN without any scored sample.
        """
        return self._as_table(ratios(self.additive().sum(0).reshape(1, -1))[0], float)

    def intervals(
        self, *, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Any]:
        """`table()` with a (low, high) pair for each number, resampled by scene.

        Raises:
            InputError: no scene labels were given.
        """
        interval = bootstrap_interval(
            self.additive(),
            self._scenes(),
            ratios,
            n_resamples=n_resamples,
            confidence=confidence,
            seed=seed,
        )
        pairs = np.stack([interval.low, interval.high], -1)
        return self._as_table(pairs, lambda pair: tuple(pair.tolist()))

    def step_means(self) -> dict[str, FloatArray | None]:
        """(6,) mean of each metric at each step, over the steps that count."""
        means: dict[str, FloatArray | None] = {}
        for name, pair in self._metrics().items():
            means[name] = None
            if pair is not None:
                values, counted = pair
                total = np.where(counted, values, 0.0).sum(0)
                means[name] = _divide(total, counted.sum(0).astype(float))
        return means

    def counts(self) -> dict[str, int]:
        """How many samples and steps stand behind the numbers, and how many were left out."""
        counts = {
            "samples": len(self.scored),
            "scored_samples": int(self.scored.sum()),
            "l2_steps": int(self.exists.sum()),
            "missing_steps": int((6 - self.n_valid[self.scored]).sum()),
        }
        if self.gt_collision is not None and self.gt_collision_sample is not None:
            real = np.arange(6) < self.n_valid[:, None]
            counts["collision_steps"] = int(self.counted.sum())
            counts["gt_collision_steps"] = int(
                (self.gt_collision & real & self.scored[:, None]).sum()
            )
            counts["gt_collision_samples"] = int((self.gt_collision_sample & self.scored).sum())
        return counts

    def _scenes(self) -> npt.NDArray[Any]:
        if self.scene is None:
            raise InputError(
                "Intervals are resampled by scene; pass scene=, one label a sample, to "
                "score_planning."
            )
        return self.scene

    def _as_table(self, values: FloatArray, convert: Callable[[Any], Any]) -> dict[str, Any]:
        """(P * 4, …) numbers in the order of `additive` → nested as `table()`."""
        rows = iter(values.reshape(-1, len(_COLUMNS), *values.shape[1:]))
        tables = {
            table.name: {
                name: None
                if pair is None
                else dict(zip(_COLUMNS, map(convert, next(rows)), strict=True))
                for name, pair in self._metrics().items()
            }
            for table in self.protocol.tables
        }
        primary = tables.pop(self.protocol.tables[0].name)
        return {**primary, **tables}


def compare_scores(
    first: PlanningScores,
    second: PlanningScores,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """First minus second, as `table()`, with scene-clustered intervals of the differences.

    Each number is `{"difference", "low", "high", "p_value"}`.

    Raises:
        InputError: the two differ in protocol, in samples or in available parts, or have no
            scene labels.
    """
    same = (
        first.protocol == second.protocol
        and first.not_available == second.not_available
        and np.array_equal(first.scored, second.scored)
        and np.array_equal(first.n_valid, second.n_valid)
        and np.array_equal(first._scenes(), second._scenes())
    )
    if not same:
        raise InputError(
            "Two score sets can be compared only on the same samples, in the same order, under "
            f"the same protocol and inputs; got {first.protocol.name!r} on {len(first.scored)} "
            f"and {second.protocol.name!r} on {len(second.scored)} samples."
        )
    result = paired_difference(
        first.additive(),
        second.additive(),
        first._scenes(),
        ratios,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    columns = np.stack([result.value, result.low, result.high, result.p_value], -1)
    names = ("difference", "low", "high", "p_value")
    return first._as_table(columns, lambda row: dict(zip(names, row.tolist(), strict=True)))


def ratios(sums: FloatArray) -> FloatArray:
    """(B, P * 3 * 2) sums of `additive` → (B, P * 4) values at 1, 2 and 3 s and their mean."""
    pairs = sums.reshape(len(sums), -1, len(HORIZON_NAMES), 2)
    values = _divide(pairs[..., 0], pairs[..., 1])
    with_average = np.concatenate([values, values.mean(-1, keepdims=True)], -1)
    return with_average.reshape(len(sums), -1)


def _divide(total: FloatArray, count: FloatArray) -> FloatArray:
    """Quotients, NaN where nothing was counted."""
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _with(
    flags: BoolArray | None, counted: BoolArray
) -> tuple[FloatArray | BoolArray, BoolArray] | None:
    return None if flags is None else (flags, counted)
