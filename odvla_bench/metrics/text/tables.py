"""The result of scoring one task: rows of numbers, what was counted, and the signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from odvla_bench.metrics.text.intervals import Interval, Statistic, bootstrap_intervals


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn; zero resamples give none."""

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0


class ScoreRow(NamedTuple):
    """One number of a result."""

    group: str
    """Which samples or which part of them, such as `narration`, `exist H0` or `overall`."""
    metric: str
    value: float
    """In the metric's own scale: 1 is perfect, and 10 for CIDEr."""
    interval: Interval | None
    """Bootstrap interval, where one was asked for."""


@dataclass(frozen=True)
class ScoreTable:
    """The numbers of one task under one profile."""

    profile: str
    signature: str
    """Every choice that can move a number, with a place for a build's fingerprint."""
    rows: tuple[ScoreRow, ...]
    counts: Mapping[str, int]
    """Samples read, scored, missing, malformed, and what else the profile counts."""

    def value(self, group: str, metric: str) -> float:
        """The number of one row.

        Raises:
            KeyError: there is no such row.
        """
        for row in self.rows:
            if (row.group, row.metric) == (group, metric):
                return row.value
        raise KeyError((group, metric))


def rows_of(
    group: str,
    statistics: Sequence[Statistic],
    clusters: Sequence[object] | None,
    resampling: Resampling,
) -> list[ScoreRow]:
    """A row for each score of `statistics`, with intervals by resampling `clusters`."""
    intervals: Mapping[str, Interval] = {}
    if resampling.resamples:
        intervals = bootstrap_intervals(
            statistics,
            clusters,
            resamples=resampling.resamples,
            level=resampling.level,
            seed=resampling.seed,
        )
    return [
        ScoreRow(group, name, float(value), intervals.get(name))
        for statistic in statistics
        for name, value in zip(statistic.names, statistic.corpus(), strict=True)
    ]
