"""Answers of stage 2.5 joined with a build: how well a model foresees the agents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.schema import FUTURE_LENGTH
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import PredictionError
from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.forecasting import hold_last, motion_table, score_motion

_TRUTH = ("row_id", "category", "x_m", "y_m")


def evaluate_motion(
    build: Build, split: str, answers: Path, *, codec: str = "text", allow_partial: bool = False
) -> dict[str, Any]:
    """minADE, minFDE and miss rate at 1, 2 and 3 s, of all agents and by category.

    An answer that stops early holds its last position; one that does not parse stands still, and
    `parsed` counts it.

    Args:
        build: an open build with the table `forecasting`.
        split: what was predicted.
        answers: a file that `odvla-bench predict --stage 2.5` wrote; of several answers to a row
            the best counts.
        codec: how waypoints are written.
        allow_partial: score the rows that have answers.

    Returns:
        `motion`, see `motion_table`; `parsed`, answers by parse status; `rows` scored and
        `missing`.

    Raises:
        PredictionError: not a file of answers, or rows without an answer.
    """
    said = _answers(answers)
    truth = build.table("forecasting", split, _TRUTH)
    rows: list[str] = truth["row_id"].to_pylist()
    kept = [i for i, row in enumerate(rows) if row in said]
    missing = len(rows) - len(kept)
    if not kept or (missing and not allow_partial):
        raise PredictionError(
            f"{answers}: {missing} of {len(rows)} rows of split {split!r} have no answer. Predict "
            "the whole split, or allow a partial evaluation."
        )
    truth = truth.take(kept)
    texts = [said[rows[i]] for i in kept]
    most = max(map(len, texts))
    filled = [t + t[-1:] * (most - len(t)) for t in texts]
    decoded = get_codec(codec, variable_length=True).decode_batch([x for t in filled for x in t])
    pred = hold_last(decoded.xy_m).reshape(len(kept), most, FUTURE_LENGTH, 2)
    real, valid = _futures(truth)
    table = motion_table(score_motion(pred, real, valid), truth["category"].to_pylist())
    status, count = np.unique(decoded.status, return_counts=True)
    return {
        "motion": table,
        "parsed": dict(zip(status.tolist(), count.tolist(), strict=True)),
        "rows": len(kept),
        "missing": missing,
    }


def _answers(path: Path) -> dict[str, list[str]]:
    """Row id → its answers."""
    try:
        table = pq.read_table(path, columns=["row_id", "text"])
    except (OSError, pa.ArrowException) as error:
        raise PredictionError(f"{path}: not a file of answers ({error}).") from error
    said: dict[str, list[str]] = {}
    for row, text in zip(table["row_id"].to_pylist(), table["text"].to_pylist(), strict=True):
        said.setdefault(row, []).append(text)
    return said


def _futures(rows: pa.Table) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.bool_]]]:
    """(N, 6, 2) recorded futures, which may end early, and (N, 6) validity."""
    columns: Sequence[list[list[float]]] = [rows[c].to_pylist() for c in ("x_m", "y_m")]
    real = np.zeros((rows.num_rows, FUTURE_LENGTH, 2))
    valid = np.zeros((rows.num_rows, FUTURE_LENGTH), bool)
    for i, (x, y) in enumerate(zip(*columns, strict=True)):
        real[i, : len(x), 0], real[i, : len(y), 1], valid[i, : len(x)] = x, y, True
    return real, valid
