"""Predictions once read, and their match with the samples to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import PredictionError

MAX_LISTED = 50
"""Defects an error lists before it only counts them."""


@dataclass(frozen=True, eq=False)
class PlanningPredictions:
    """N plans of six waypoints, one a sample."""

    sample_token: tuple[str, ...]
    """N distinct sample tokens, in the file's order."""
    xy_m: npt.NDArray[np.float64]
    """(N, 6, 2) metres, LIDAR frame at t0, x right, y forward; NaN where the parse failed."""
    parse_status: npt.NDArray[np.str_]
    """(N,) `given` where the file has coordinates; else `strict`, `repaired` or `failed`."""
    parse_reason: tuple[str, ...]
    """N texts: what was repaired or why the parse failed, else empty."""
    source: Path
    parser: str
    """Codec and repair policy for texts, as in `text/released`."""
    fingerprint: str
    """Digest of tokens, coordinates and statuses; neither format nor order of the file moves it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What `write_predictions` was given to keep."""

    def __len__(self) -> int:
        return len(self.sample_token)


@dataclass(frozen=True, eq=False)
class TokenMatch:
    """Which prediction belongs to which expected sample."""

    row: npt.NDArray[np.int64]
    """(M,) index of each expected sample's prediction; -1 where there is none."""
    missing: tuple[str, ...]
    """Expected tokens without a prediction, in the order expected."""
    unknown: tuple[str, ...]
    """Predicted tokens that were not expected, in the file's order."""


def check_tokens(
    predictions: PlanningPredictions, expected_tokens: Sequence[str], *, allow_partial: bool
) -> TokenMatch:
    """Match predictions with the samples to score.

    Args:
        predictions: what was read.
        expected_tokens: M distinct sample tokens.
        allow_partial: whether missing and unknown samples are returned instead of raised.

    Raises:
        PredictionError: samples are missing or unknown, and listed, unless `allow_partial`; or no
            sample matches at all.
    """
    row_of = {token: row for row, token in enumerate(predictions.sample_token)}
    row = np.array([row_of.get(token, -1) for token in expected_tokens], np.int64)
    missing = tuple(token for token in expected_tokens if token not in row_of)
    expected = set(expected_tokens)
    unknown = tuple(token for token in predictions.sample_token if token not in expected)
    if len(missing) == len(row) or ((missing or unknown) and not allow_partial):
        lines = [f"missing: {t}" for t in missing] + [f"not expected: {t}" for t in unknown]
        raise PredictionError(
            f"{predictions.source}: {len(missing)} of {len(row)} samples have no prediction, and "
            f"{len(unknown)} of {len(predictions)} predictions are of other samples. "
            "Predict each sample of the split once, or allow a partial evaluation:",
            first_lines(lines),
        )
    return TokenMatch(row, missing, unknown)


def first_lines(lines: Sequence[str]) -> list[str]:
    """The lines an error lists: the first ones, then how many more there are."""
    more = [f"… and {len(lines) - MAX_LISTED:,} more"] if len(lines) > MAX_LISTED else []
    return [*lines[:MAX_LISTED], *more]
