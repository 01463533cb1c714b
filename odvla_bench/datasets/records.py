"""Records of large JSON files, any range of them, in bounded memory.

A file holds a list of records, an object of keyed records, or one of these under a key. Where its
records begin is found once, without parsing them; the index goes into the cache by the file's
content. Records are parsed a chunk at a time; where a chunk holds a damaged one, one by one, so
that it costs itself only.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.nuscenes.cache import fingerprint_files
from odvla_bench.datasets.record_index import Offsets, find_records
from odvla_bench.errors import InputError

INDEX_VERSION = 1
"""Raised whenever the index or what it is computed from changes."""

MAX_RECORD_BYTES = 1 << 22
"""Longer records are not parsed; the known files' are below 10 kB."""

_CHUNK_RECORDS = 8_192
_BATCH_RECORDS = 512
"""Parsed at a time: what is parsed has to stay in the processor's caches until it is picked."""
_CHUNK_BYTES = 1 << 25
_BLANK = " \t\r\n"


Pick = Callable[[Any], Any]
"""Takes of a parsed record what is needed, so that the rest can go at once."""


def _all(value: Any) -> Any:
    return value


class RawRecord(NamedTuple):
    """One record as it stands in the file, and parsed."""

    row: int
    """Position in the file, from 0."""
    key: str
    """Its key in an object; else empty."""
    raw: str
    """Its JSON text."""
    value: Any
    """What was picked of the parsed record; None where it could not be parsed."""
    problem: str = ""
    """Why it could not be parsed; else empty."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Records that follow each other in a file, column by column; see `RawRecord`."""

    first: int
    """Position of the first one in the file."""
    keys: Sequence[str]
    raws: pa.StringArray
    values: Sequence[Any]
    problems: Mapping[int, str] = field(default_factory=dict)
    """Position in the chunk → why that record could not be parsed."""

    def __len__(self) -> int:
        return len(self.values)

    def records(self) -> Iterator[RawRecord]:
        """The records one by one."""
        columns = zip(self.keys, self.raws.to_pylist(), self.values, strict=True)
        for i, (key, raw, value) in enumerate(columns):
            yield RawRecord(self.first + i, key, raw, value, self.problems.get(i, ""))

    @classmethod
    def of(cls, records: Sequence[RawRecord]) -> Chunk:
        """The chunk of some records."""
        return cls(
            records[0].row,
            [r.key for r in records],
            pa.array([r.raw for r in records], pa.string()),
            [r.value for r in records],
            {i: r.problem for i, r in enumerate(records) if r.problem},
        )


