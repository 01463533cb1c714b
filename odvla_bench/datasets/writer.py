"""Writing the files of a build: each appears whole or not at all, and says what it holds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.datasets.fingerprint import digest_table
from odvla_bench.datasets.schema import FORMAT_VERSION, Table

TEMPORARY_PREFIX = ".writing-"
FORMAT_KEY = "odvla_format_version"
FINGERPRINT_KEY = "odvla_content_fingerprint"


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of one Parquet file."""

    path: str
    """Relative to the build."""
    rows: int
    bytes: int
    fingerprint: str
    """Digest of the values, whatever the storage."""
    split: str = ""
    """Split of its rows; empty where they are of none or of several."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, synced and renamed to it if the body succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; same value, same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def write_table(
    build: Path, name: str, table: Table, rows: pa.Table, *, split: str = ""
) -> FileRecord:
    """Write rows as one Parquet file of the build.

    The footer carries the format version and the content fingerprint.

    Args:
        build: the build's folder.
        name: the file's path in it.
        table: what the rows must be.
        rows: the rows; cast to the table's schema must be possible without loss.
        split: goes into the record.

    Raises:
        FormatError: rows that are not as the schema says.
    """
    rows = rows.select(table.schema.names).cast(table.schema)
    table.check(rows)
    fingerprint = digest_table(rows)
    footer = {FORMAT_KEY: str(FORMAT_VERSION), FINGERPRINT_KEY: fingerprint}
    with whole_file(build / name) as temporary:
        pq.write_table(
            rows.replace_schema_metadata(footer),
            temporary,
            compression="zstd",
            compression_level=3,
            row_group_size=table.row_group_rows,
            use_dictionary=[path for f in table.schema for path in _texts(f.type, f.name)],
        )
    size = (build / name).stat().st_size
    return FileRecord(name, rows.num_rows, size, fingerprint, split)


def _texts(kind: pa.DataType, path: str) -> Iterator[str]:
    """The Parquet columns of a column that hold texts, most of which repeat."""
    if pa.types.is_string(kind):
        yield path
    elif pa.types.is_list(kind):
        yield from _texts(kind.value_type, f"{path}.list.element")
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _texts(field.type, f"{path}.{field.name}")


def _sync(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())
