"""Opening a build: its manifest and its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odvla_bench.datasets.build import LEDGER, MANIFEST, PROGRESS
from odvla_bench.datasets.instructions import Instruction, iter_instructions
from odvla_bench.datasets.prompts import PromptProfile
from odvla_bench.datasets.schema import DROPPED, FORMAT_VERSION, TABLES
from odvla_bench.datasets.waypoints import WaypointCodec
from odvla_bench.errors import FormatError, InputError
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

    def source_rows(self, table: str, split: str) -> dict[str, int]:
        """Rows of a table's split by the source that wrote them, sorted by name."""
        counts: dict[str, int] = {}
        for record in self._table(table).get(split, {"files": ()})["files"]:
            source = Path(record["path"]).parent.name
            counts[source] = counts.get(source, 0) + record["rows"]
        return dict(sorted(counts.items()))

    def table(
        self,
        name: str,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        sources: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of a table in their order in the build.

        Args:
            name: such as "planning" or "agents".
            split: one split; all by default.
            columns: names of the columns to read; all by default.
            sources: of a table that several sources write, only these; all by default.

        Raises:
            UnknownNameError: no such table or split.
            FormatError: a file that is not the one of the manifest.
        """
        schema = TABLES[name].schema
        names = list(columns) if columns is not None else schema.names
        empty = pa.schema([schema.field(n) for n in names]).empty_table()
        parts = [
            self._loaded(name, pq.ParquetFile(path).read(columns=names)).cast(empty.schema)
            for path in self._paths(name, split, sources)
        ]
        return pa.concat_tables([empty, *parts])

    def batches(
        self,
        name: str,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        sources: Sequence[str] | None = None,
        rows: int = 8_192,
    ) -> Iterator[pa.Table]:
        """What `table` gives, `rows` at a time, so that memory does not grow with the build."""
        schema = TABLES[name].schema
        names = list(columns) if columns is not None else schema.names
        wanted = pa.schema([schema.field(n) for n in names])
        for path in self._paths(name, split, sources):
            for batch in pq.ParquetFile(path).iter_batches(rows, columns=names):
                part = pa.Table.from_batches([batch]).select(names)
                yield self._loaded(name, part).cast(wanted)

    def iter_instructions(
        self,
        stage: str,
        split: str,
        profile: str | PromptProfile = "default",
        *,
        codec: str | WaypointCodec = "text",
        sources: Sequence[str] | None = None,
        seed: int | None = None,
        answers: bool = True,
    ) -> Iterator[Instruction]:
        """The instructions of a training stage; see `instructions.iter_instructions`."""
        return iter_instructions(
            self,
            stage,
            split,
            profile,
            codec=codec,
            sources=sources,
            seed=seed,
            answers=answers,
        )

    def with_planning(
        self, name: str, split: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows of a table, each with the columns of its keyframe in the planning table.

        Args:
            name: a table with `sample_id`.
            split: one split; all by default.
            columns: columns of the planning table; all by default.

        Returns:
            The table's rows in their order; a planning column whose name the table has already
            is left out.

        Raises:
            InputError: rows whose keyframe has no planning row.
        """
        rows = self.table(name, split)
        names = list(columns) if columns is not None else TABLES["planning"].schema.names
        added = [n for n in names if n not in rows.schema.names]
        planning = self.table("planning", split, ["sample_id", *added])
        at = pc.index_in(rows["sample_id"], planning["sample_id"].combine_chunks())
        if at.null_count:
            raise InputError(
                f"{self.path}: {at.null_count:,} rows of {name!r} have no keyframe in 'planning'. "
                "Build with the source `planning` too."
            )
        for n in added:
            rows = rows.append_column(planning.schema.field(n), planning[n].take(at))
        return rows

    def dropped(self) -> pa.Table:
        """The drop ledger: every raw record that yielded no row, and why."""
        return pq.read_table(self.path / LEDGER, schema=DROPPED.schema)

    def _table(self, name: str) -> dict[str, Any]:
        if name not in TABLES:
            raise suggest(name, list(TABLES), kind="table of a build")
        found: dict[str, Any] = self.manifest["tables"].get(name, {})
        return found

    def _paths(self, name: str, split: str | None, sources: Sequence[str] | None) -> Iterator[Path]:
        """The files of a table that rows are wanted of, each checked to be the manifest's."""
        splits = self._table(name)
        if split is not None and split not in self.splits() + self.splits(name):
            raise suggest(split, self.splits(), kind=f"split of {self.path}")
        for s in [split] if split is not None else sorted(splits):
            for record in splits[s]["files"] if s in splits else ():
                path = self.path / record["path"]
                if sources is not None and TABLES[name].shared and path.parent.name not in sources:
                    continue
                if not path.is_file() or path.stat().st_size != record["bytes"]:
                    raise FormatError(
                        f"{path}: missing or changed since the build. Build it again."
                    )
                yield path

    def _loaded(self, name: str, rows: pa.Table) -> pa.Table:  # noqa: ARG002
        """Rows as read; a subclass may look at them or change them."""
        return rows


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
