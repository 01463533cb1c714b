"""Percentile intervals by resampling whole clusters (scenes), without scoring anything again.

Every number this package prints is a function of sums over samples: numerators and
denominators, n-gram counts, lengths. Keyframes of a scene resemble each other, so scenes are
drawn, with replacement, and the function is applied to the re-weighted sums of scenes
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray

Statistic = Callable[[FloatArray], FloatArray]
"""(B, P) sums → (B, Q) values."""


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


def resample_weights(n_clusters: int, n_resamples: int, seed: int) -> FloatArray:
    """(B, S) how often each cluster is drawn in each resample; every row sums to S."""
    drawn = np.random.default_rng(seed).integers(n_clusters, size=(n_resamples, n_clusters))
    cell = drawn + np.arange(n_resamples)[:, None] * n_clusters
    counts = np.bincount(cell.ravel(), minlength=n_resamples * n_clusters)
    return counts.reshape(n_resamples, n_clusters).astype(np.float64)


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
    replicates = statistic(resample_weights(len(sums), n_resamples, seed) @ sums)
    low, high = _percentiles(replicates, confidence)
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
    weights = resample_weights(len(sums[0]), n_resamples, seed)
    one, other = (statistic(weights @ total) for total in sums)
    value, reference = (statistic(total.sum(0)[None])[0] for total in sums)
    low, high = _percentiles(one - other, confidence)
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


def _percentiles(replicates: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of each column, ignoring resamples without any denominator."""
    tail = (1 - confidence) / 2 * 100
    known = ~np.isnan(replicates).all(0)
    bounds = np.full((2, replicates.shape[1]), np.nan)
    bounds[:, known] = np.nanpercentile(replicates[:, known], [tail, 100 - tail], axis=0)
    return bounds[0], bounds[1]


def _p_value(differences: FloatArray) -> FloatArray:
    """Two-sided, with the observed set counted among the resamples."""
    n = len(differences)
    below, above = ((side + 1) / (n + 1) for side in _both_sides(differences))
    return np.minimum(1.0, 2 * np.minimum(below, above))


def _both_sides(differences: FloatArray) -> tuple[FloatArray, FloatArray]:
    return (differences <= 0).sum(0), (differences >= 0).sum(0)
