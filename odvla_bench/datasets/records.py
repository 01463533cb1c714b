"""Records of large JSON files, any range of them, in bounded memory.

A file holds a list of records, an object of keyed records, or one of these under a key. Where its
records begin is found once, without parsing them, by looking at quotes, brackets and commas alone;
the index goes into the cache by the file's content. A record is parsed when it is read, so that a
damaged one costs itself only.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.datasets.nuscenes.cache import fingerprint_files
from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_text

INDEX_VERSION = 1
"""Raised whenever the index or what it is computed from changes."""

MAX_RECORD_BYTES = 1 << 22
"""Longer records are not parsed; the known files' are below 10 kB."""

_BLOCK_BYTES = 1 << 23
_KEYS_BYTES = 1 << 22
_HEAD_BYTES = 1 << 20
_CHUNK_RECORDS = 8_192
_CHUNK_BYTES = 1 << 25
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"

_OTHER, _QUOTE, _OPEN, _CLOSE, _COMMA = range(5)
_KINDS = {b'"': _QUOTE, b"[": _OPEN, b"{": _OPEN, b"]": _CLOSE, b"}": _CLOSE, b",": _COMMA}
_KIND_OF_BYTE = bytes(_KINDS.get(bytes([b]), _OTHER) for b in range(256))

Offsets = npt.NDArray[np.int64]


class RawRecord(NamedTuple):
    """One record as it stands in the file, and parsed."""

    row: int
    """Position in the file, from 0."""
    key: str
    """Its key in an object; else empty."""
    raw: str
    """Its JSON text."""
    value: Any
    """The parsed record; None where it could not be parsed."""
    problem: str = ""
    """Why it could not be parsed; else empty."""


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

    def read(self, first: int = 0, last: int | None = None) -> Iterator[list[RawRecord]]:
        """Records `first` to `last` (exclusive; all by default), a few thousand at a time."""
        stop = len(self) if last is None else last
        with self.path.open("rb") as f:
            while first < stop:
                chunk = self._chunk(first, stop)
                f.seek(int(self.cuts[first]))
                block = f.read(int(self.cuts[chunk] - self.cuts[first]))
                base = int(self.cuts[first])
                ends = (self.cuts[first : chunk + 1] - base).tolist()
                pieces = (block[a + 1 : b] for a, b in zip(ends[:-1], ends[1:], strict=True))
                yield [self._record(first + i, piece) for i, piece in enumerate(pieces)]
                first = chunk

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
            text = piece.strip(_BLANK).decode("utf-8")
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
    return piece[:64].strip(_BLANK).decode("utf-8", errors="replace")


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
        _save(target, *_index(path, key))
    with np.load(target, allow_pickle=False) as arrays:
        keyed, cuts, superseded = (arrays[name] for name in ("keyed", "cuts", "superseded"))
    return RecordFile(path, fingerprint, bool(keyed), cuts, superseded)


def _save(target: Path, keyed: bool, cuts: Offsets, superseded: Offsets) -> None:  # noqa: FBT001
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".writing-")
    with os.fdopen(descriptor, "wb") as f:
        np.savez(f, keyed=np.array(keyed), cuts=cuts, superseded=superseded)
    Path(temporary).replace(target)


def _index(path: Path, key: str) -> tuple[bool, Offsets, Offsets]:
    """Whether the records have keys, their borders, and which of them are superseded."""
    with path.open("rb") as f:
        start = _container(path, f.read(_HEAD_BYTES), key)
        f.seek(start)
        keyed = f.read(1) == b"{"
        cuts = _cuts(path, f, start)
        f.seek(int(cuts[-1]))
        closing, tail = f.read(1), f.read(_HEAD_BYTES)
        if closing != (b"}" if keyed else b"]") or (not key and tail.strip(_BLANK)):
            raise InputError(
                f"{path}: damaged near byte {int(cuts[-1]):,}, where the records end with "
                f"{(closing + tail)[:40]!r}. Download or unpack it again."
            )
        f.seek(int(cuts[0]) + 1)
        if len(cuts) == 2 and not f.read(int(cuts[1] - cuts[0] - 1)).strip(_BLANK):
            cuts = cuts[:1]
    return keyed, cuts, _superseded(path, cuts) if keyed else np.empty(0, np.int64)


def _container(path: Path, head: bytes, key: str) -> int:
    """Offset of the bracket that opens the records."""
    text = head.decode("latin-1")  # one character a byte
    at = _skip_blank(text, len(_BOM) if head.startswith(_BOM) else 0)
    if key:
        at = _value_of(path, text, at, key)
    if text[at : at + 1] not in ("[", "{"):
        raise InputError(
            f"{path}: holds no JSON list or object of records"
            f"{f' under {key!r}' if key else ''}, but {head[at : at + 40]!r}. Unpack the file, "
            "and give it as it was published, in UTF-8."
        )
    return at


