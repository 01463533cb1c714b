"""Predicted motion of agents: one or several futures for each row of a build's `forecasting`.

Read are Parquet and JSON Lines, one record an answer: `row_id`; `text`, or `x_m` and `y_m` (lists
of one to six metres in the agent's own frame at t0, right and along its heading); and, where a row
has several answers, `sample`, a number that tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.fingerprint import digest_table
from odvla_bench.datasets.schema import FUTURE_LENGTH
from odvla_bench.datasets.waypoints import WaypointCodec, get_codec
from odvla_bench.errors import InputError, OdvlaError
from odvla_bench.predictions.reader import as_list, finite_numbers
from odvla_bench.predictions.rows import Problems, short
from odvla_bench.predictions.texts import iter_records, read_metadata

_SUFFIXES = (".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True, eq=False)
class MotionPredictions:
    """K futures for each of R rows; a row with fewer answers repeats its last one."""

    row_id: tuple[str, ...]
    """R distinct ids of rows, in the file's order."""
    xy_m: npt.NDArray[np.float64]
    """(R, K, 6, 2) metres, the agent's frame at t0; NaN from where an answer ends."""
    parse_status: npt.NDArray[np.str_]
    """(R, K) `given` where the file has coordinates; else `strict` or `failed`."""
    answers: npt.NDArray[np.int64]
    """(R,) how many answers the row has."""
    source: Path
    parser: str
    """Codec and repair policy for texts."""
    fingerprint: str
    """Digest of ids, coordinates and statuses, whatever the file's format and order."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the writer of a Parquet file kept beside the answers."""

    def __len__(self) -> int:
        return len(self.row_id)


class _Answer(NamedTuple):
    """One record: a text, or coordinates."""

    row_id: str
    sample: int
    text: str | None
    xy_m: list[list[float]]


def read_motion(path: Path | str, *, codec: WaypointCodec | None = None) -> MotionPredictions:
    """The answers of a file.

    Args:
        path: a Parquet or JSON Lines file.
        codec: how texts are parsed; by default the strict `text` codec of variable length.

    Raises:
        InputError: no such file, or one that cannot be read.
        PredictionError: defects of the contents; all of them, each with its place and row id.
    """
    path = Path(path)
    codec = codec or get_codec("text", variable_length=True)
    if not codec.variable_length:
        raise OdvlaError("Futures may end early; make the codec with variable_length.")
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: motion is read from files that end in {', '.join(_SUFFIXES)}.")
    problems = Problems(path)
    answers = sorted(_answers(path, problems), key=lambda a: a.sample)
    if not answers and not problems:
        problems.add("no predictions in it")
    problems.raise_any()
    xy, status = _decoded(answers, codec)
    rows, at, count = _by_row(answers)
    parser = f"{codec.name}/{codec.repair}"
    digest = _fingerprint(rows, xy[at], status[at])
    return MotionPredictions(
        rows, xy[at], status[at], count, path, parser, digest, read_metadata(path)
    )


def _answers(path: Path, problems: Problems) -> Iterator[_Answer]:
    """The records of a file that are sound; what is not goes to `problems`."""
    seen: dict[tuple[str, int], str] = {}
    for where, record in iter_records(path):
        if not isinstance(record, dict):
            problems.add(f"an object expected, not {short(record)}", where=where)
            continue
        row, sample = record.get("row_id", record.get("id")), record.get("sample", 0)
        if not isinstance(row, str) or not row or not row.isprintable():
            problems.add(f"the row_id is {short(row)}, not a printable text", where=where)
            continue

        def report(what: str, where: str = where, row: str = row) -> None:
            problems.add(what, where=f"{where}, row {row}")

        if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
            report(f"sample is {short(sample)}; a number from 0 on expected")
        elif (row, sample) in seen:
            report(
                f"sample {sample} stands in {seen[row, sample]} too; number a row's answers 0, 1, …"
            )
        else:
            seen[row, sample] = where
            yield _Answer(row, sample, *_future(record, report))


def _future(
    record: Mapping[str, Any], report: Callable[[str], None]
) -> tuple[str | None, list[list[float]]]:
    """An answer's text, or its positions."""
    text = record.get("text")
    if isinstance(text, str):
        return text, []
    if text is not None or record.get("x_m") is None:
        report(f"the text is {short(text)}, not a text, and it has no x_m and y_m")
        return None, []
    x, y = as_list(record["x_m"]), as_list(record.get("y_m"))
    steps = len(x) if isinstance(x, list) else 0
    if not 1 <= steps <= FUTURE_LENGTH:
        report(f"x_m is {short(x)}; a list of 1 to {FUTURE_LENGTH} numbers expected")
        return None, []
    axes = [finite_numbers(n, v, steps, report) for n, v in (("x_m", x), ("y_m", y))]
    return None, [list(point) for point in zip(*axes, strict=True)] if all(axes) else []


def _decoded(
    answers: list[_Answer], codec: WaypointCodec
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.str_]]:
    """(A, 6, 2) positions, NaN from where an answer ends, and (A,) statuses."""
    xy = np.full((len(answers), FUTURE_LENGTH, 2), np.nan)
    status = np.full(len(answers), "given", "<U8")
    texts = {i: a.text for i, a in enumerate(answers) if a.text is not None}
    decoded = codec.decode_batch(list(texts.values()))
    at = list(texts)
    xy[at], status[at] = decoded.xy_m, decoded.status
    for i, answer in enumerate(answers):
        if answer.text is None:
            xy[i, : len(answer.xy_m)] = answer.xy_m
    return xy, status


def _by_row(
    answers: list[_Answer],
) -> tuple[tuple[str, ...], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """R row ids, (R, K) numbers of their answers, and (R,) how many there are."""
    of: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        of.setdefault(answer.row_id, []).append(i)
    count = np.array([len(found) for found in of.values()], np.int64)
    most = int(count.max())
    filled = [found + found[-1:] * (most - len(found)) for found in of.values()]
    return tuple(of), np.array(filled, np.int64), count


def _fingerprint(
    rows: tuple[str, ...], xy_m: npt.NDArray[np.float64], status: npt.NDArray[np.str_]
) -> str:
    table = pa.table(
        {
            "row_id": rows,
            "parse_status": status.tolist(),
            "xy_m": list(xy_m.reshape(len(rows), -1)),
        }
    )
    return digest_table(table.sort_by("row_id"))
