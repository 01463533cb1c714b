"""From the rows of a file to checked plans."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.fingerprint import digest_table
from odvla_bench.datasets.schema import FUTURE_LENGTH
from odvla_bench.datasets.waypoints import WaypointCodec, get_codec
from odvla_bench.errors import OdvlaError
from odvla_bench.predictions.rows import Problems, Row, read_rows, short
from odvla_bench.predictions.table import PlanningPredictions

_Report = Callable[[str], None]
_NO_PLAN = [[math.nan, math.nan]] * FUTURE_LENGTH


def read_predictions(
    path: str | Path, *, codec: WaypointCodec | None = None
) -> PlanningPredictions:
    """The predictions of a file of any accepted form.

    Args:
        path: a Parquet, JSON, JSON-lines or pickle file, of up to 256 MiB and 200,000 rows.
        codec: how texts are parsed, repair policy included; by default the strict `text` codec.

    Raises:
        OdvlaError: the codec is for another number of steps.
        InputError: no such file, too large, of unknown form, or a pickle that is refused.
        PredictionError: defects of the contents; all of them, each with its row and token.
    """
    path = Path(path)
    codec = codec or get_codec("text")
    if codec.n_steps != FUTURE_LENGTH or codec.variable_length:
        raise OdvlaError(
            f"Plans have {FUTURE_LENGTH} steps, no fewer and no more; make the codec with "
            f"n_steps={FUTURE_LENGTH} and without variable_length."
        )
    problems = Problems(path)
    rows, metadata = read_rows(path, problems)
    tokens = _tokens(rows, problems)
    plans = _plans(rows, codec, problems)
    problems.raise_any()
    return PlanningPredictions(
        tuple(tokens),
        *plans,
        source=path,
        parser=f"{codec.name}/{codec.repair}",
        fingerprint=_fingerprint(tokens, plans),
        metadata=metadata,
    )


class _Plans(NamedTuple):
    """Coordinates and parse outcome of each row."""

    xy_m: npt.NDArray[np.float64]
    status: npt.NDArray[np.str_]
    reason: tuple[str, ...]


def _tokens(rows: list[Row], problems: Problems) -> list[str]:
    """The rows' sample tokens, each checked to stand once."""
    first_at: dict[str, str] = {}
    tokens = []
    for row in rows:
        if not isinstance(row.token, str) or not row.token or not row.token.isprintable():
            problems.add(f"the token is {short(row.token)}, not a printable text", where=row.where)
            continue
        token = row.token.removesuffix("_trajectory")
        if token in first_at:
            problems.add(
                f"this sample stands in {first_at[token]} too", where=row.where, token=token
            )
        first_at.setdefault(token, row.where)
        tokens.append(token)
    return tokens


def _plans(rows: list[Row], codec: WaypointCodec, problems: Problems) -> _Plans:
    """The rows' coordinates, given or parsed."""
    given: dict[int, list[list[float]]] = {}
    texts: dict[int, str] = {}
    for i, row in enumerate(rows):

        def report(what: str, row: Row = row) -> None:
            problems.add(what, where=row.where, token=row.token)

        if isinstance(row.text, str):
            texts[i] = row.text
        elif row.text is not None:
            report(f"the text is {short(row.text)}, not a text")
        else:
            given[i] = _by_step(row, report) if row.pairs is not None else _by_axis(row, report)
    decoded = codec.decode_batch(list(texts.values()))
    xy = np.full((len(rows), FUTURE_LENGTH, 2), np.nan)
    status = np.full(len(rows), "given", "<U8")
    reason = [""] * len(rows)
    for i, plan in given.items():
        xy[i] = plan
    for i, plan, outcome, why in zip(
        texts, decoded.xy_m, decoded.status, decoded.reason, strict=True
    ):
        xy[i], status[i], reason[i] = plan, outcome, why
    return _Plans(xy, status, tuple(reason))


def _by_axis(row: Row, report: _Report) -> list[list[float]]:
    """The plan of a row with one list an axis."""
    x = finite_numbers("x_m", row.x_m, FUTURE_LENGTH, report)
    y = finite_numbers("y_m", row.y_m, FUTURE_LENGTH, report)
    return [list(point) for point in zip(x, y, strict=True)] if x and y else _NO_PLAN


def _by_step(row: Row, report: _Report) -> list[list[float]]:
    """The plan of a row with one pair a step, (6, 2) or (1, 6, 2)."""
    steps = as_list(row.pairs)
    if isinstance(steps, list) and len(steps) == 1:
        steps = as_list(steps[0])
    if not isinstance(steps, list) or len(steps) != FUTURE_LENGTH:
        report(f"the plan is {short(steps)}; a text or {FUTURE_LENGTH} pairs [x, y] expected")
        return _NO_PLAN
    points = [finite_numbers(f"step {i}", step, 2, report) for i, step in enumerate(steps, 1)]
    return points if all(points) else _NO_PLAN


def finite_numbers(name: str, values: Any, count: int, report: _Report) -> list[float]:
    """`count` finite numbers; empty, and reported, where `values` is something else."""
    values = as_list(values)
    if not isinstance(values, list) or len(values) != count:
        size = f" has {len(values)} values" if isinstance(values, list) else f" is {short(values)}"
        report(f"{name}{size}; {count} numbers expected")
        return []
    bad = [value for value in values if not _is_finite(value)]
    for value in bad:
        report(f"{name} has {short(value)}, which is no finite number")
    return [] if bad else [float(value) for value in values]


def as_list(values: Any) -> Any:
    """An array or a tuple as a list; anything else as it is."""
    if isinstance(values, np.ndarray):
        return values.tolist()
    return list(values) if isinstance(values, tuple) else values


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _fingerprint(tokens: list[str], plans: _Plans) -> str:
    table = pa.table(
        {
            "sample_token": tokens,
            "parse_status": plans.status,
            "xy_m": list(plans.xy_m.reshape(len(tokens), -1)),
        }
    )
    return digest_table(table.sort_by("sample_token"))
