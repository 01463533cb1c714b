"""Records of large JSON files, any range of them, in bounded memory.

A file holds a list of records, an object of keyed records, or one of these under a key. Where its
records begin is found once, without parsing them; the index goes into the cache by the file's
content. The fields that are asked for are taken out by DuckDB, a chunk at a time; a damaged record
costs itself only. Of a field that a record has twice, the first counts.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.nuscenes.cache import fingerprint_files
from odvla_bench.datasets.record_index import Offsets, find_records
from odvla_bench.datasets.text_columns import replaced, slices
from odvla_bench.errors import InputError

INDEX_VERSION = 1
"""Raised whenever the index or what it is computed from changes."""

MAX_RECORD_BYTES = 1 << 22
"""Longer records are not parsed; the known files' are below 10 kB."""

_CHUNK_RECORDS = 1 << 15
_CHUNK_BYTES = 1 << 25
_BLANK = " \t\r\n"
_IS_BLANK = np.isin(np.arange(256), list(_BLANK.encode()))
_QUOTE, _COLON = b'":'
_IN_NO_NAME = np.array([not 0x20 <= b < 0x7F or b in b'"\\' for b in range(256)])
"""Bytes that are not in a key that is spelt as it is."""
_LONGEST_NAME = 64
_MOST_BLANKS = 16
_SHOWN_BYTES = 64
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, eq=False)
class Chunk:
    """N records that follow each other in a file, column by column."""

    first: int
    """Position of the first one in the file."""
    keys: pa.StringArray
    """(N,) their keys in an object; of a damaged one how it starts; else empty."""
    raws: pa.StringArray
    """(N,) their JSON texts; `null` where damaged."""
    fields: Mapping[str, pa.StringArray]
    """Path → (N,) JSON text of what is there; null where a record has no such field."""
    damaged: Mapping[int, str]
    """Position in the chunk → why that record could not be parsed."""

    def __len__(self) -> int:
        return len(self.raws)


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
        self, fields: Sequence[str], first: int = 0, last: int | None = None
    ) -> Iterator[Chunk]:
        """Records `first` to `last` (exclusive; all by default), some ten thousand at a time.

        Args:
            fields: one path or more to what is wanted, as "answer" or "depth_caption.depth".
            first: position in the file.
            last: position in the file.
        """
        stop = len(self) if last is None else last
        with self.path.open("rb") as f:
            while first < stop:
                end = self._chunk(first, stop)
                cuts = self.cuts[first : end + 1]
                f.seek(int(cuts[0]) + 1)
                # Of a record too long even for a chunk, this is only the start.
                block = f.read(min(int(cuts[-1] - cuts[0]), _CHUNK_BYTES))
                yield _parsed(first, block, cuts - cuts[0] - 1, fields, keyed=self.keyed)
                first = end

    def _chunk(self, first: int, stop: int) -> int:
        """Where a chunk ends that starts with record `first`; it holds one record at least."""
        limit = self.cuts[first] + _CHUNK_BYTES
        by_bytes = int(np.searchsorted(self.cuts, limit, side="right")) - 1
        return max(first + 1, min(stop, first + _CHUNK_RECORDS, by_bytes))


def _parsed(
    first: int, block: bytes, cuts: Offsets, fields: Sequence[str], *, keyed: bool
) -> Chunk:
    """The records of a block.

    Args:
        first: position of the first one.
        block: the records, after each a comma or bracket.
        cuts: (n + 1,) places of the commas and brackets around the records, from -1 on.
        fields: paths.
        keyed: whether the records have keys.
    """
    starts, stops = cuts[:-1] + 1, np.minimum(cuts[1:], len(block) - 1)
    too_long = np.flatnonzero(np.diff(cuts) > MAX_RECORD_BYTES + 1).tolist()
    damaged = dict.fromkeys(too_long, f"longer than {MAX_RECORD_BYTES:,} bytes")
    values, keys = starts, pa.repeat(pa.scalar(""), len(starts))
    if keyed:
        values, keys = _keys(block, starts, stops)
    raws, columns = _fields(_pieces(block, values, stops), fields, damaged)
    nameless = [i for i in sorted(damaged) if not keys[i].as_py()]
    shown = [_shown(block[starts[i] : stops[i]]) for i in nameless]
    return Chunk(first, replaced(keys, nameless, shown), raws, columns, damaged)


