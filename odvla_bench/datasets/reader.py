"""Opening a build: its manifest and its tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.datasets.build import LEDGER, MANIFEST, PROGRESS
from odvla_bench.datasets.schema import DROPPED, FORMAT_VERSION, TABLES
from odvla_bench.errors import FormatError
from odvla_bench.registry import suggest


@dataclass(frozen=True)
class Build:
    """A whole build on disk."""

    path: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Digest of all its contents."""
        return str(self.manifest["fingerprint"])

    def splits(self, table: str = "planning") -> list[str]:
        """The splits that a table has rows for, sorted."""
        return sorted(self._table(table))

    def table(
        self, name: str, split: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows of a table in their order in the build.

        Args:
            name: such as "planning" or "agents".
            split: one split; all by default.
            columns: names of the columns to read; all by default.

        Raises:
            UnknownNameError: no such table or split.
            FormatError: a file that is not the one of the manifest.
        """
        splits = self._table(name)
        if split is not None and split not in self.splits() + self.splits(name):
            raise suggest(split, self.splits(), kind=f"split of {self.path}")
        schema = TABLES[name].schema
        wanted = [split] if split is not None else sorted(splits)
        files = [f for s in wanted if s in splits for f in splits[s]["files"]]
        names = list(columns) if columns is not None else schema.names
        empty = pa.schema([schema.field(n) for n in names]).empty_table()
        parts = [self._read(f, names).cast(empty.schema) for f in files]
        return pa.concat_tables([empty, *parts])

    def dropped(self) -> pa.Table:
        """The drop ledger: every raw record that yielded no row, and why."""
        return pq.read_table(self.path / LEDGER, schema=DROPPED.schema)

    def _table(self, name: str) -> dict[str, Any]:
        if name not in TABLES:
            raise suggest(name, list(TABLES), kind="table of a build")
        found: dict[str, Any] = self.manifest["tables"].get(name, {})
        return found

    def _read(self, record: dict[str, Any], columns: list[str]) -> pa.Table:
        path = self.path / record["path"]
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            raise FormatError(f"{path}: missing or changed since the build. Build it again.")
        return pq.ParquetFile(path).read(columns=columns)


def open_build(path: Path | str) -> Build:
    """Open a build.

    Raises:
        FormatError: not a build, an unfinished one, or one of another format version.
    """
    path = Path(path)
    manifest_file = path / MANIFEST
    if not manifest_file.is_file():
        raise FormatError(
            f"{path}: an unfinished build. Run the same `odvla-bench build-data` again to go on."
            if (path / PROGRESS).is_dir()
            else f"{path}: not a build (no {MANIFEST}). Make one with `odvla-bench build-data`."
        )
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{manifest_file}: not a build's manifest ({error}).") from error
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{path}: format version {version}; this odvla_bench reads {FORMAT_VERSION}. "
            "Build it again with this version."
        )
    return Build(path, manifest)