def _value_of(path: Path, text: str, at: int, key: str) -> int:
    """Offset of the value of `key` in the object that opens at `at`."""
    try:
        while text[at] in "{,":
            found, end = _DECODER.raw_decode(text, _skip_blank(text, at + 1))
            at = _skip_blank(text, end)
            if text[at] != ":":
                break
            at = _skip_blank(text, at + 1)
            if found == key:
                return at
            _, end = _DECODER.raw_decode(text, at)
            at = _skip_blank(text, end)
    except (ValueError, IndexError, RecursionError):
        pass
    raise InputError(
        f"{path}: no key {key!r} at the start of the file. Give the file as it was published."
    )


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _cuts(path: Path, f: Any, start: int) -> Offsets:
    """Offsets of the opening bracket at `start`, of the commas between its records, of its end."""
    f.seek(start)
    base, depth, quoted, escaped = start, 0, False, False
    found: list[Offsets] = [np.array([start], np.int64)]
    while block := f.read(_BLOCK_BYTES):
        place, kind, escaped = _structure(block, escaped)
        inside = (np.cumsum(kind == _QUOTE) + quoted) % 2 == 1
        quoted = bool(inside[-1]) if len(inside) else quoted
        outside = ~inside & (kind != _QUOTE)
        place, kind = place[outside], kind[outside]
        depths = depth + np.cumsum((kind == _OPEN).astype(np.int64) - (kind == _CLOSE))
        end = np.flatnonzero(depths == 0)
        stop = end[0] if len(end) else len(place)
        commas = np.flatnonzero((kind[:stop] == _COMMA) & (depths[:stop] == 1))
        found.append(place[commas] + base)
        if len(end):
            return np.concatenate([*found, place[end[:1]] + base])
        depth = int(depths[-1]) if len(depths) else depth
        base += len(block)
    n = sum(map(len, found)) - 1
    raise InputError(
        f"{path}: ends in the middle of its records, after {n:,} whole ones, the last at byte "
        f"{int(found[-1][-1]) if len(found[-1]) else start:,}. Download or unpack it again."
    )


def _structure(
    block: bytes,
    escaped: bool,  # noqa: FBT001
) -> tuple[Offsets, npt.NDArray[np.uint8], bool]:
    """Places and kinds of the quotes, brackets and commas of a block, without escaped quotes.

    Args:
        block: part of a JSON text.
        escaped: whether its first character is escaped by what came before.

    Returns:
        Offsets in the block, the kind at each, and whether the next block's first is escaped.
    """
    kinds = np.frombuffer(bytearray(block).translate(_KIND_OF_BYTE), np.uint8)
    slashes = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\\"))
    if escaped:
        kinds[0] = _OTHER
    after = _escaping(slashes, escaped) + 1 if len(slashes) else slashes
    kinds[after[after < len(block)]] = _OTHER
    escaped = bool((after == len(block)).any())
    place = np.flatnonzero(kinds)
    return place, kinds[place], escaped


def _escaping(slashes: Offsets, escaped: bool) -> Offsets:  # noqa: FBT001
    """Those of the backslashes that escape what follows: every other one of a run."""
    starts = np.flatnonzero(np.r_[True, np.diff(slashes) != 1])
    lengths = np.diff(np.r_[starts, len(slashes)])
    place_in_run = np.arange(len(slashes)) - np.repeat(starts, lengths)
    place_in_run += np.repeat(escaped & (slashes[starts] == 0), lengths)
    return slashes[place_in_run % 2 == 0]


def _superseded(path: Path, cuts: Offsets) -> Offsets:
    """Records whose key, as it is spelt, comes again later."""
    if len(cuts) < 3:
        return np.empty(0, np.int64)
    keys: list[bytes] = []
    with path.open("rb") as f:
        while len(keys) < len(cuts) - 1:
            start = int(cuts[len(keys)])
            stop = int(np.searchsorted(cuts[:-1], start + _KEYS_BYTES))
            f.seek(start)
            block = f.read(2 * _KEYS_BYTES)
            for cut in (cuts[len(keys) : stop] - start).tolist():
                begin = block.find(b'"', cut) + 1
                keys.append(_short(block[begin : block.find(b'"', begin)]))
    names = np.array(keys)
    _, last = np.unique(names[::-1], return_index=True)
    kept = np.zeros(len(names), bool)
    kept[len(names) - 1 - last] = True
    return np.flatnonzero(~kept)


def _short(key: bytes) -> bytes:
    """A key, or a digest of a long one, so that all keys fit in one array."""
    return key if len(key) <= 64 else digest_text(key.decode("latin-1")).encode()
