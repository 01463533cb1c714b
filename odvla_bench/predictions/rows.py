"""Prediction files as rows: each accepted form brought to one, its contents not yet checked."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odvla_bench.datasets.safe_pickle import load_plain_pickle
from odvla_bench.errors import InputError, PredictionError
from odvla_bench.predictions.table import first_lines

MAX_BYTES = 1 << 28
"""Largest file read; a Parquet file's contents may take four times that."""
MAX_ROWS = 200_000

METADATA_KEY = b"odvla_bench.predictions"
FORMAT_VERSION = 1

_TOKEN_KEYS = ("sample_token", "id", "qa_id")
_TEXT_KEYS = ("text", "answer")
_FIELDS = {"sample_token": "token", "text": "text", "x_m": "x_m", "y_m": "y_m"}
"""Parquet columns read, and their places in a row."""

_REPR = reprlib.Repr()
_REPR.maxstring = 80
_QUOTES = "'\""


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
        sample = "" if token is None else f", token {short(token).strip(_QUOTES)}"
        self._lines.append(f"{self._path.name}{place}{sample}: {what}")

    def raise_any(self) -> None:
        """Raise the error that lists the defects, if there are any."""
        if self._lines:
            raise PredictionError(
                f"{self._path}: nothing was read. Defects to mend: {len(self._lines):,}",
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
    return _REPR.repr(value)


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
    if not rest:
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _json(data: bytes, where: str, problems: Problems) -> Any:
    """A JSON document; None, and reported, where there is none."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.extend(key for key, count in counts.items() if count > 1)
        return found

    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        problems.add(f"not UTF-8 text, from byte {error.start} on; save it as UTF-8", where=where)
        return None
    except (ValueError, RecursionError) as error:
        problems.add(f"not complete JSON ({error})", where=where)
        return None
    if document is None:
        problems.add("null where an object is expected", where=where)
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
            else Row(f"entry {i}", token, pairs=[] if plan is None else plan)
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
        table = _parquet_table(path, problems)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problems.add(f"not a whole Parquet file ({error})")
        return Contents([])
    if problems:
        return Contents([])
    columns = {_FIELDS[name]: _values(table, name, problems) for name in table.column_names}
    rows = [
        Row(f"row {i}", **dict(zip(columns, values, strict=True)))
        for i, values in enumerate(zip(*columns.values(), strict=True), 1)
    ]
    return Contents(rows, footer_metadata(table.schema, problems))


def _parquet_table(path: Path, problems: Problems) -> pa.Table:
    """The columns to read; without any where a defect is found before."""
    names = _parquet_columns(pq.read_metadata(path), problems)
    if problems:
        return pa.table({})
    # Dictionary-encoded, a text that a hostile file repeats is in memory once.
    texts = [name for name in names if name in ("sample_token", "text")]
    table = pq.ParquetFile(path, read_dictionary=texts).read(columns=names)
    if sum(map(_decoded_bytes, table.columns)) > 4 * MAX_BYTES:
        problems.add(f"its contents take more than {4 * MAX_BYTES:,} bytes")
    return table


def _parquet_columns(footer: pq.FileMetaData, problems: Problems) -> list[str]:
    """The columns to read, where the file has what it needs and its footer is of sane size."""
    names = footer.schema.to_arrow_schema().names
    present = [name for name in _FIELDS if name in names]
    if "sample_token" not in present:
        problems.add(f"no column sample_token; it has {short(names)}")
    if "text" not in present and not {"x_m", "y_m"} <= set(present):
        problems.add(f"no columns x_m and y_m, and no column text; it has {short(names)}")
    for name in present:
        if names.count(name) > 1:
            problems.add(f"column {name} stands {names.count(name)} times")
    # Not from the columns' metadata: pyarrow ends the process where that is damaged.
    size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    if footer.num_rows > MAX_ROWS or size > 4 * MAX_BYTES:
        problems.add(
            f"{footer.num_rows:,} rows and {size:,} bytes of contents; at most {MAX_ROWS:,} rows "
            f"and {4 * MAX_BYTES:,} bytes are read"
        )
    return present


def _values(table: pa.Table, name: str, problems: Problems) -> list[Any]:
    """A column as Python values; what is no text where it should be is empty."""
    column = table.column(name)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        values = []
        for i, scalar in enumerate(column, 1):
            try:
                values.append(scalar.as_py())
            except UnicodeDecodeError:  # noqa: PERF203
                problems.add(f"{name} is not UTF-8 text", where=f"row {i}")
                values.append("")
        return values


def _decoded_bytes(column: Any) -> int:
    """The size of a column once its dictionary is undone."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return sum(
        pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
        for chunk in column.chunks
    )


def footer_metadata(schema: pa.Schema, problems: Problems) -> Mapping[str, str]:
    """What `write_predictions` kept in the footer; empty in files of other writers."""
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        return {}
    footer = _json(raw, "footer", problems)
    kept = footer.get("metadata") if isinstance(footer, dict) else None
    if not isinstance(kept, dict) or footer.get("format_version") != FORMAT_VERSION:
        problems.add(
            f"format version {FORMAT_VERSION} expected in its footer, not {short(footer)}; "
            "write it with this version of odvla-bench"
        )
        return {}
    return {key: str(value) for key, value in kept.items()}


_READERS: dict[str, Callable[[Path, Problems], Contents]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
}
