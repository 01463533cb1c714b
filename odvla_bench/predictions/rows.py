"""Prediction files as rows: each accepted form brought to one, its contents not yet checked."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odvla_bench.datasets.safe_pickle import load_plain_pickle
from odvla_bench.errors import InputError, PredictionError
from odvla_bench.predictions.table import N_STEPS, first_lines

MAX_BYTES = 1 << 28
"""Largest file read; a Parquet file's contents may take four times that."""
MAX_ROWS = 200_000

METADATA_KEY = b"odvla_bench.predictions"
FORMAT_VERSION = 1

_TOKEN_KEYS = ("sample_token", "id", "qa_id")
_TEXT_KEYS = ("text", "answer")
_COLUMNS = ("sample_token", "text", "x_m", "y_m")


class Row(NamedTuple):
    """One prediction as the file has it: a text, or coordinates by axis, or by step."""

    where: str
    token: Any
    text: Any = None
    x_m: Any = None
    y_m: Any = None
    pairs: Any = None


class Problems:
    """The defects of one file."""

    def __init__(self, path: Path) -> None:
        """Start without any."""
        self._path = path
        self._lines: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, what: str, *, where: str = "", token: Any = None) -> None:
        """Note a defect of a row, or of the whole file where none is named."""
        place = f", {where}" if where else ""
        sample = (
            "" if token is None else f", token {token if isinstance(token, str) else short(token)}"
        )
        self._lines.append(f"{self._path.name}{place}{sample}: {what}")

    def raise_any(self) -> None:
        """Raise the error that lists the defects, if there are any."""
        if self._lines:
            raise PredictionError(
                f"{self._path}: {len(self._lines):,} defects, so nothing was read. Mend the file:",
                first_lines(self._lines),
            )


class Contents(NamedTuple):
    """The rows of a file, and what `write_predictions` put beside them."""

    rows: list[Row]
    metadata: Mapping[str, str] = {}


def read_rows(path: Path, problems: Problems) -> Contents:
    """The rows of a file of any accepted form; defects go to `problems`.

    Raises:
        InputError: no such file, too large, of unknown form, or a pickle that is refused.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: predictions are files that end in {', '.join(_READERS)}.")
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES:,} bytes, which predictions never are.")
    contents = reader(path, problems)
    if len(contents.rows) > MAX_ROWS:
        raise InputError(f"{path}: {len(contents.rows):,} rows; at most {MAX_ROWS:,} are read.")
    if not contents.rows and not problems:
        problems.add("no predictions in it")
    return contents


def short(value: Any) -> str:
    """A value for a message, cut to a sensible length."""
    return reprlib.repr(value)


def _read_lines(path: Path, problems: Problems) -> Contents:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"line {number}"
        if line.strip():
            record = _json(line, where, problems)
            rows += [_record(record, where, problems)] if record is not None else []
    return Contents([row for row in rows if row is not None])


def _read_json(path: Path, problems: Problems) -> Contents:
    data = path.read_bytes()
    if _is_lines(data):
        return _read_lines(path, problems)
    document = _json(data, "", problems)
    if isinstance(document, list):
        rows = [_record(item, f"row {i}", problems) for i, item in enumerate(document, 1)]
        return Contents([row for row in rows if row is not None])
    if isinstance(document, dict):
        return _by_token(document, problems)
    if document is not None:
        problems.add(f"a list or an object expected, not {short(document)}")
    return Contents([])


def _is_lines(data: bytes) -> bool:
    """Whether the first line is a JSON document of its own, and others follow."""
    first, _, rest = data.strip().partition(b"\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return bool(rest)


def _json(data: bytes, where: str, problems: Problems) -> Any:
    """A JSON document; None where it is not one."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            repeated.extend(key for key, _ in pairs if key in seen or seen.add(key))
        return found

    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        problems.add(f"not UTF-8 text, from byte {error.start} on; save it as UTF-8", where=where)
        return None
    except (ValueError, RecursionError) as error:
        problems.add(f"not complete JSON ({error})", where=where)
        return None
    for key in repeated:
        problems.add(f"{short(key)} stands twice in one object", where=where)
    return document


