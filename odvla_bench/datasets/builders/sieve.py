"""Records of language sources, taken apart column by column; bad ones go into the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Drop, Keyframes
from odvla_bench.datasets.record_index import Offsets
from odvla_bench.datasets.records import Chunk
from odvla_bench.datasets.schema import Table
from odvla_bench.datasets.text_columns import equal, first_bytes, replaced, to_numpy, unquoted

MAX_TEXT_CHARS = 32_768
"""Longer questions and answers are damage; the known ones are below 4,000."""

_JSON_KINDS = {"[": "an array", '"': "a string", "t": "a boolean", "f": "a boolean", "n": "null"}

T = TypeVar("T")

Columns = dict[str, Any]
"""Columns of rows by name, each an Arrow array or a numpy one."""


class BadRecordError(Exception):
    """A record that yields no row, with the reason and the sentence for the ledger."""

    def __init__(self, reason: str, detail: str, split: str = "") -> None:
        """Keep what a `Drop` needs."""
        super().__init__(detail)
        self.reason, self.detail, self.split = reason, detail, split


class Sieve:
    """Records of a chunk, column by column; bad ones fall out on the way.

    A column is made at once; where it cannot tell that all is well, the function that decides on
    one record is asked, and raises `BadRecordError` for one that yields no row. What fell out
    stays in the columns, as a blank, until `kept`.
    """

    def __init__(self, chunk: Chunk, superseded: Offsets) -> None:
        """Let fall what is damaged or no object.

        Args:
            chunk: the records.
            superseded: ascending positions of those in the file whose key comes again later.
        """
        self.chunk = chunk
        self.fallen: dict[int, BadRecordError] = {}
        ends = np.searchsorted(superseded, (chunk.first, chunk.first + len(chunk)))
        for i in (superseded[slice(*ends)] - chunk.first).tolist():
            detail = f"key {chunk.keys[i].as_py():.40} comes again later"
            self.refuse(i, BadRecordError("superseded", detail))
        for i, problem in chunk.damaged.items():
            self.refuse(i, BadRecordError("damaged", problem))
        for i in np.flatnonzero(first_bytes(chunk.raws) != ord("{")).tolist():
            kind = _JSON_KINDS.get(chunk.raws[i].as_py()[0], "a number")
            self.refuse(i, BadRecordError("malformed", f"is JSON, but {kind}, not an object"))

    def refuse(self, i: int, why: BadRecordError) -> None:
        """Let a record fall out, if it has not yet."""
        self.fallen.setdefault(i, why)

    def decide(self, rows: Iterable[int], one: Callable[[int], T]) -> tuple[list[int], list[T]]:
        """Ask `one` for the values of some rows; rows that it has one for, and their values."""
        given = []
        for i in rows:
            if i in self.fallen:
                continue
            try:
                given.append((i, one(i)))
            except BadRecordError as error:
                self.fallen[i] = error
        return [i for i, _ in given], [value for _, value in given]

    def record(self, i: int) -> dict[str, Any]:
        """The fields of one record that are there, by path."""
        texts = ((path, column[i].as_py()) for path, column in self.chunk.fields.items())
        return {path: _value(text) for path, text in texts if text is not None}

    def texts(self, path: str, *, optional: bool = False) -> pa.StringArray:
        """(N,) a text field of all records, see `text_of`."""
        return self.texts_of(self.chunk.fields[path], path, optional=optional)

    def texts_of(
        self, values: pa.StringArray, name: str, *, optional: bool = False
    ) -> pa.StringArray:
        """The same of JSON values of the field that were found elsewhere."""
        found, fine = unquoted(values, MAX_TEXT_CHARS)
        if optional:
            fine |= to_numpy(pc.is_null(values)) | equal(values, '""')

        def one(i: int) -> str:
            text = values[i].as_py()
            fields = {} if text is None else {name: _value(text)}
            return text_of(fields, name, optional=optional)

        return replaced(found, *self.decide(np.flatnonzero(~fine).tolist(), one))

    def samples(
        self, tokens: pa.StringArray, keyframes: Keyframes, part: str = ""
    ) -> npt.NDArray[np.int32]:
        """(N,) the keyframes of tokens, see `sample_of`; 0 for what fell out."""
        found = pc.index_in(tokens, keyframes.columns["sample_token"].chunk(0))
        samples = to_numpy(pc.fill_null(found, -1)).copy()
        doubtful = np.flatnonzero(~keyframes.fits(part)[samples]).tolist()
        self.decide(doubtful, lambda i: sample_of(tokens[i].as_py(), keyframes, part))
        samples[doubtful] = 0
        return samples

    def kept(self, **columns: Any) -> Columns:
        """Columns without what fell out; beside the given ones, what says where a row is from."""
        chunk = self.chunk
        rows = np.arange(chunk.first, chunk.first + len(chunk))
        columns |= {"source_key": chunk.keys, "source_row": rows, "raw": chunk.raws}
        if not self.fallen:
            return columns
        there = np.delete(np.arange(len(chunk)), list(self.fallen))
        at = pa.array(there)
        return {
            name: column[there] if isinstance(column, np.ndarray) else column.take(at)
            for name, column in columns.items()
        }

    def drops(self, table: Table, part: str = "") -> list[Drop]:
        """The ledger's lines for what fell out.

        Args:
            table: the table that the rows are for.
            part: key of the file among its source's.
        """
        drops = []
        for i, error in sorted(self.fallen.items()):
            key, row = self.chunk.keys[i].as_py(), str(self.chunk.first + i)
            name = ":".join(filter(None, (part, row, key)))
            detail = f"record {name}: {error.detail}"
            drops.append(Drop(table.name, name, error.reason, detail, error.split))
        return drops


def sieved(
    table: Table,
    chunks: Iterable[Chunk],
    superseded: Offsets,
    columns: Callable[[Sieve], Columns],
    *,
    part: str = "",
) -> tuple[Columns, list[Drop]]:
    """Columns of the rows that chunks yield, and the ledger's lines for the others.

    Args:
        table: the table that the rows are for.
        chunks: records.
        superseded: see `Sieve`.
        columns: makes those of one chunk.
        part: key of the file among its source's.

    Returns:
        The columns, of which there are none if there is no chunk.
    """
    parts: list[Columns] = []
    drops: list[Drop] = []
    for chunk in chunks:
        sieve = Sieve(chunk, superseded)
        parts.append(columns(sieve))
        drops += sieve.drops(table, part)
    return {name: _joined(name, [p[name] for p in parts]) for p in parts[:1] for name in p}, drops


def _joined(name: str, arrays: list[Any]) -> Any:
    if name == "raw":  # most of the bytes, and only passed on
        return pa.chunked_array(arrays)
    return np.concatenate(arrays) if isinstance(arrays[0], np.ndarray) else pa.concat_arrays(arrays)


def _value(text: str) -> Any:
    """The value of a field's JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # DuckDB knows other names for NaN, and has no limit
        return [text]


