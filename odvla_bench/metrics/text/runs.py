"""The runs of a corpus: which words, and which pairs of neighbouring words, METEOR can see in it.

METEOR normalises texts itself: it lower-cases, splits at punctuation, and drops periods inside
abbreviations. A word is therefore taken as its pieces, the runs of a-z and 0-9 in it, once with
and once without its periods. Words are numbered and paired as arrays, block of texts by block: an
object for each word of a long corpus would take longer than everything else METEOR does at start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import islice, pairwise

import numpy as np

from odvla_bench.metrics.text.corpus import IntArray
from odvla_bench.metrics.text.word_numbers import WordNumbers

_ALPHABET = b"0123456789abcdefghijklmnopqrstuvwxyz"
# Byte → itself if it can be part of a piece, else a space; line ends stay.
_PIECES_ONLY = bytes(b if b in _ALPHABET + b"\n" else 0x20 for b in range(256))
_GAP = b"\1"
"""Stands as a word between two texts, whose words are no neighbours."""
# Byte → lower case; white space → a space; what is of no word, no period and no gap → a hyphen.
_WORDS_ONLY = bytes(
    b if b in _ALPHABET + b"." + _GAP else 0x20 if chr(b).isspace() and b < 128 else 0x2D
    for b in bytes(range(256)).lower()
)
_TEXTS_AT_ONCE = 1_000
_KEPT_BYTES = 1 << 24
"""glibc, once it has freed so much in one piece, keeps the memory of smaller arrays for the next
ones; else it asks the system for every page of each block's arrays anew (mallopt(3))."""
_LARGEST_TABLE = 1 << 26
"""Possible pairs of words up to which each has a place in a table; beyond, pairs are sorted."""


def corpus_runs(texts: Iterable[str], known: Set[bytes] | None = None) -> set[bytes]:
    """The pieces and pairs of neighbouring pieces that METEOR's normaliser can make of `texts`.

    Args:
        texts: every prediction and reference.
        known: pieces without which a pair of two words is of no interest; by default all are.

    Returns:
        Pieces, and pairs with a space between their pieces.
    """
    np.empty(_KEPT_BYTES, np.uint8)
    numbers = WordNumbers()
    [gap] = numbers.of(_GAP + b" ").tolist()
    blocks = [numbers.of(block) for block in _blocks(texts)]
    forms = list(map(_forms, numbers.words))
    # Words without a piece are not there for a phrase.
    there = np.array(list(map(bool, forms)))
    there[gap] = True
    if not there.all():
        blocks = [ids[there[ids]] for ids in blocks]
    pairs = _distinct_neighbours(blocks, len(forms))
    last, first = (
        [
            {pieces[end] for pieces in some if known is None or pieces[end] in known}
            for some in forms
        ]
        for end in (-1, 0)
    )
    across = {
        a + b" " + b for left, right in pairs for a in last[left] for b in first[right]
    }  # none with the gap between two texts
    within = {
        run
        for word in {left for left, _ in pairs}
        for form in forms[word]
        for run in (*form, *pairs_of(form))
    }
    return within | across


def pieces_of(phrase: bytes) -> list[bytes]:
    """The runs of a-z and 0-9."""
    return phrase.translate(_PIECES_ONLY).split()


def pairs_of(pieces: list[bytes]) -> list[bytes]:
    """Neighbouring pieces, with a space between them."""
    return [a + b" " + b for a, b in pairwise(pieces)]


def only_pieces(lines: bytes) -> bytes:
    """Each line with spaces in place of all that is not of a-z and 0-9."""
    return lines.translate(_PIECES_ONLY)


def _forms(word: bytes) -> list[list[bytes]]:
    """The pieces of a word with its periods and without; none if it has no piece."""
    phrases = {word, word.replace(b".", b"")}
    return [pieces for phrase in sorted(phrases) if (pieces := pieces_of(phrase))]


def _blocks(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts put together, with words told apart by, and ending with, one byte of white space."""
    rest = iter(texts)
    gap = _GAP.decode()
    while some := [text.replace(gap, "-") for text in islice(rest, _TEXTS_AT_ONCE)]:
        block = f" {gap} ".join([gap, *some, ""])
        if not block.isascii():
            block = " ".join(block.lower().split()) + " "
        yield block.encode().translate(_WORDS_ONLY)


def _distinct_neighbours(blocks: list[IntArray], words: int) -> list[tuple[int, int]]:
    """The distinct pairs of neighbouring words, by their numbers below `words`."""
    kind = np.int32 if words**2 <= _LARGEST_TABLE else np.int64
    codes = (np.multiply(ids[:-1], words, dtype=kind) + ids[1:] for ids in blocks)
    if words**2 <= _LARGEST_TABLE:
        table = np.zeros(words**2, bool)
        for code in codes:
            table[code] = True
        distinct = np.flatnonzero(table)
    else:
        distinct = np.unique(np.concatenate([np.unique(code) for code in codes]))
    left, right = np.divmod(distinct, words)
    return list(zip(left.tolist(), right.tolist(), strict=True))
