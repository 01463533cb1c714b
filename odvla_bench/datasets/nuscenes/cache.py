"""Content-keyed cache directories: their keys, and how one comes into being whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_file, digest_text

_MAX_INDEX_BYTES = 1 << 24
_BATCH_ROWS = 1 << 17
_NAMES = ("attribute", "category", "channel", "location", "vehicle")
_AS_WRITTEN = "join_order,build_side_probe_side"
"""Optimisers turned off: DuckDB takes a JSON file for a few dozen rows, and would hash the millions
of rows that it holds instead of the table they are joined with."""


def fingerprint_files(files: dict[str, Path], parent: Path, *salt: str) -> str:
    """Digest of the names and contents of files, and of `salt`.

    File digests are kept in `parent/digests.json` by path, size and modification time, so that
    gigabytes are hashed once and not on every load.
    """
    index_file = parent / "digests.json"
    index = _read_index(index_file)
    known, parts = dict(index), list(salt)
    for name, path in sorted(files.items()):
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            known[key] = digest_file(path)
        parts += [name, known[key]]
    if known != index:
        _write_index(index_file, known)
    return digest_text(*parts)


def _read_index(path: Path) -> dict[str, str]:
    if not path.is_file() or path.stat().st_size > _MAX_INDEX_BYTES:
        return {}
    try:
        loaded = json.loads(path.read_text())
    except ValueError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _write_index(path: Path, index: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".digests-")
    with os.fdopen(descriptor, "w") as f:
        json.dump(index, f, indent=0)
    Path(temporary).replace(path)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A work directory that becomes `target` in one step, or vanishes if the body fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=".building-"))
    try:
        yield work
        try:
            work.rename(target)
        except OSError:
            # Another process has published the same contents meanwhile.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def connect(spill: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with bounded memory that spills to the folder `spill`.

    A join hashes its right side: name the smaller table there.
    """
    settings = {
        "preserve_insertion_order": "false",
        "temp_directory": str(spill),
        "disabled_optimizers": _AS_WRITTEN,
    }
    try:
        con = duckdb.connect(config={**settings, "memory_limit": memory_limit})
        con.execute("SET enable_progress_bar = false")
    except duckdb.Error as error:
        raise InputError(
            f"--memory-limit {memory_limit!r}: {_first_line(error)}. Write it like '2GB'."
        ) from error
    return con


def json_source(paths: list[Path], columns: dict[str, str], *, filename: bool = False) -> str:
    """SQL that reads files of JSON arrays with the given columns; no rows where no file is given.

    A column that a file lacks is null; fields that are not named are skipped.
    """
    if not paths:
        nulls = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns.items())
        return f"(SELECT {nulls}, '' AS filename WHERE false)"
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    kinds = "{" + ", ".join(f"{name}: '{kind}'" for name, kind in columns.items()) + "}"
    return f"read_json([{listed}], format='array', filename={filename}, columns={kinds})"


def write_cached(relation: duckdb.DuckDBPyRelation, path: Path) -> None:
    """Write a relation batch by batch, so that memory does not grow with it.

    The cache is read far more often than it is sent anywhere: LZ4 is read fastest, and a dictionary
    pays only for the few names that repeat.
    """
    reader = relation.to_arrow_reader(_BATCH_ROWS)
    schema = reader.schema.remove_metadata()
    repeating = [f.name for f in schema if pa.types.is_string(f.type) and f.name in _NAMES]
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=repeating) as writer:
        for batch in reader:
            writer.write_batch(batch.replace_schema_metadata(None))


def read_error(path: Path | None, error: duckdb.Error) -> InputError:
    """The error for a JSON file that DuckDB could not read."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return InputError(f"{path}: out of memory ({_first_line(error)}). Raise --memory-limit.")
    return InputError(
        f"{path}: not a whole nuScenes table ({_first_line(error)}). Unpack the file again."
    )


def _first_line(error: duckdb.Error) -> str:
    return str(error).strip().splitlines()[0]
