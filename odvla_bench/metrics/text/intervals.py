"""Per-sample statistics that a corpus score is made of, and intervals by resampling them.

A score is a function of summed statistics, so that a bootstrap adds up statistics again and
scores nothing twice. CIDEr keeps the document frequencies of the whole corpus in all resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from odvla_bench.metrics.bootstrap import cluster_sums, percentile_bounds, replicate
from odvla_bench.metrics.text.corpus import FloatArray, number_distinct


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
    values = np.ones((len(names) + 1, len(scores)))  # columns are summed faster this way
    values[:-1] = scores.T
    return Statistic(tuple(names), values.T, _mean)


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

    Raises:
        InputError: not one label for each sample.
    """
    count = len(statistics[0].values)
    _, cluster = number_distinct(range(count) if clusters is None else clusters)
    parts = [(cluster_sums(s.values, cluster), s.finish) for s in statistics]
    result: dict[str, Interval] = {}
    for statistic, drawn in zip(statistics, replicate(parts, resamples, seed), strict=True):
        bounds = percentile_bounds(drawn, level)
        result |= {
            name: Interval(float(low), float(high))
            for name, low, high in zip(statistic.names, *bounds, strict=True)
        }
    return result


def _mean(sums: FloatArray) -> FloatArray:
    """(…, M + 1) sums with the count last → (…, M) means."""
    return sums[..., :-1] / sums[..., -1:]