@dataclass(frozen=True, eq=False)
class RecordFile:
    """Where the records of one file lie."""

    path: Path
    fingerprint: str
    """Digest of the file's contents, of the key and of the index version."""
    keyed: bool
    """Whether the records are values of an object."""
    cuts: Offsets
    """(n + 1,) byte offsets of the brackets and commas around the n records."""
    superseded: Offsets
    """Records of an object whose key comes again later: JSON readers keep the last."""

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def read(
        self, first: int = 0, last: int | None = None, *, pick: Pick | None = None
    ) -> Iterator[Chunk]:
        """Records `first` to `last` (exclusive; all by default), a few thousand at a time.

        Args:
            first: position in the file.
            last: position in the file.
            pick: what is kept of a parsed record; by default all.
        """
        stop = len(self) if last is None else last
        with self.path.open("rb") as f:
            while first < stop:
                end = self._chunk(first, stop)
                cuts = self.cuts[first : end + 1]
                f.seek(int(cuts[0]) + 1)
                block = f.read(int(cuts[-1] - cuts[0]) - 1)
                yield self._parse(first, block, cuts, pick or _all)
                first = end

    def _parse(self, first: int, block: bytes, cuts: Offsets, pick: Pick) -> Chunk:
        """The records of a block that `cuts` surround and divide."""
        parse = _parsed_object if self.keyed else _parsed_list
        if np.diff(cuts).max() <= MAX_RECORD_BYTES:
            try:
                return parse(first, block, cuts - cuts[0] - 1, pick)
            except (ValueError, IndexError, StopIteration, RecursionError):
                pass  # whichever record it is, it is found below
        ends = (cuts - cuts[0]).tolist()
        pieces = (block[a : b - 1] for a, b in zip(ends[:-1], ends[1:], strict=True))
        records = [self._record(first + i, piece) for i, piece in enumerate(pieces)]
        return Chunk.of([r if r.problem else r._replace(value=pick(r.value)) for r in records])

    def _chunk(self, first: int, stop: int) -> int:
        """Where a chunk ends that starts with record `first`; it holds one record at least."""
        limit = self.cuts[first] + _CHUNK_BYTES
        by_bytes = int(np.searchsorted(self.cuts, limit, side="right")) - 1
        return max(first + 1, min(stop, first + _CHUNK_RECORDS, by_bytes))

    def _record(self, row: int, piece: bytes) -> RawRecord:
        if len(piece) > MAX_RECORD_BYTES:
            limit = f"longer than {MAX_RECORD_BYTES:,} bytes"
            return RawRecord(row, _shown(piece), "", None, limit)
        key = ""
        try:
            text = piece.decode("utf-8").strip(_BLANK)
            key, raw = _split_key(text) if self.keyed else ("", text)
            value = _parsed(raw)
            if "\\ud" in text.lower():  # half of a character spelt as an escape cannot be stored
                json.dumps([key, value], ensure_ascii=False).encode("utf-8")
        except UnicodeDecodeError as error:
            return RawRecord(row, _shown(piece), "", None, f"not UTF-8 ({error.reason})")
        except UnicodeEncodeError as error:
            return RawRecord(row, _shown(piece), "", None, f"not Unicode ({error.reason})")
        except (ValueError, RecursionError) as error:
            return RawRecord(row, key or _shown(piece), "", None, f"not JSON ({error})")
        return RawRecord(row, key, raw, value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_SCAN: Callable[[str, int], tuple[Any, int]] = vars(_DECODER)["scan_once"]
"""The value at a place of a text, and where it ends."""


def _parsed_list(first: int, block: bytes, cuts: Offsets, pick: Pick) -> Chunk:
    """All records of a block of a list.

    Args:
        first: position of the first one.
        block: the records and the commas between them.
        cuts: (n + 1,) places of the commas around the records, from -1 to the block's end.
        pick: what is kept of a record.

    Raises:
        ValueError, RecursionError: one of them is damaged.
    """
    _refuse_half_characters(block)
    values: list[Any] = []
    for cut in range(0, len(cuts) - 1, _BATCH_RECORDS):
        part = cuts[cut : cut + _BATCH_RECORDS + 1]
        parsed = _DECODER.decode(f"[{str(block[part[0] + 1 : part[-1]], 'utf-8')}]")
        if len(parsed) != len(part) - 1:
            raise ValueError("brackets that do not match")
        values += map(pick, parsed)
    # From comma to comma; no value begins or ends with one, or with a blank.
    ends = pa.py_buffer(np.maximum(cuts, 0).astype(np.int32))
    pieces = pa.StringArray.from_buffers(len(values), ends, pa.py_buffer(block))
    return Chunk(first, [""] * len(values), pc.ascii_trim(pieces, f",{_BLANK}"), values)


def _parsed_object(first: int, block: bytes, cuts: Offsets, pick: Pick) -> Chunk:
    """All records of a block of an object, see `_parsed_list`.

    Raises:
        ValueError, IndexError, StopIteration, RecursionError: one of them is damaged.
    """
    _refuse_half_characters(block)
    text = block.decode("utf-8") + "}"  # a bracket, so that there always is a next character
    keys: list[str] = []
    raws: list[str] = []
    values: list[Any] = []
    at = -1
    while at < len(text) - 1:
        key, at = _SCAN(text, _skip_blank(text, at + 1))
        at = _skip_blank(text, at)
        if text[at] != ":" or type(key) is not str:
            raise ValueError("no key")
        at = _skip_blank(text, at + 1)
        value, end = _SCAN(text, at)
        keys.append(key)
        raws.append(text[at:end])
        values.append(pick(value))
        at = _skip_blank(text, end)
        if text[at] != "," and at < len(text) - 1:
            raise ValueError("more after the value")
    if len(values) != len(cuts) - 1:
        raise ValueError("brackets that do not match")
    return Chunk(first, keys, pa.array(raws, pa.string()), values)


def _skip_blank(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at


def _refuse_half_characters(block: bytes) -> None:
    """Leave surrogates spelt as escapes to the look at each record.

    Half of a character cannot be stored.

    Raises:
        ValueError: there may be some.
    """
    if b"\\" in block and (b"\\ud" in block or b"\\uD" in block):
        raise ValueError("perhaps not Unicode")


def _parsed(text: str) -> Any:
    """The value of a JSON text without white space around it."""
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError(f"more after character {end}")
    return value


def _split_key(text: str) -> tuple[str, str]:
    """`"key": value` → the key, and the value's text."""
    key, end = _DECODER.raw_decode(text)
    rest = text[end:].lstrip()
    if not isinstance(key, str) or not rest.startswith(":"):
        raise ValueError("no key")
    return key, rest[1:].lstrip()


def _shown(piece: bytes) -> str:
    """The start of a record that could not be read, to find it by."""
    return piece[:64].decode("utf-8", errors="replace").strip(_BLANK)


def open_records(path: Path, cache_dir: Path, *, key: str = "") -> RecordFile:
    """Find the records of a file, or take their places from the cache.

    Args:
        path: a JSON file.
        cache_dir: parent of the caches.
        key: of the list or object that holds the records, where the file's own value is an
            object around it.

    Raises:
        InputError: not such a file, or a truncated one; says after which record.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    fingerprint = fingerprint_files({"file": path}, cache_dir, f"records {INDEX_VERSION}", key)
    target = cache_dir / "records" / f"{fingerprint}.npz"
    if not target.is_file():
        _save(target, *find_records(path, key))
    with np.load(target, allow_pickle=False) as arrays:
        keyed, cuts, superseded = (arrays[name] for name in ("keyed", "cuts", "superseded"))
    return RecordFile(path, fingerprint, bool(keyed), cuts, superseded)


def _save(target: Path, keyed: bool, cuts: Offsets, superseded: Offsets) -> None:  # noqa: FBT001
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".writing-")
    with os.fdopen(descriptor, "wb") as f:
        np.savez(f, keyed=np.array(keyed), cuts=cuts, superseded=superseded)
    Path(temporary).replace(target)