def _keys(block: bytes, starts: Offsets, stops: Offsets) -> tuple[Offsets, pa.StringArray]:
    """Where the values of an object's records start, and their keys.

    Of a record without a key the value is empty, which is no JSON.
    """
    text = np.frombuffer(block, np.uint8)
    opens = _past_blanks(text, starts)
    closes = opens + block.find(b'"', int(opens[0]) + 1) - int(opens[0])
    length = int(closes[0] - opens[0]) - 1
    if 0 <= length <= _LONGEST_NAME and (closes < stops).all():
        colons = np.minimum(_past_blanks(text, closes + 1), stops)
        marks = (text[opens] == _QUOTE) & (text[closes] == _QUOTE) & (text[colons] == _COLON)
        names = text[opens[:, None] + np.arange(1, length + 1)]
        if marks.all() and not _IN_NO_NAME[names].any():
            return colons + 1, slices(block, opens + 1, closes, pa.string())
    places = zip(starts.tolist(), stops.tolist(), strict=True)
    found = [_key(block[start:stop]) for start, stop in places]
    values = starts + np.array([after for after, _ in found])
    return values, pa.array([key for _, key in found], pa.string())


def _key(piece: bytes) -> tuple[int, str]:
    """After how many bytes the value of a record starts, and its key; all if there is no key."""
    text = piece.decode("latin-1")  # one character a byte
    begin = len(text) - len(text.lstrip(_BLANK))
    try:
        _, end = _DECODER.raw_decode(text, begin)
        key = json.loads(piece[begin:end])
        rest = text[end:].lstrip(_BLANK)
        if isinstance(key, str) and rest.startswith(":"):
            key.encode()  # half of a character cannot be stored
            return len(text) - len(rest) + 1, key
    except (ValueError, RecursionError):
        pass
    return len(piece), ""


def _pieces(block: bytes, starts: Offsets, stops: Offsets) -> pa.StringArray:
    """The parts of a block between places, without blanks at their ends."""
    text = np.frombuffer(block, np.uint8)
    starts = np.minimum(_past_blanks(text, starts), stops)
    ends = np.maximum(_past_blanks(text, stops - 1, step=-1) + 1, starts)
    pieces = slices(block, starts, ends, pa.string())
    trimmed = not (_IS_BLANK[text[starts]] | _IS_BLANK[text[ends - 1]]).any()
    return pieces if trimmed else pc.ascii_trim(pieces, _BLANK)


def _past_blanks(text: npt.NDArray[np.uint8], at: Offsets, step: int = 1) -> Offsets:
    """The next places without a blank, if they are near."""
    for _ in range(_MOST_BLANKS):
        at = np.clip(at, 0, len(text) - 1)
        blank = _IS_BLANK[text[at]]
        if not blank.any():
            break
        at = at + step * blank
    return np.clip(at, 0, len(text) - 1)


def _fields(
    pieces: pa.StringArray, paths: Sequence[str], damaged: dict[int, str]
) -> tuple[pa.StringArray, dict[str, pa.StringArray]]:
    """The JSON texts, `null` where damaged, and their fields; finds what else is damaged."""
    raws = replaced(pieces, sorted(damaged), ["null"] * len(damaged))
    try:
        raws.validate(full=True)
    except pa.ArrowInvalid:
        raws = _without(raws, [_is_utf8(raw.as_buffer()) for raw in raws], damaged)
    try:
        return raws, _taken_out(raws, paths)
    except duckdb.InvalidInputException:
        valid = _asked("json_valid(raw)", raws).to_pylist()
        raws = _without(raws, valid, damaged)
        return raws, _taken_out(raws, paths)


def _taken_out(raws: pa.StringArray, paths: Sequence[str]) -> dict[str, pa.StringArray]:
    """The fields of JSON texts.

    Raises:
        duckdb.InvalidInputException: one is no JSON.
    """
    listed = ", ".join(f"'$.{path}'" for path in paths)
    found = _asked(f"json_extract(raw, [{listed}])", raws).flatten()
    places = (np.arange(i, len(found), len(paths)) for i in range(len(paths)))
    return {path: found.take(pa.array(at)) for path, at in zip(paths, places, strict=True)}


def _asked(what: str, raws: pa.StringArray) -> pa.Array:
    """A column that DuckDB makes of texts, in their order."""
    texts = _database().cursor().from_arrow(pa.table({"raw": raws}))
    return texts.project(what).to_arrow_table().column(0).combine_chunks()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def _without(raws: pa.StringArray, sound: list[bool], damaged: dict[int, str]) -> pa.StringArray:
    """The texts with `null` for those that are not sound, which are noted."""
    bad = [i for i, fine in enumerate(sound) if not fine]
    damaged |= {i: _why(raws[i].as_buffer().to_pybytes()) for i in bad}
    return replaced(raws, bad, ["null"] * len(bad))


def _is_utf8(text: pa.Buffer) -> bool:
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _why(text: bytes) -> str:
    """Why a record could not be parsed."""
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error.reason})"
    except UnicodeEncodeError as error:
        return f"not Unicode ({error.reason})"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return "not JSON"


def _shown(piece: bytes) -> str:
    """The start of a record that could not be read, to find it by."""
    return piece[:_SHOWN_BYTES].decode("utf-8", errors="replace").strip(_BLANK)


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
