"""Writing predictions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.datasets.schema import FUTURE_LENGTH
from odvla_bench.datasets.writer import whole_file
from odvla_bench.errors import InputError, PredictionError
from odvla_bench.predictions.rows import FORMAT_VERSION, METADATA_KEY, short
from odvla_bench.predictions.table import first_lines

_Column = list[str] | npt.NDArray[np.float64]
_METRES = pa.list_(pa.field("element", pa.float64(), nullable=False))
_TYPES = {
    "sample_token": pa.string(),
    "x_m": _METRES,
    "y_m": _METRES,
    "text": pa.string(),
    "latency_s": pa.float64(),
}


def write_predictions(
    path: str | Path,
    sample_token: Sequence[str],
    x_m: npt.ArrayLike | None = None,
    y_m: npt.ArrayLike | None = None,
    *,
    text: Sequence[str] | None = None,
    latency_s: npt.ArrayLike | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a predictions file that `read_predictions` accepts; whole or not at all.

    Args:
        path: a `.parquet` or `.jsonl` file, replaced if it exists.
        sample_token: N distinct sample tokens.
        x_m: (N, 6) metres right, LIDAR frame at t0; float64 on disk, to come back exactly.
            It may be left out, with `y_m`, where there are texts.
        y_m: (N, 6) metres forward.
        text: a model's N answers. They, and not the coordinates, are what a reader scores.
        latency_s: (N,) seconds that each prediction took.
        metadata: texts kept in the footer of a Parquet file.

    Returns:
        The path written.

    Raises:
        InputError: neither a Parquet nor a JSON-lines file, or metadata for the latter.
        PredictionError: lengths that differ, tokens that repeat, or numbers that are not finite.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".jsonl"):
        raise InputError(f"{path}: predictions are written as .parquet or .jsonl.")
    if metadata and path.suffix != ".parquet":
        raise InputError(f"{path}: JSON lines hold no metadata; write a .parquet file.")
    columns = {
        "sample_token": list(sample_token),
        "x_m": None if x_m is None else np.asarray(x_m, np.float64),
        "y_m": None if y_m is None else np.asarray(y_m, np.float64),
        "text": None if text is None else list(text),
        "latency_s": None if latency_s is None else np.asarray(latency_s, np.float64),
    }
    table = _table(path, {name: c for name, c in columns.items() if c is not None}, metadata or {})
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary, compression="zstd")
        else:
            lines = (json.dumps(r, ensure_ascii=False, allow_nan=False) for r in table.to_pylist())
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def footer_of(metadata: Mapping[str, str]) -> dict[bytes, bytes]:
    """Metadata of predictions, as a Parquet file's footer keeps it."""
    kept = json.dumps({"format_version": FORMAT_VERSION, "metadata": dict(metadata)})
    return {METADATA_KEY: kept.encode()}


def _table(
    path: Path,
    columns: Mapping[str, _Column],
    metadata: Mapping[str, str],
) -> pa.Table:
    """The checked columns under their schema."""
    if defects := list(_defects(columns)):
        raise PredictionError(
            f"{path}: not written, as these are no predictions:", first_lines(defects)
        )
    schema = pa.schema(
        [pa.field(name, _TYPES[name], nullable=False) for name in columns],
        metadata=footer_of(metadata),
    )
    return pa.table({name: list(c) for name, c in columns.items()}, schema=schema)


def _defects(columns: Mapping[str, _Column]) -> Iterator[str]:
    """What is wrong with columns to write."""
    tokens = columns["sample_token"]
    if not len(tokens):
        yield "no predictions"
        return
    if "text" not in columns and not {"x_m", "y_m"} <= set(columns):
        yield "neither x_m and y_m nor text"
    for token, count in Counter(tokens).items():
        if count > 1:
            yield f"token {token} stands {count} times"
    for name, column in columns.items():
        wanted = (len(tokens), FUTURE_LENGTH) if name in ("x_m", "y_m") else (len(tokens),)
        if np.shape(column) != wanted:
            yield f"{name} has shape {np.shape(column)}, {wanted} expected"
            continue
        kind = "a text" if isinstance(column, list) else "finite"
        for i in np.flatnonzero(_bad_rows(name, column)):
            yield f"row {i + 1}, token {short(tokens[i])}: {name} is not {kind}"


def _bad_rows(name: str, column: _Column) -> npt.NDArray[np.bool_]:
    """(N,) whether a row of a column is no text that can be stored, or no finite number."""
    if name == "sample_token":
        return np.array([not (isinstance(t, str) and t and t.isprintable()) for t in column])
    if isinstance(column, list):
        return np.array([not isinstance(t, str) or _has_surrogates(t) for t in column])
    return ~np.isfinite(column).reshape(len(column), -1).all(1)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
