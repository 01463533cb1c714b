"""Percentile intervals by resampling whole clusters (scenes), without scoring anything again.

Every number this package prints is a function of sums over samples: numerators and
denominators, n-gram counts, lengths. Keyframes of a scene resemble each other, so scenes are
drawn, with replacement, and the function is applied to the re-weighted sums of scenes
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray

Statistic = Callable[[FloatArray], FloatArray]
"""(B, P) sums → (B, Q) values."""

_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class Interval:
    """Values with percentile bounds, one of each for every one of Q numbers."""

    value: FloatArray
    """(Q,) on the sums of all clusters."""
    low: FloatArray
    """(Q,)"""
    high: FloatArray
    """(Q,)"""
    confidence: float
    n_clusters: int
    n_resamples: int
    seed: int


@dataclass(frozen=True, eq=False)
class PairedDifference(Interval):
    """First minus second of two score sets on the same clusters."""

    p_value: FloatArray
    """(Q,) two-sided share of resamples on the other side of zero, at least 2 / (B + 1)."""


def cluster_sums(addends: FloatArray, cluster: npt.NDArray[Any]) -> FloatArray:
    """(N, …) addends of samples and (N,) labels → (S, P) sums of clusters, labels sorted."""
    if len(cluster) != len(addends):
        raise InputError(
            f"{len(cluster)} cluster labels for {len(addends)} samples; give one a sample."
        )
    flat = addends.reshape(len(addends), -1)
    labels, index = np.unique(cluster, return_inverse=True)
    sums = np.zeros((len(labels), flat.shape[1]))
    np.add.at(sums, index, flat)
    return sums


def resample_weights(n_clusters: int, n_resamples: int, seed: int) -> Iterator[FloatArray]:
    """(B', S) how often each cluster is drawn in each resample, some of the B resamples at a time.

    Every row sums to S, and the rows do not depend on how many come at a time.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_AT_ONCE // n_clusters)
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.integers(n_clusters, size=(size, n_clusters))
        cell = drawn + np.arange(size)[:, None] * n_clusters
        counts = np.bincount(cell.ravel(), minlength=size * n_clusters)
        yield counts.reshape(size, n_clusters).astype(np.float64)


def replicate(
    parts: Sequence[tuple[FloatArray, Statistic]], n_resamples: int, seed: int
) -> list[FloatArray]:
    """(B, Q) values of each statistic over B resamples, the same clusters drawn for all.

    Args:
        parts: (S, P) sums of the same S clusters, each with its statistic.
        n_resamples: B.
        seed: of the resampling.
    """
    found: list[list[FloatArray]] = [[] for _ in parts]
    for weights in resample_weights(len(parts[0][0]), n_resamples, seed):
        for values, (sums, statistic) in zip(found, parts, strict=True):
            values.append(statistic(weights @ sums))
    return [np.concatenate(values) for values in found]


def percentile_bounds(replicates: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of each column, ignoring resamples without any denominator."""
    tail = (1 - confidence) / 2 * 100
    known = ~np.isnan(replicates).all(0)
    bounds = np.full((2, replicates.shape[1]), np.nan)
    bounds[:, known] = np.nanpercentile(replicates[:, known], [tail, 100 - tail], axis=0)
    return bounds[0], bounds[1]


def bootstrap_interval(
    addends: FloatArray,
    cluster: npt.NDArray[Any],
    statistic: Statistic,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of sums, resampled by cluster.

    Args:
        addends: (N, …) what each sample adds to the sums.
        cluster: (N,) label of each sample's cluster.
        statistic: sums → values.
        n_resamples: B.
        confidence: coverage of the interval.
        seed: of the resampling; the same seed gives the same interval.
    """
    sums = cluster_sums(addends, cluster)
    [replicates] = replicate([(sums, statistic)], n_resamples, seed)
    low, high = percentile_bounds(replicates, confidence)
    value = statistic(sums.sum(0)[None])[0]
    return Interval(value, low, high, confidence, len(sums), n_resamples, seed)


def paired_difference(
    first: FloatArray,
    second: FloatArray,
    cluster: npt.NDArray[Any],
    statistic: Statistic,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Interval of the difference of two score sets, drawing the same clusters for both.

    Args:
        first: (N, …) addends of the first set.
        second: (N, …) addends of the second set, same samples in the same order.
        cluster: (N,) label of each sample's cluster.
        statistic: sums → values.
        n_resamples: B.
        confidence: coverage of the interval.
        seed: of the resampling.

    Raises:
        InputError: the two sets differ in shape.
    """
    if first.shape != second.shape:
        raise InputError(
            f"Score sets of shapes {first.shape} and {second.shape} cannot be paired; score the "
            "same samples, in the same order, under the same protocol."
        )
    sums = [cluster_sums(addends, cluster) for addends in (first, second)]
    one, other = replicate([(total, statistic) for total in sums], n_resamples, seed)
    value, reference = (statistic(total.sum(0)[None])[0] for total in sums)
    low, high = percentile_bounds(one - other, confidence)
    return PairedDifference(
        value - reference,
        low,
        high,
        confidence,
        len(sums[0]),
        n_resamples,
        seed,
        _p_value(one - other),
    )


def _p_value(differences: FloatArray) -> FloatArray:
    """Two-sided, with the observed set counted among the resamples."""
    n = len(differences)
    below, above = ((side + 1) / (n + 1) for side in _both_sides(differences))
    return np.minimum(1.0, 2 * np.minimum(below, above))


def _both_sides(differences: FloatArray) -> tuple[FloatArray, FloatArray]:
    return (differences <= 0).sum(0), (differences >= 0).sum(0)
