"""Where the records of a large JSON file begin, found without parsing them.

Quotes, brackets and commas alone tell: a record ends at a comma outside of all strings, one bracket
deep.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_text

_BLOCK_BYTES = 1 << 19
"""Scanned at a time: what is made of it on the way has to stay in the processor's caches."""
_KEYS_BYTES = 1 << 22
_HEAD_BYTES = 1 << 20
_SHORT_BYTES = 64
"""In which a record's key ends, if it is a token."""
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_QUOTE, _COMMA, _BACKSLASH = b'",\\'
_OPEN, _CLOSE = b"{}"
_BRACE = 0x20
"""The bit that makes a brace of a bracket."""

_DECODER = json.JSONDecoder()

Offsets = npt.NDArray[np.int64]


def find_records(path: Path, key: str) -> tuple[bool, Offsets, Offsets]:
    """Whether the records have keys, their borders, and which of them are superseded.

    Args:
        path: a JSON file.
        key: of the list or object that holds the records, or empty.

    Raises:
        InputError: not such a file, or a truncated one; says after which record.
    """
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


def _cuts(path: Path, f: BinaryIO, start: int) -> Offsets:
    """Offsets of the opening bracket at `start`, of the commas between its records, of its end."""
    f.seek(start)
    state = _State()
    base, found = start, [np.array([start], np.int64)]
    while block := f.read(_BLOCK_BYTES):
        commas, end = state.advance(block)
        found.append(commas + base)
        if len(end):
            return np.concatenate([*found, end + base])
        base += len(block)
    n = sum(map(len, found)) - 1
    raise InputError(
        f"{path}: ends in the middle of its records, after {n:,} whole ones, the last at byte "
        f"{int(found[-1][-1]) if len(found[-1]) else start:,}. Download or unpack it again."
    )


class _State:
    """What a scan has to know of the blocks before."""

    def __init__(self) -> None:
        """Before the opening bracket."""
        self.depth, self.quoted, self.escaped = 0, False, False

    def advance(self, block: bytes) -> tuple[Offsets, Offsets]:
        """Commas between records, and the bracket that closes them all (empty if none), in a block.

        Quotes tell which brackets count, and brackets what lies between records; only there commas
        are looked for.
        """
        text = self._without_escaped(block)
        folded = text | _BRACE
        brackets = np.flatnonzero((folded == _OPEN) | (folded == _CLOSE))
        quotes = np.add.reduceat(
            (text == _QUOTE).view(np.uint8), np.r_[0, brackets], dtype=np.uint8
        )
        # A byte does not hold the sum, but whether it is odd.
        inside = (np.cumsum(quotes, dtype=np.uint8) + self.quoted) % 2 == 1
        brackets = brackets[~inside[:-1]]
        depths = self.depth + np.cumsum(np.where(folded[brackets] == _OPEN, 1, -1))
        end = brackets[np.flatnonzero(depths == 0)[:1]]
        commas = self._commas(text, brackets, depths, int(end[0]) if len(end) else len(block))
        self.depth = int(depths[-1]) if len(depths) else self.depth
        self.quoted = bool(inside[-1])
        return commas, end

    def _commas(
        self, text: npt.NDArray[np.uint8], brackets: Offsets, depths: Offsets, stop: int
    ) -> Offsets:
        """The commas outside of strings before `stop` where only one bracket is open."""
        starts = brackets[depths == 1] + 1
        odd = 0
        if self.depth == 1:
            starts, odd = np.r_[0, starts], int(self.quoted)
        stops = np.r_[brackets, stop][np.searchsorted(brackets, starts)]
        between = _ranges(starts, np.minimum(stops, stop))
        near = text[between]
        inside = (np.cumsum(near == _QUOTE) + odd) % 2 == 1
        return between[(near == _COMMA) & ~inside]

    def _without_escaped(self, block: bytes) -> npt.NDArray[np.uint8]:
        """The bytes of a block; those that a backslash escapes are 0."""
        text = np.frombuffer(block, np.uint8)
        if not self.escaped and b"\\" not in block:
            return text
        text = text.copy()
        if self.escaped:
            text[0] = 0
        after = _escaping(np.flatnonzero(text == _BACKSLASH)) + 1
        text[after[after < len(text)]] = 0
        self.escaped = bool((after == len(text)).any())
        return text


def _ranges(starts: Offsets, stops: Offsets) -> Offsets:
    """All places in ascending ranges [start, stop)."""
    counts = np.maximum(stops - starts, 0)
    return np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)


def _escaping(slashes: Offsets) -> Offsets:
    """Those of the backslashes that escape what follows: every other one of a run."""
    if not len(slashes):
        return slashes
    starts = np.flatnonzero(np.r_[True, np.diff(slashes) != 1])
    lengths = np.diff(np.r_[starts, len(slashes)])
    place_in_run = np.arange(len(slashes)) - np.repeat(starts, lengths)
    return slashes[place_in_run % 2 == 0]


def _superseded(path: Path, cuts: Offsets) -> Offsets:
    """Records whose key, as it is spelt, comes again later."""
    if len(cuts) < 3:
        return np.empty(0, np.int64)
    keys = []
    first = 0
    with path.open("rb") as f:
        while first < len(cuts) - 1:
            start = int(cuts[first])
            stop = max(int(np.searchsorted(cuts[:-1], start + _KEYS_BYTES)), first + 1)
            f.seek(start)
            block = f.read(int(cuts[stop - 1]) - start + _KEYS_BYTES)
            keys.append(_keys(block, cuts[first:stop] - start))
            first = stop
    codes = pa.chunked_array(keys).combine_chunks().dictionary_encode().indices.to_numpy()
    last = np.zeros(len(codes), np.int64)
    last[codes] = np.arange(len(codes))  # of equal codes the last is kept
    return np.flatnonzero(last[codes] != np.arange(len(codes)))


def _keys(block: bytes, cuts: Offsets) -> pa.BinaryArray:
    """What stands between the first two quotes after each cut."""
    ends = np.minimum(np.r_[cuts[1:], len(block)], cuts + _SHORT_BYTES)
    offsets = pa.py_buffer(np.stack([cuts, ends], -1).astype(np.int32).reshape(-1))
    pieces = pa.BinaryArray.from_buffers(
        pa.binary(), 2 * len(cuts) - 1, [None, offsets, pa.py_buffer(block)]
    )
    heads = pieces.take(pa.array(np.arange(0, 2 * len(cuts), 2)))
    parts = pc.split_pattern(heads, b'"', max_splits=2)
    if pc.min(pc.list_value_length(parts)).as_py() == 3:
        return pc.list_element(parts, 1)
    return pa.array([_key(block, cut) for cut in cuts.tolist()], pa.binary())


def _key(block: bytes, cut: int) -> bytes:
    """The same of one that may be long, of which a digest is enough, or damaged."""
    begin = block.find(b'"', cut) + 1
    key = block[begin : block.find(b'"', begin)]
    return key if len(key) <= _SHORT_BYTES else digest_text(key.decode("latin-1")).encode()
