"""Answers of a model to a build's instructions, and records to score them against, by id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.errors import InputError, PredictionError
from odvla_bench.predictions.rows import Problems, footer_metadata

MAX_LINE_BYTES = 1 << 22
"""Longest line of a JSON Lines file that is read."""
MAX_SHOWN = 5

_IDS = ("row_id", "id", "sample_token")
_TEXTS = ("text", "prediction", "answer")

Record = dict[str, Any]


def read_records(path: Path) -> dict[str, Record]:
    """The records of a JSON Lines or Parquet file by their `row_id`, `id` or `sample_token`.

    Of several answers a row (field `sample`) the first is kept.

    Raises:
        InputError: the file cannot be read, or a record has no id, or one that occurs twice.
    """
    records: dict[str, Record] = {}
    for where, record in iter_records(path):
        key = _id(record)
        if isinstance(record, dict) and record.get("sample", 0) != 0:
            continue
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise InputError(f"{path}, {where}: not an object with an `id` or `row_id`.")
        if str(key) in records:
            raise InputError(f"{path}, {where}: id {key!r} occurs twice; keep one.")
        records[str(key)] = record
    if not records:
        raise InputError(f"{path} holds no record.")
    return records


def iter_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of every record of a JSON Lines or Parquet file, as it stands there.

    Raises:
        InputError: the file cannot be read.
    """
    return _parquet(path) if path.suffix == ".parquet" else _json_lines(path)


def read_metadata(path: Path) -> Mapping[str, str]:
    """What `odvla-bench predict` kept beside the answers of a Parquet file; else nothing.

    Raises:
        PredictionError: a footer of another format version.
    """
    if path.suffix != ".parquet":
        return {}
    problems = Problems(path)
    found = footer_metadata(pq.read_schema(path), problems)
    problems.raise_any()
    return found


def match_answers(
    path: Path, found: Mapping[str, Record], expected: Iterator[str] | list[str]
) -> list[str | None]:
    """The answer to each expected id; None where it is absent, null, or not said to be ok.

    Raises:
        PredictionError: answers to ids that are not expected, or one that is not a text.
    """
    expected = list(expected)
    known = set(expected)
    if unknown := [key for key in found if key not in known]:
        raise PredictionError(
            f"{path}: {len(unknown)} predictions have an id that no reference has, "
            f"for example {unknown[:MAX_SHOWN]}. Score the split they were made for."
        )
    return [_answer(path, key, found.get(key, {})) for key in expected]


def _answer(path: Path, key: str, record: Mapping[str, Any]) -> str | None:
    if record.get("status", "ok") != "ok":
        return None
    text = next((record[name] for name in _TEXTS if name in record), None)
    if text is not None and not isinstance(text, str):
        raise PredictionError(f"{path}: the prediction of id {key!r} is not a string or null.")
    return text


def _id(record: Any) -> Any:
    if not isinstance(record, dict):
        return None
    return next((record[name] for name in _IDS if name in record), None)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of each line that is not empty."""
    number = 0
    try:
        with path.open("rb") as f:
            for number, line in enumerate(iter(lambda: f.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes.")
                if line.strip():
                    yield f"line {number}", json.loads(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: not JSON ({error}).") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a whole Parquet file ({error}).") from error
    for number, record in enumerate(table.to_pylist(), 1):
        yield f"row {number}", record
