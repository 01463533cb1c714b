"""Plans joined with a build and scored under any number of protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError, PredictionError
from odvla_bench.evaluate.truth import PlanningTruth, read_truth
from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.planning import score_planning
from odvla_bench.metrics.protocols import PROTOCOLS, PlanningProtocol, get_protocol
from odvla_bench.metrics.scores import PlanningScores
from odvla_bench.metrics.signature import with_build
from odvla_bench.predictions import PlanningPredictions, check_tokens
from odvla_bench.predictions.table import reservations

FAILED_PARSE = "stationary"
"""How a text that does not parse is scored: as a plan that stands still. It is never dropped."""


@dataclass(frozen=True, eq=False)
class PlanningEvaluation:
    """A prediction set scored on a split."""

    build: Build
    split: str
    predictions: PlanningPredictions
    truth: PlanningTruth
    """The N keyframes scored, in the build's order."""
    xy_m: FloatArray
    """(N, 6, 2) the plans, LIDAR frame at t0; zeros where the parse failed."""
    parse_status: npt.NDArray[np.str_]
    """(N,)"""
    missing: tuple[str, ...]
    """Tokens of the split without a prediction."""
    unknown: tuple[str, ...]
    """Predicted tokens that are not of the split."""
    scores: dict[str, PlanningScores]
    """By protocol."""

    @property
    def comparable(self) -> bool:
        """Whether exactly the split's keyframes were predicted."""
        return not self.missing and not self.unknown

    @property
    def parse_counts(self) -> dict[str, int]:
        """How many plans came from coordinates, and how texts parsed."""
        return dict(sorted(Counter(self.parse_status.tolist()).items()))


def evaluate_planning(
    build: Build,
    predictions: PlanningPredictions,
    *,
    protocols: Sequence[str] = tuple(PROTOCOLS),
    split: str | None = None,
    allow_partial: bool = False,
) -> PlanningEvaluation:
    """Score predictions on the split of a build that they are for.

    Args:
        build: where the recorded drives and boxes are.
        predictions: one plan a keyframe.
        protocols: names of presets.
        split: the split; by default the one whose keyframes are predicted.
        allow_partial: score what is there although keyframes are missing or unknown; the result
            is then marked as not comparable.

    Raises:
        PredictionError: keyframes are missing or unknown, each listed by its token.
        InputError: predictions of no split, or of several.
        UnknownNameError: no such protocol or split.
    """
    chosen = [get_protocol(name) for name in protocols]
    split = split or _split_of(build, predictions)
    truth = read_truth(build, split)
    match = check_tokens(predictions, truth.sample_token, allow_partial=allow_partial)
    found = np.flatnonzero(match.row >= 0)
    truth, rows = truth.take(found), match.row[found]
    status = predictions.parse_status[rows]
    xy = np.where((status == "failed")[:, None, None], 0.0, predictions.xy_m[rows])
    scores = {p.name: _score(build, truth, xy, p, predictions, match.missing) for p in chosen}
    return PlanningEvaluation(
        build, split, predictions, truth, xy, status, match.missing, match.unknown, scores
    )


def _score(
    build: Build,
    truth: PlanningTruth,
    xy_m: FloatArray,
    protocol: PlanningProtocol,
    predictions: PlanningPredictions,
    missing: Sequence[str],
) -> PlanningScores:
    scores = score_planning(
        xy_m,
        truth.recorded_m(protocol.ground_truth),
        truth.n_valid,
        protocol=protocol,
        boxes=truth.boxes if truth.agents.num_rows else None,
        scene=truth.scene,
        n_past=truth.n_past,
        ground_truth=protocol.ground_truth,
    )
    read = f"|parser:{predictions.parser}|failed_parse:{FAILED_PARSE}"
    read += reservations(predictions.metadata)
    partial = f"|partial:{len(missing)}_missing" if missing else ""
    return replace(
        scores, signature=with_build(scores.signature, build.fingerprint) + read + partial
    )


def _split_of(build: Build, predictions: PlanningPredictions) -> str:
    """The one split that holds predicted keyframes."""
    wanted = set(predictions.sample_token)
    hits = {
        split: len(wanted.intersection(_tokens(build, split))) for split in build.splits("planning")
    }
    found = [split for split, count in hits.items() if count]
    if len(found) == 1:
        return found[0]
    counts = ", ".join(f"{count} of {split}" for split, count in hits.items())
    if not found:
        some = ", ".join(predictions.sample_token[:3])
        raise PredictionError(
            f"{predictions.source}: none of its sample tokens ({some}, …) is in {build.path} "
            f"(keyframes found: {counts or 'no split'}). Were they predicted on another build?"
        )
    raise InputError(
        f"{predictions.source}: predicts keyframes of several splits ({counts}). "
        "Name the one to score with --split, and allow a partial evaluation."
    )


def _tokens(build: Build, split: str) -> list[str]:
    tokens: list[str] = build.table("planning", split, ("sample_token",))[
        "sample_token"
    ].to_pylist()
    return tokens
