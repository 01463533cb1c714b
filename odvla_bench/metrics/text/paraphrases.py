"""METEOR's paraphrase table, cut down to the entries a corpus can use.

The table has 5.27 million entries, and reading them is nearly all that starting METEOR costs. An
entry can only match if every word of its two phrases occurs in the corpus, so an index, made once
on each machine, files each entry under its longest word.

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
from pathlib import Path

from odvla_bench.metrics.text.java import pycocoevalcap_file

_FORMAT = 1
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
            return _write_from(_cached_index(table, Path(folder)), corpus_pieces(texts), path)
    return _write_from(index, corpus_pieces(texts), path)


def default_cache() -> Path:
    """The user's cache folder of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odvla_bench"


def corpus_pieces(texts: Iterable[str]) -> set[str]:
    """Every run of a-z and 0-9 that METEOR's normaliser can make of `texts`."""
    words = {word for text in texts for word in text.lower().split()}
    return {
        piece
        for word in words
        for form in (word, word.replace(".", ""))
        for piece in _PIECE.findall(form)
    }


def _write_from(index: Path, pieces: set[str], path: Path) -> int:
    """Write the entries of `index` all of whose pieces are in `pieces`; return their number."""
    kept = 0
    allowed = {piece.encode() for piece in pieces}
    with (
        closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as db,
        gzip.open(path, "wb", 1) as out,
    ):
        for piece in ["", *sorted(pieces)]:
            found = db.execute("SELECT entries FROM entry WHERE piece = ?", (piece,)).fetchone()
            if found is None:
                continue
            for entry in _entries(zlib.decompress(found[0]).splitlines(keepends=True)):
                if allowed.issuperset(_pieces_of(entry)):
                    out.write(b"".join(entry))
                    kept += 1
    return kept


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
    """Make the index: a table from each entry's longest piece to its entries, compressed."""
    buckets: dict[bytes, bytearray] = {}
    for lines in _line_blocks(table):
        pieces = b"".join(lines).translate(_PIECES_ONLY).split(b"\n")
        for k in range(0, len(lines), 3):
            phrases = (pieces[k + 1] + b" " + pieces[k + 2]).split()
            key = max(phrases, key=len, default=b"")
            if key not in buckets:
                buckets[key] = bytearray()
            buckets[key] += lines[k] + lines[k + 1] + lines[k + 2]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE entry (piece TEXT PRIMARY KEY, entries BLOB) WITHOUT ROWID")
        db.executemany(
            "INSERT INTO entry VALUES (?, ?)",
            ((key.decode(), zlib.compress(buckets[key], 1)) for key in sorted(buckets)),
        )


def _pieces_of(entry: tuple[bytes, bytes, bytes]) -> list[bytes]:
    """The pieces of an entry's two phrases."""
    return (entry[1] + entry[2]).translate(_PIECES_ONLY).split()


def _entries(lines: list[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Lines by threes: probability, phrase, paraphrase."""
    it = iter(lines)
    return zip(it, it, it, strict=True)


def _line_blocks(table: Path) -> Iterator[list[bytes]]:
    """The table's lines with their ends, whole entries at a time."""
    with gzip.open(table, "rb") as f:
        rest: list[bytes] = []
        while block := f.readlines(_BLOCK_BYTES):
            lines = rest + block
            whole = len(lines) // 3 * 3
            rest = lines[whole:]
            yield lines[:whole]
