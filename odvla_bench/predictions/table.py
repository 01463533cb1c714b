"""Predictions once read, and their match with the samples to score."""

from __future__ import annotations

import re
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
    return match_ids(
        predictions.source,
        predictions.sample_token,
        expected_tokens,
        what="samples",
        allow_partial=allow_partial,
    )


def match_ids(
    source: Path, found: Sequence[str], expected: Sequence[str], *, what: str, allow_partial: bool
) -> TokenMatch:
    """What `check_tokens` does, for predictions of anything that has an id.

    Args:
        source: the file of the predictions, for messages.
        found: distinct ids that are predicted.
        expected: M distinct ids to score.
        what: has these ids, such as "samples".
        allow_partial: whether missing and unknown ids are returned instead of raised.

    Raises:
        PredictionError: as `check_tokens`.
    """
    row_of = {token: row for row, token in enumerate(found)}
    row = np.array([row_of.get(token, -1) for token in expected], np.int64)
    missing = tuple(token for token in expected if token not in row_of)
    known = set(expected)
    unknown = tuple(token for token in found if token not in known)
    if len(missing) == len(row) or ((missing or unknown) and not allow_partial):
        lines = [f"missing: {t}" for t in missing] + [f"not expected: {t}" for t in unknown]
        raise PredictionError(
            f"{source}: {len(missing)} of {len(row)} {what} have no prediction, and "
            f"{len(unknown)} of {len(found)} predictions are of other {what}. "
            f"Predict all {what} of the split, and no others, or allow a partial evaluation:",
            first_lines(lines),
        )
    return TokenMatch(row, missing, unknown)


def reservations(metadata: Mapping[str, str]) -> str:
    """What keeps predictions from being compared with others, as the end of a signature.

    Args:
        metadata: what the writer of the predictions kept beside them.

    >>> reservations({"tokens": "annotations|privileged", "decoding": "greedy|constrained:yes"})
    '|constrained:yes|tokens:privileged'
    >>> reservations({"command": "turn right", "decoding": "greedy|constrained:no"})
    '|command:turn_right'
    >>> reservations({"command": "recorded"})
    ''
    """
    command = metadata.get("command", "recorded")
    parts = {
        "constrained:yes": "constrained:yes" in metadata.get("decoding", ""),
        "tokens:privileged": "privileged" in metadata.get("tokens", "").split("|"),
        "command:" + re.sub("[^a-z]+", "_", command): command != "recorded",
        "sees_the_future:yes": metadata.get("sees_the_future") == "true",
    }
    return "".join(f"|{part}" for part, holds in parts.items() if holds)


def first_lines(lines: Sequence[str]) -> list[str]:
    """The lines an error lists: the first ones, then how many more there are."""
    more = [f"… and {len(lines) - MAX_LISTED:,} more"] if len(lines) > MAX_LISTED else []
    return [*lines[:MAX_LISTED], *more]
