"""Answers of stage 2.5 joined with a build: how well a model foresees the agents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.schema import FORECASTING, FUTURE_LENGTH
from odvla_bench.errors import InputError
from odvla_bench.evaluate.results import heading_of, list_column, write_folder
from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.forecasting import (
    HORIZONS_S,
    MISS_THRESHOLD_M,
    MOTION_METRICS,
    MotionScores,
    hold_last,
    motion_intervals,
    motion_table,
    score_motion,
)
from odvla_bench.metrics.signature import format_signature, with_build
from odvla_bench.predictions.motion import MotionPredictions
from odvla_bench.predictions.table import match_ids, reservations

TASK = FORECASTING.name
_TRUTH = ("row_id", "sample_token", "scene_name", "category", "x_m", "y_m")


@dataclass(frozen=True, eq=False)
class MotionEvaluation:
    """Predicted motion scored on a split."""

    build: Build
    split: str
    predictions: MotionPredictions
    rows: pa.Table
    """The N rows scored, in the build's order: id, keyframe, scene, category."""
    answers: npt.NDArray[np.int64]
    """(N,) how many answers each row has."""
    parse_status: npt.NDArray[np.str_]
    """(N, K)"""
    scores: MotionScores
    missing: tuple[str, ...]
    """Ids of rows of the split without an answer."""
    unknown: tuple[str, ...]
    """Ids of answers that are not of the split."""

    @property
    def signature(self) -> str:
        """Every choice that can move a number."""
        fewest, most = int(self.answers.min()), int(self.answers.max())
        choices = {
            "task": TASK,
            "metrics": "minADE,minFDE,miss",
            "n": self.rows.num_rows,
            "k": most if fewest == most else f"{fewest}-{most}",
            "miss_m": MISS_THRESHOLD_M,
            "frame": "agent",
            "counted": "future_reaches_horizon",
            "short": "hold_last",
            "parser": self.predictions.parser,
            "failed_parse": "stationary",
        }
        partial = f"|partial:{len(self.missing)}_missing" if self.missing else ""
        whole = with_build(format_signature(choices.items()), self.build.fingerprint)
        return whole + reservations(self.predictions.metadata) + partial

    @property
    def parse_counts(self) -> dict[str, int]:
        """How many answers came from coordinates, and how texts parsed."""
        there = np.arange(self.parse_status.shape[1]) < self.answers[:, None]
        return dict(sorted(Counter(self.parse_status[there].tolist()).items()))


def evaluate_motion(
    build: Build, predictions: MotionPredictions, *, split: str, allow_partial: bool = False
) -> MotionEvaluation:
    """minADE, minFDE and miss rate at 1, 2 and 3 s of the agents of a split.

    Of several answers to a row the best counts. An answer that stops early holds its last
    position; one that does not parse stands still, and is counted.

    Args:
        build: an open build with the table `forecasting`.
        predictions: one answer or more for each row of the split.
        split: such as "val".
        allow_partial: score the rows that have answers; the result is then marked as not
            comparable.

    Raises:
        InputError: the build has no such rows.
        PredictionError: rows are missing or unknown, and listed.
    """
    truth = build.table(TASK, split, _TRUTH)
    if not truth.num_rows:
        raise InputError(
            f"{build.path}: no rows of {TASK!r} in split {split!r}. Build with the source {TASK} "
            f"(`odvla-bench build-data --sources planning,{TASK}`), or name another --split."
        )
    match = match_ids(
        predictions.source,
        predictions.row_id,
        truth["row_id"].to_pylist(),
        what=f"rows of {TASK}",
        allow_partial=allow_partial,
    )
    found = np.flatnonzero(match.row >= 0)
    at, truth = match.row[found], truth.take(found)
    real, valid = _futures(truth)
    held = hold_last(predictions.xy_m[at].reshape(-1, FUTURE_LENGTH, 2))
    scores = score_motion(held.reshape(len(at), -1, FUTURE_LENGTH, 2), real, valid)
    return MotionEvaluation(
        build,
        split,
        predictions,
        truth.select(_TRUTH[:4]),
        predictions.answers[at],
        predictions.parse_status[at],
        scores,
        match.missing,
        match.unknown,
    )


def motion_results(evaluation: MotionEvaluation, *, seed: int = 0) -> dict[str, Any]:
    """Everything that `results.json` says of predicted motion.

    Args:
        evaluation: the scores.
        seed: of the scene-clustered bootstrap behind the 95 % intervals.
    """
    e = evaluation
    category, scene = (e.rows[c].to_pylist() for c in ("category", "scene_name"))
    several = len(set(scene)) > 1
    return {
        **heading_of(e, TASK),
        "signature": e.signature,
        "horizons_s": list(HORIZONS_S),
        "rows": e.rows.num_rows,
        "table": motion_table(e.scores, category),
        "interval_95": motion_intervals(e.scores, category, scene, seed=seed) if several else None,
    }


def write_motion(evaluation: MotionEvaluation, results: dict[str, Any], out: Path) -> None:
    """Write `results.json`, and `samples.parquet` with one row an agent."""
    write_folder(motion_samples(evaluation), results, out)


def motion_samples(evaluation: MotionEvaluation) -> pa.Table:
    """One row an agent: id, keyframe, scene, category, answers, and each metric's three values."""
    e = evaluation
    columns = {name: e.rows[name] for name in e.rows.column_names}
    columns["answers"] = pa.array(e.answers, pa.int32())
    columns["parse_status"] = pa.array(e.parse_status.tolist(), pa.list_(pa.string()))
    for metric in (*MOTION_METRICS, "counted"):
        values = getattr(e.scores, metric)
        kind = pa.bool_() if values.dtype == bool else pa.float64()
        columns[metric] = list_column(values, kind)
    return pa.table(columns)


def _futures(rows: pa.Table) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """(N, 6, 2) recorded futures, which may end early, and (N, 6) validity."""
    x, y = (rows[name].combine_chunks() for name in ("x_m", "y_m"))
    valid = np.arange(FUTURE_LENGTH) < x.value_lengths().to_numpy()[:, None]
    real = np.zeros((rows.num_rows, FUTURE_LENGTH, 2))
    for axis, values in enumerate((x, y)):
        real[valid, axis] = values.flatten().to_numpy()
    return real, valid
