"""The runs of a corpus: which words, and which pairs of neighbouring words, METEOR can see in it.

METEOR normalises texts itself: it lower-cases, splits at punctuation, and drops periods inside
abbreviations. A word is therefore taken as its pieces, the runs of a-z and 0-9 in it, once with
and once without its periods. Words are numbered and paired as arrays, block of texts by block: an
object for each word of a long corpus would take longer than everything else METEOR does at start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count, islice, pairwise

import numpy as np

from odvla_bench.metrics.text.corpus import IntArray

_ALPHABET = b"0123456789abcdefghijklmnopqrstuvwxyz"
# Byte → itself if it can be part of a piece, else a space; line ends stay.
_PIECES_ONLY = bytes(b if b in _ALPHABET + b"\n" else 0x20 for b in range(256))
_GAP = b"\0"
"""Stands as a word between two texts, whose words are no neighbours."""
# ASCII byte → lower case, white space → a space, what is not of a word, a period or a gap → a hyphen.
_WORDS_ONLY = bytes(
    b if b in _ALPHABET + b"." + _GAP else 0x20 if chr(b).isspace() and b < 128 else 0x2D
    for b in bytes(range(256)).lower()
)
_TEXTS_AT_ONCE = 4000
_LARGEST_TABLE = 1 << 26
"""Possible pairs of words up to which each has a place in a table; beyond, pairs are sorted."""


def corpus_runs(texts: Iterable[str]) -> set[bytes]:
    """The pieces and pairs of neighbouring pieces that METEOR's normaliser can make of `texts`.

    The pieces of a pair are separated by a space.
    """
    words, blocks = _numbered_words(texts)
    forms = [_forms(word) for word in words]
    # Words without a piece are not there for a phrase.
    there = np.array([bool(some) for some in forms])
    there[0] = True
    if not there.all():
        blocks = [ids[there[ids]] for ids in blocks]
    neighbours = _distinct_neighbours(blocks, len(words))
    within = {run for some in forms for form in some for run in (*form, *pairs_of(form))}
    across = {
        a[-1] + b" " + b[0]
        for left, right in neighbours
        for a in forms[left]  # none in the gap between two texts
        for b in forms[right]
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


def _numbered_words(texts: Iterable[str]) -> tuple[list[bytes], list[IntArray]]:
    """The distinct words of all texts, `_GAP` first, and the words of each block by their number."""
    numbers: defaultdict[bytes, int] = defaultdict(count().__next__)
    numbers[_GAP]
    blocks: list[IntArray] = []
    for block in _blocks(texts):
        words, ids = _number(block)
        blocks.append(np.array([numbers[word] for word in words], np.int32)[ids])
    return list(numbers), blocks


def _blocks(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts put together, with words told apart by, and ending with, one byte of white space."""
    rest = iter(texts)
    gap = f" {_GAP.decode()} "
    while some := [text.replace("\0", "-") for text in islice(rest, _TEXTS_AT_ONCE)]:
        block = gap.join(["", *some, ""])
        if not block.isascii():
            block = " ".join(block.lower().split()) + " "
        yield block.encode().translate(_WORDS_ONLY)


def _number(block: bytes) -> tuple[list[bytes], IntArray]:
    """The distinct words of a block, and the number of each word among them."""
    import pyarrow as pa

    spaces = np.flatnonzero(np.frombuffer(block, np.uint8) == 0x20)
    offsets = np.zeros(len(spaces) + 1, np.int32)
    np.add(spaces, 1, out=offsets[1:], casting="unsafe")
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(block)]
    found = pa.Array.from_buffers(pa.binary(), len(spaces), buffers).dictionary_encode()
    # Through their buffers, since pyarrow's conversions to NumPy import pandas.
    _, _, distinct = found.dictionary.buffers()
    _, ids = found.indices.buffers()
    return distinct.to_pybytes().split(b" ")[:-1], np.frombuffer(ids, np.int32, len(spaces))


def _distinct_neighbours(blocks: list[IntArray], words: int) -> Iterator[tuple[int, int]]:
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
    return zip(left.tolist(), right.tolist(), strict=True)
