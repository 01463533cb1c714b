"""METEOR's paraphrase table, cut down to the entries a corpus can use.

The table has 5.27 million entries, and reading them is nearly all that starting METEOR costs. An
entry can only match if both its phrases occur in the corpus. The table is sorted by its first
phrases. An index, made once on each machine, files all entries of a first phrase together under
that phrase's longest pair of neighbouring words, or under its word. Of the entries filed under
what the corpus has, those are kept whose words and pairs of words all are in it.

Words are compared by their pieces, see `runs`; what is not made of those never excludes an entry.
An entry too many changes no score.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

from odvla_bench.errors import InputError
from odvla_bench.metrics.text.java import pycocoevalcap_file
from odvla_bench.metrics.text.runs import corpus_runs, only_pieces, pairs_of, pieces_of
from odvla_bench.provenance import default_cache_dir

_FORMAT = 5
_BLOCK_BYTES = 1 << 22
_COMPRESSED_BYTES = 1_024
"""Blocks of entries from this size on are compressed; smaller ones gain little."""


def write_filtered(texts: Iterable[str], path: Path, *, cache: Path | None = None) -> int:
    """Write the entries `texts` can use, gzipped as METEOR reads them; return their number.

    Args:
        texts: every prediction and reference.
        path: where to write; replaced.
        cache: folder of the index, by default `default_cache_dir`. Where it cannot be
            written, the index is made anew in a temporary folder each time, which takes seconds.

    Raises:
        InputError: the index in `cache` is damaged.
    """
    table = pycocoevalcap_file("meteor", "data", "paraphrase-en.gz")
    try:
        index = _cached_index(table, cache or default_cache_dir())
    except OSError:
        with tempfile.TemporaryDirectory(prefix="odvla-meteor-") as folder:
            return _write_from(_cached_index(table, Path(folder)), corpus_runs(texts), path)
    try:
        return _write_from(index, corpus_runs(texts), path)
    except (sqlite3.DatabaseError, zlib.error) as error:
        raise InputError(
            f"METEOR's paraphrase index {index} is damaged ({error}). Delete it; it is made anew."
        ) from error


def _write_from(index: Path, runs: set[bytes], path: Path) -> int:
    """Write the entries of `index` whose phrases are made of `runs`; return their number."""
    kept = 0
    wanted = b'["' + b'","'.join([b"", *sorted(runs)]) + b'"]'  # no character to escape
    query = "SELECT entries FROM json_each(?) CROSS JOIN entry ON entry.run = json_each.value"
    database = sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)
    with closing(database), gzip.open(path, "wb", 1) as out:
        for (block,) in database.execute(query, (wanted.decode(),)):
            usable = _usable(_unpack(block).split(b"\n"), runs)
            out.writelines(b"%b\n%b\n%b\n" % entry for entry in usable)
            kept += len(usable)
    return kept


def _usable(lines: list[bytes], runs: set[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    """Those of one first phrase's entries whose phrases are made of `runs`.

    An entry is three lines: probability, phrase, paraphrase.
    """
    if not _occurs(pieces_of(lines[1]), runs):
        return []
    paraphrases = only_pieces(b"\n".join(lines[2::3])).split(b"\n")
    entries = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    return [
        entry
        for entry, pieces in zip(entries, paraphrases, strict=True)
        if _occurs(pieces.split(), runs)
    ]


def _occurs(pieces: list[bytes], runs: set[bytes]) -> bool:
    """Whether a phrase's pieces, and its pairs of neighbouring pieces, are all among `runs`."""
    return runs.issuperset(pieces) and runs.issuperset(pairs_of(pieces))


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
    """Make the index: a table from a run of a first phrase to that phrase's entries."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE entry (run TEXT, entries BLOB)")
        db.executemany("INSERT INTO entry VALUES (?, ?)", _filed_entries(table))
        db.execute("CREATE INDEX by_run ON entry (run)")


def _filed_entries(table: Path) -> Iterator[tuple[str, bytes]]:
    """Run and entries of each first phrase; of one cut in two by a block, twice."""
    for lines in _line_blocks(table):
        start = 0
        for phrase, same in groupby(lines[1::3]):
            stop = start + 3 * sum(1 for _ in same)
            pieces = pieces_of(phrase)
            run = max(pairs_of(pieces) or pieces, key=len, default=b"")
            yield run.decode(), _pack(b"\n".join(lines[start:stop]))
            start = stop


def _line_blocks(table: Path) -> Iterator[list[bytes]]:
    """The table's lines without their ends, whole entries at a time."""
    with gzip.open(table, "rb") as f:
        rest: list[bytes] = [b""]
        while block := f.read(_BLOCK_BYTES):
            lines = [*rest[:-1], *(rest[-1] + block).split(b"\n")]
            whole = (len(lines) - 1) // 3 * 3
            rest = lines[whole:]
            yield lines[:whole]


def _pack(entries: bytes) -> bytes:
    """Entries as stored: compressed if that is worth its while."""
    return entries if len(entries) < _COMPRESSED_BYTES else zlib.compress(entries, 1)


def _unpack(block: bytes) -> bytes:
    """Stored entries; they start with a digit, and zlib's streams with an x."""
    return zlib.decompress(block) if block.startswith(b"x") else block
