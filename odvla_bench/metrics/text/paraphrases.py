"""METEOR's paraphrase table, cut down to the entries a corpus can use.

The table has 5.27 million entries, and reading them is nearly all that starting METEOR costs. An
entry can only match if both its phrases occur in the corpus. An index, made once on each machine,
files each entry under the longest pair of neighbouring words of its longer phrase, or under the
longest word where there is no pair. Of the entries filed under what the corpus has, those are kept
whose words and pairs of words all are in it.

METEOR normalises texts itself: it lower-cases, splits at punctuation, and drops periods inside
abbreviations. Words are therefore compared by their runs of a-z and 0-9, with and without periods;
what is not made of those never excludes an entry. An entry too many changes no score.
"""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from odvla_bench.metrics.text.java import pycocoevalcap_file

_FORMAT = 2
_PIECE = re.compile(r"[0-9a-z]+")
# Byte → itself if it can be part of a piece, else a space; line ends stay.
_PIECES_ONLY = bytes(
    b if chr(b) in "0123456789abcdefghijklmnopqrstuvwxyz\n" else 0x20 for b in range(256)
)
_BLOCK_BYTES = 1 << 22


def write_filtered(texts: Iterable[str], path: Path, *, cache: Path | None = None) -> int:
    """Write the entries `texts` can use, gzipped as METEOR reads them; return their number.

    Args:
        texts: every prediction and reference.
        path: where to write; replaced.
        cache: folder of the index, by default `$XDG_CACHE_HOME/odvla_bench`. Where it cannot be
            written, the index is made anew in a temporary folder each time, which takes seconds.
    """
    table = pycocoevalcap_file("meteor", "data", "paraphrase-en.gz")
    try:
        index = _cached_index(table, cache or default_cache())
    except OSError:
        with tempfile.TemporaryDirectory(prefix="odvla-meteor-") as folder:
            return _write_from(_cached_index(table, Path(folder)), corpus_runs(texts), path)
    return _write_from(index, corpus_runs(texts), path)


def default_cache() -> Path:
    """The user's cache folder of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odvla_bench"


def corpus_runs(texts: Iterable[str]) -> set[bytes]:
    """The pieces and pairs of neighbouring pieces that METEOR's normaliser can make of `texts`.

    A piece is a run of a-z and 0-9; the pieces of a pair are separated by a space.
    """
    pieces: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for text in map(str.lower, texts):
        found = _PIECE.findall(text)
        pieces.update(found)
        pairs.update(pairwise(found))
        if "." in text:
            found, joints = _without_periods(text)
            pieces.update(found)
            pairs.update(joints)
    return {run.encode() for run in (*pieces, *map(" ".join, pairs))}


def _without_periods(text: str) -> tuple[list[str], Iterator[tuple[str, str]]]:
    """The pieces of `text` with some words' periods dropped, and how those words may join."""
    forms = [
        (with_period, without)
        for word in text.split()
        if (with_period := _PIECE.findall(word))
        and (without := _PIECE.findall(word.replace(".", "")))
    ]
    joints = (
        (left[-1], right[0])
        for before, after in pairwise(forms)
        for left in before
        for right in after
    )
    return [piece for _, without in forms for piece in without], joints


def _write_from(index: Path, runs: set[bytes], path: Path) -> int:
    """Write the entries of `index` whose phrases are made of `runs`; return their number."""
    kept = 0
    query = "SELECT entries FROM entry WHERE run = ?"
    database = sqlite3.connect(f"file:{index}?mode=ro", uri=True)
    with closing(database), gzip.open(path, "wb", 1) as out:
        for run in [b"", *sorted(runs)]:
            for (block,) in database.execute(query, (run,)):
                usable = _usable(zlib.decompress(block).splitlines(keepends=True), runs)
                out.writelines(usable)
                kept += len(usable)
    return kept


def _usable(lines: list[bytes], runs: set[bytes]) -> list[bytes]:
    """Those of a block's entries whose phrases are made of `runs`."""
    pieces = _pieces_of_lines(lines)
    return [
        b"".join(lines[k - 1 : k + 2])
        for k in range(1, len(lines), 3)
        if runs.issuperset(pieces[k].split())
        and runs.issuperset(pieces[k + 1].split())
        and runs.issuperset(_pairs(pieces[k]))
        and runs.issuperset(_pairs(pieces[k + 1]))
    ]


def _pairs(phrase: bytes) -> list[bytes]:
    """The pairs of neighbouring pieces of a phrase."""
    words = phrase.split()
    return [a + b" " + b for a, b in pairwise(words)]


def _cached_index(table: Path, folder: Path) -> Path:
    """The index of `table` in `folder`, made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """
    with table.open("rb") as f:
        f.seek(-8, os.SEEK_END)
        checksum = f.read(4)[::-1].hex()
    index = folder / f"meteor-paraphrases-{checksum}-v{_FORMAT}.sqlite"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as making:
            unfinished = Path(making) / index.name
            _make_index(table, unfinished)
            unfinished.replace(index)
    return index


def _make_index(table: Path, path: Path) -> None:
    """Make the index: a table from a run of the longer phrase to the entries, compressed."""
    buckets: dict[bytes, bytearray] = {}
    for lines in _line_blocks(table):
        pieces = _pieces_of_lines(lines)
        for k in range(0, len(lines), 3):
            phrase = max(pieces[k + 1], pieces[k + 2], key=len)
            key = max(_pairs(phrase) or phrase.split(), key=len, default=b"")
            bucket = buckets.get(key)
            if bucket is None:
                bucket = buckets[key] = bytearray()
            bucket += b"".join(lines[k : k + 3])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE entry (run BLOB PRIMARY KEY, entries BLOB) WITHOUT ROWID")
        db.executemany(
            "INSERT INTO entry VALUES (?, ?)",
            ((key, zlib.compress(buckets[key], 1)) for key in sorted(buckets)),
        )


def _pieces_of_lines(lines: list[bytes]) -> list[bytes]:
    """The lines with all but pieces made spaces, without line ends."""
    return b"".join(lines).translate(_PIECES_ONLY).split(b"\n")


def _line_blocks(table: Path) -> Iterator[list[bytes]]:
    """The table's lines with their ends, whole entries at a time."""
    with gzip.open(table, "rb") as f:
        rest: list[bytes] = []
        while block := f.readlines(_BLOCK_BYTES):
            lines = rest + block
            whole = len(lines) // 3 * 3
            rest = lines[whole:]
            yield lines[:whole]
