"""METEOR's paraphrase table, cut down to the entries a corpus can use.

The table has 5.27 million entries. One can only match if both its phrases occur in the corpus. The
table is sorted by its first phrases. The index files all entries of a first phrase together under
that phrase's longest pair of neighbouring words, or under its word. Of the entries filed under
what the corpus has, those are kept whose words and pairs of words all are in it. The index also
lists the words of all entries, since pairs of other words need not be looked for.

Words are compared by their pieces, see `runs`; what is not made of those never excludes an entry.
An entry too many changes no score.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import zlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from odvla_bench.metrics.text.runs import only_pieces, pairs_of, pieces_of

_BLOCK_BYTES = 1 << 22
_COMPRESSED_BYTES = 1_024
"""Blocks of entries from this size on are compressed; smaller ones gain little."""


def checksum(table: Path) -> str:
    """The checksum of the table, as gzip keeps it."""
    with table.open("rb") as f:
        f.seek(-8, os.SEEK_END)
        return f.read(4)[::-1].hex()


def add_to_index(db: sqlite3.Connection, table: Path) -> None:
    """File each first phrase's entries under one of its runs, and list all phrases' pieces."""
    known: set[bytes] = set()
    db.execute("CREATE TABLE entry (run TEXT, entries BLOB)")
    db.executemany("INSERT INTO entry VALUES (?, ?)", _filed_entries(table, known))
    db.execute("CREATE INDEX by_run ON entry (run)")
    db.execute("CREATE TABLE known (pieces BLOB)")
    db.execute("INSERT INTO known VALUES (?)", (b" ".join(sorted(known)),))


def known_pieces(db: sqlite3.Connection) -> set[bytes]:
    """The pieces of all entries."""
    [(pieces,)] = db.execute("SELECT pieces FROM known")
    return set(pieces.split())


def write(db: sqlite3.Connection, runs: set[bytes], path: Path) -> int:
    """Write the entries made of `runs`, gzipped as METEOR reads them; return their number."""
    kept = 0
    wanted = b'["' + b'","'.join([b"", *sorted(runs)]) + b'"]'  # no character to escape
    query = "SELECT entries FROM json_each(?) CROSS JOIN entry ON entry.run = json_each.value"
    with gzip.open(path, "wb", 1) as out:
        for (block,) in db.execute(query, (wanted.decode(),)):
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


def _filed_entries(table: Path, known: set[bytes]) -> Iterator[tuple[str, bytes]]:
    """Run and entries of each first phrase; of one cut in two by a block, twice.

    All phrases' pieces are added to `known`.
    """
    for lines in _line_blocks(table):
        known.update(pieces_of(b" ".join(lines[2::3])))
        start = 0
        for phrase, same in groupby(lines[1::3]):
            stop = start + 3 * sum(1 for _ in same)
            pieces = pieces_of(phrase)
            known.update(pieces)
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
