"""METEOR's paraphrases and synonyms, cut down to what a corpus can use.

Reading all of them is nearly all that starting METEOR costs. An index, made once on each machine,
holds them by their words; see `paraphrases` and `synonyms` for how, and for what is kept.
"""

from __future__ import annotations

import sqlite3
import tempfile
import zlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from odvla_bench.errors import InputError
from odvla_bench.metrics.text import paraphrases, synonyms
from odvla_bench.metrics.text.java import pycocoevalcap_file
from odvla_bench.metrics.text.runs import corpus_runs
from odvla_bench.provenance import default_cache_dir

PARAPHRASES = "paraphrases.gz"
SYNONYMS = "synonyms"
_FORMAT = 6


def write_filtered(texts: Iterable[str], folder: Path, *, cache: Path | None = None) -> int:
    """Write the paraphrases and synonyms `texts` can use; return the number of paraphrases.

    Args:
        texts: every prediction and reference.
        folder: where to write the file `PARAPHRASES` and the folder `SYNONYMS`.
        cache: folder of the index, by default `default_cache_dir`. Where it cannot be
            written, the index is made anew in a temporary folder each time, which takes seconds.

    Raises:
        InputError: the index in `cache` is damaged.
    """
    try:
        index = _cached_index(cache or default_cache_dir())
    except OSError:
        with tempfile.TemporaryDirectory(prefix="odvla-meteor-") as making:
            return _write_from(_cached_index(Path(making)), texts, folder)
    try:
        return _write_from(index, texts, folder)
    except (sqlite3.DatabaseError, zlib.error) as error:
        raise InputError(
            f"METEOR's index {index} is damaged ({error}). Delete it; it is made anew."
        ) from error


def _write_from(index: Path, texts: Iterable[str], folder: Path) -> int:
    with closing(sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)) as db:
        runs = corpus_runs(texts, paraphrases.known_pieces(db))
        synonyms.write(db, {run for run in runs if b" " not in run}, folder / SYNONYMS)
        return paraphrases.write(db, runs, folder / PARAPHRASES)


def _cached_index(folder: Path) -> Path:
    """The index in `folder`, made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """
    table = pycocoevalcap_file("meteor", "data", "paraphrase-en.gz")
    jar = pycocoevalcap_file("meteor", "meteor-1.5.jar")
    checksums = f"{paraphrases.checksum(table)}-{synonyms.checksum(jar)}"
    index = folder / f"meteor-{checksums}-v{_FORMAT}.sqlite"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as making:
            unfinished = Path(making) / index.name
            with closing(sqlite3.connect(unfinished)) as db, db:
                db.execute("PRAGMA journal_mode = OFF")
                paraphrases.add_to_index(db, table)
                synonyms.add_to_index(db, jar)
            unfinished.replace(index)
    return index