def _record(record: Any, where: str, problems: Problems) -> Row | None:
    """The row of an object with a token and a plan; None where it is not one."""
    if not isinstance(record, dict):
        problems.add(f"an object expected, not {short(record)}", where=where)
        return None
    token = next((record[key] for key in _TOKEN_KEYS if key in record), None)
    if token is None:
        problems.add(f"no sample_token, id or qa_id among {short(list(record))}", where=where)
        return None
    text = next((record[key] for key in _TEXT_KEYS if record.get(key) is not None), None)
    if isinstance(text, list) and text:
        text = text[0]
    return Row(where, token, text, record.get("x_m"), record.get("y_m"))


def _by_token(document: Mapping[Any, Any], problems: Problems) -> Contents:
    """The rows of one object or dict of token → plan."""
    if any(key in document for key in _TOKEN_KEYS):
        row = _record(document, "row 1", problems)
        return Contents([row] if row else [])
    return Contents(
        [
            Row(f"entry {i}", token, text=plan)
            if isinstance(plan, str)
            else Row(f"entry {i}", token, pairs=plan)
            for i, (token, plan) in enumerate(document.items(), 1)
        ]
    )


def _read_pickle(path: Path, problems: Problems) -> Contents:
    document = load_plain_pickle(path, max_bytes=MAX_BYTES)
    if isinstance(document, dict):
        return _by_token(document, problems)
    problems.add(f"a dict of token → array expected, not {short(document)}")
    return Contents([])


def _read_parquet(path: Path, problems: Problems) -> Contents:
    try:
        # Dictionary-encoded, a text that a hostile file repeats is in memory once.
        file = pq.ParquetFile(path, read_dictionary=["sample_token", "text"])
        names = _parquet_columns(file, problems)
        if problems:
            return Contents([])
        table = file.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        problems.add(f"not a whole Parquet file ({error})")
        return Contents([])
    if sum(map(_decoded_bytes, table.columns)) > 4 * MAX_BYTES:
        problems.add(f"its contents take more than {4 * MAX_BYTES:,} bytes")
        return Contents([])
    columns = {name: table.column(name).to_pylist() for name in names}
    rows = [
        Row(f"row {i + 1}", **{_FIELDS[name]: column[i] for name, column in columns.items()})
        for i in range(table.num_rows)
    ]
    return Contents(rows, _parquet_metadata(file, problems))


_FIELDS = {"sample_token": "token", "text": "text", "x_m": "x_m", "y_m": "y_m"}


def _parquet_columns(file: Any, problems: Problems) -> list[str]:
    """The columns to read, where the file has what it needs and its footer is of sane size."""
    names = file.schema_arrow.names
    present = [name for name in _COLUMNS if name in names]
    if "sample_token" not in present:
        problems.add(f"no column sample_token; it has {short(names)}")
    if "text" not in present and not {"x_m", "y_m"} <= set(present):
        problems.add(f"no columns x_m and y_m, and no column text; it has {short(names)}")
    for name in present:
        if names.count(name) > 1:
            problems.add(f"column {name} stands {names.count(name)} times")
    footer = file.metadata
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    values = max((g.column(i).num_values for g in groups for i in range(g.num_columns)), default=0)
    size = sum(g.total_byte_size for g in groups)
    if footer.num_rows > MAX_ROWS or values > MAX_ROWS * N_STEPS or size > 4 * MAX_BYTES:
        problems.add(
            f"{footer.num_rows:,} rows and {size:,} bytes of contents; at most {MAX_ROWS:,} rows "
            f"and {4 * MAX_BYTES:,} bytes are read"
        )
    return present


def _decoded_bytes(column: Any) -> int:
    """The size of a column once its dictionary is undone."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return sum(
        pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
        for chunk in column.chunks
    )


def _parquet_metadata(file: Any, problems: Problems) -> Mapping[str, str]:
    """What `write_predictions` kept in the footer; empty in files of other writers."""
    raw = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    if raw is None:
        return {}
    kept = _json(raw, "footer", problems)
    if not isinstance(kept, dict) or kept.get("format_version") != FORMAT_VERSION:
        problems.add(
            f"format version {FORMAT_VERSION} expected in its footer, not {short(kept)}; "
            "write it with this version of odvla-bench"
        )
        return {}
    return dict(kept.get("metadata", {}))


_READERS: dict[str, Callable[[Path, Problems], Contents]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
}
