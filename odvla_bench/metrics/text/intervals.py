"""Per-sample statistics that a corpus score is made of, and intervals by resampling them.

A score is a function of summed statistics, so that a bootstrap adds up statistics again and
scores nothing twice. CIDEr keeps the document frequencies of the whole corpus in all resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from odvla_bench.metrics.text.corpus import FloatArray, IntArray

_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Statistic:
    """One or more scores that are functions of the same summed statistics."""

    names: tuple[str, ...]
    """M names of scores."""
    values: FloatArray
    """(N, K) statistics of each sample."""
    finish: Callable[[FloatArray], FloatArray]
    """(…, K) sums → (…, M) scores."""

    def corpus(self) -> FloatArray:
        """(M,) scores of all samples together."""
        return self.finish(self.values.sum(0))

    def per_sample(self) -> FloatArray:
        """(N, M) scores of each sample alone."""
        return self.finish(self.values)

    def weighted(self, weights: FloatArray) -> FloatArray:
        """(…, N) sample weights → (…, M) scores of the weighted corpora."""
        return self.finish(weights @ self.values)


class Interval(NamedTuple):
    """A two-sided interval of a score."""

    low: float
    high: float


def mean_statistic(names: Sequence[str], scores: FloatArray) -> Statistic:
    """The statistic of scores whose corpus value is their mean.

    Args:
        names: M names.
        scores: (N, M) of each sample.
    """
    values = np.vstack([scores.T, np.ones(len(scores))]).T  # columns are summed faster this way
    return Statistic(tuple(names), values, _mean)


def bootstrap_intervals(
    statistics: Sequence[Statistic],
    clusters: Sequence[object] | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of corpus scores, clusters drawn with replacement.

    Args:
        statistics: of the same N samples.
        clusters: N labels, such as scene tokens, whose samples are drawn together, since frames
            of a scene are alike; None draws samples.
        resamples: number of resampled corpora.
        level: share of resamples inside the interval.
        seed: of the generator; the draws do not depend on the statistics.
    """
    count = len(statistics[0].values)
    group = _group_numbers(clusters, count)
    size = int(group.max()) + 1
    sums = [_sum_groups(s.values, group, size) for s in statistics]
    rng = np.random.default_rng(seed)
    draws: list[list[FloatArray]] = [[] for _ in statistics]
    block = max(1, _WEIGHTS_AT_ONCE // size)
    for start in range(0, resamples, block):
        shape = min(block, resamples - start)
        weights = rng.multinomial(size, np.full(size, 1 / size), size=shape).astype(np.float64)
        for drawn, statistic, total in zip(draws, statistics, sums, strict=True):
            drawn.append(statistic.finish(weights @ total))
    tail = (1 - level) / 2
    result: dict[str, Interval] = {}
    for statistic, drawn in zip(statistics, draws, strict=True):
        low, high = np.nanquantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
        result |= {
            name: Interval(float(a), float(b))
            for name, a, b in zip(statistic.names, low, high, strict=True)
        }
    return result


def _mean(sums: FloatArray) -> FloatArray:
    """(…, M + 1) sums with the count last → (…, M) means."""
    return sums[..., :-1] / sums[..., -1:]


def _group_numbers(clusters: Sequence[object] | None, count: int) -> IntArray:
    if clusters is None:
        return np.arange(count)
    numbers: dict[object, int] = {}
    labels = [numbers.setdefault(label, len(numbers)) for label in clusters]
    if len(labels) != count:
        raise ValueError(f"{len(labels)} cluster labels for {count} samples")
    return np.array(labels)


def _sum_groups(values: FloatArray, group: IntArray, size: int) -> FloatArray:
    total = np.zeros((size, values.shape[1]))
    np.add.at(total, group, values)
    return total