def text_of(fields: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """A text field without white space around it; empty where an optional one is absent or null.

    Raises:
        BadRecordError: absent, empty or another type.
    """
    value = fields.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        found = f"is {_shown(value)}" if name in fields else "is absent"
        raise BadRecordError("malformed", f"key {name!r} {found}, not a text")
    if len(value) > MAX_TEXT_CHARS:
        limit = f"key {name!r} has {len(value):,} characters, more than {MAX_TEXT_CHARS:,}"
        raise BadRecordError("malformed", limit)
    if not (value := value.strip()) and not optional:
        raise BadRecordError("empty", f"key {name!r} is empty")
    return value


def _shown(value: object) -> str:
    return f"{value!r:.60}"


def sample_of(token: str, keyframes: Keyframes, part: str = "") -> int:
    """The keyframe of a token.

    Args:
        token: nuScenes sample token.
        keyframes: those of the version.
        part: the split that the record's file is of.

    Raises:
        BadRecordError: no such keyframe; one of no split, or of another than the file's; one that
            planning has no row for.
    """
    sample = keyframes.sample_id.get(token)
    if sample is None:
        raise BadRecordError("unknown_sample", f"nuScenes has no keyframe {token:.40}")
    split, official = keyframes.split[sample], keyframes.official_split[sample]
    if not split:
        raise BadRecordError("no_split", f"no official split names the scene of keyframe {token}")
    if part and official != part:
        detail = f"keyframe {token} is of split {official}, but the file is of {part}"
        raise BadRecordError("split_mismatch", detail, split)
    if not keyframes.has_lidar[sample]:
        raise BadRecordError("no_lidar", f"keyframe {token} has no LIDAR_TOP record", split)
    return sample
