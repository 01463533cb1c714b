"""METEOR's synonyms (WordNet's), cut down to the words that a corpus can look up.

METEOR looks up each token, its bases in a list of exceptions ("men": "man"), and otherwise what the
first change of its ending gives that is listed. A listed word is kept if the corpus may have a
token that leads to it: its last piece, see `runs`, is one of the corpus's or comes of one, and its
other pieces are the corpus's. A word too many changes no score.
"""

from __future__ import annotations

import sqlite3
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from odvla_bench.metrics.text.runs import pieces_of

_FOLDER = "synonym"
_SYNSETS, _EXCEPTIONS, _RELATIONS = (
    f"english.{kind}" for kind in ("synsets", "exceptions", "relations")
)
# WordNet's rules of detachment, as METEOR 1.5 has them; "ful" is put aside and back on.
_ENDINGS = {
    b"s": [b""],
    b"ses": [b"s"],
    b"xes": [b"x"],
    b"zes": [b"z"],
    b"ches": [b"ch"],
    b"shes": [b"sh"],
    b"men": [b"man"],
    b"ies": [b"y"],
    b"es": [b"e", b""],
    b"ed": [b"e", b""],
    b"ing": [b"e", b""],
    b"er": [b"", b"e"],
    b"est": [b"", b"e"],
}


def checksum(jar: Path) -> str:
    """The checksum of METEOR's synonyms."""
    with zipfile.ZipFile(jar) as archive:
        return f"{archive.getinfo(f'{_FOLDER}/{_SYNSETS}').CRC:08x}"


def add_to_index(db: sqlite3.Connection, jar: Path) -> None:
    """File each word with its synonym sets under the word's last piece; and the exceptions."""
    with zipfile.ZipFile(jar) as archive:
        synsets, exceptions = (
            archive.read(f"{_FOLDER}/{name}") for name in (_SYNSETS, _EXCEPTIONS)
        )
    filed: defaultdict[str, list[bytes]] = defaultdict(list)
    for word, sets in _entries(synsets):
        last = (pieces_of(word) or [b""])[-1]
        filed[last.decode()] += [word, sets]
    db.execute("CREATE TABLE exceptions (entries BLOB)")
    db.execute("INSERT INTO exceptions VALUES (?)", (exceptions,))
    db.execute("CREATE TABLE synonym (piece TEXT, entries BLOB)")
    rows = ((piece, b"\n".join(lines)) for piece, lines in filed.items())
    db.executemany("INSERT INTO synonym VALUES (?, ?)", rows)
    db.execute("CREATE INDEX by_piece ON synonym (piece)")


def write(db: sqlite3.Connection, pieces: set[bytes], folder: Path) -> None:
    """Write what a corpus of these pieces can use, as METEOR reads it."""
    [(exceptions,)] = db.execute("SELECT entries FROM exceptions")
    kept = [
        entry
        for entry in _entries(exceptions)
        if any(pieces.issuperset(pieces_of(form)) for form in entry[1].split())
    ]
    bases = {base for base, _ in kept}
    last = {piece[-1] for piece in map(pieces_of, bases) if piece} | {b""}
    ends = pieces | last | {base for piece in pieces for base in _bases(piece)}
    wanted = b'["' + b'","'.join(sorted(ends)) + b'"]'
    query = "SELECT entries FROM json_each(?) CROSS JOIN synonym ON synonym.piece = json_each.value"
    words = [
        (word, sets)
        for (lines,) in db.execute(query, (wanted.decode(),))
        for word, sets in _entries(lines)
        if word in bases or pieces.issuperset(pieces_of(word)[:-1])
    ]
    folder.mkdir()
    for name, entries in ((_SYNSETS, words), (_EXCEPTIONS, kept), (_RELATIONS, [])):
        (folder / name).write_bytes(b"".join(b"%b\n%b\n" % entry for entry in entries))


def _entries(lines: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every two lines."""
    each = iter(lines.split(b"\n"))
    return zip(each, each, strict=False)  # an end of line is behind the last


def _bases(word: bytes) -> Iterator[bytes]:
    """What the rules can make of a word."""
    for end, others in _ENDINGS.items():
        if word.endswith(end):
            yield from (word[: -len(end)] + other for other in others)
    if word.endswith(b"ful"):
        for base in _bases(word[:-3]):
            yield from (base, base + b"ful")
