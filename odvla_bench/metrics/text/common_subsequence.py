"""Lengths of longest common subsequences of many pairs of texts at once.

Bit-parallel rows (Hyyrö, Bit-Parallel LCS-length Computation Revisited, 2004): one integer of as
many bits as the shorter text has words holds a row of the table, and each word of the longer text
is a step. The steps of many pairs are taken together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from odvla_bench.metrics.text.corpus import IntArray
from odvla_bench.metrics.text.ngrams import Words

_MOST_BITS = 128
"""Words of the shorter text up to which pairs are taken together; Python's integers beyond."""
_FEWEST_TOGETHER = 64
"""Pairs below which numpy's calls cost more than they save."""
_CELLS_AT_ONCE = 1 << 24
_FEW_WORDS = 8
"""Words up to which texts are not told apart by their length; they fit into a byte."""
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
"""Bits set in each byte."""


def common_lengths(words: Words, first: IntArray, second: IntArray) -> IntArray:
    """(E,) length of the longest common subsequence of each pair of texts, in words.

    Args:
        words: of T texts.
        first: (E,) texts.
        second: (E,) texts.
    """
    if words.length.max() <= _FEW_WORDS:
        return _of_few_words(words, first, second)
    swap = words.length[first] > words.length[second]
    short, long = np.where(swap, second, first), np.where(swap, first, second)
    lengths = np.empty(len(first), np.int64)
    for part in _parts(words.length, short, long):
        a, b = short[part], long[part]
        if len(part) >= _FEWEST_TOGETHER and words.length[a].max() <= _MOST_BITS:
            lengths[part] = _together(_padded(words, a, -1), _padded(words, b, -2))
        else:
            lengths[part] = [
                _alone(words.of(one), words.of(other)) for one, other in zip(a, b, strict=True)
            ]
    return lengths


def _of_few_words(words: Words, first: IntArray, second: IntArray) -> IntArray:
    """(E,) lengths where no text has more than `_FEW_WORDS`: answers, of which many are equal."""
    every = np.arange(len(words.length))
    one = _padded(words, every, -1)
    other = np.where(one < 0, -2, one)
    step = _CELLS_AT_ONCE // _FEW_WORDS**2
    parts = [slice(start, start + step) for start in range(0, len(first), step)]
    return np.concatenate(
        [_together(one.take(first[p], axis=1), other.take(second[p], axis=1)) for p in parts]
    )


def _parts(count: IntArray, short: IntArray, long: IntArray) -> Iterator[IntArray]:
    """Indices of pairs of texts alike in length, so many that their table is not too large."""
    # Up to 8 words and all powers of two beyond; NumPy sorts 16-bit integers by their digits.
    exponent = np.maximum(np.frexp(count - 0.5)[1], 3).astype(np.uint16)
    kind = exponent[short] + 256 * exponent[long]
    order = np.argsort(kind, kind="stable")
    cells = np.cumsum(1 << (kind % 256 + kind // 256)[order].astype(np.int64)) // _CELLS_AT_ONCE
    change = (np.diff(kind[order]) != 0) | (np.diff(cells) != 0)
    yield from np.split(order, np.flatnonzero(change) + 1)


def _padded(words: Words, texts: IntArray, filler: int) -> IntArray:
    """(L, E) the words of E texts, below each other, with `filler` beyond a text's end."""
    start, count = words.start[texts], words.length[texts]
    rows = np.empty((int(count.max()), len(texts)), np.int32)
    for k, row in enumerate(rows):
        row[:] = np.where(count > k, words.ids.take(start + k, mode="clip"), filler)
    return rows


def _together(short: IntArray, long: IntArray) -> IntArray:
    """(E,) lengths for (S, E) and (L, E) words; unlike fillers match nothing."""
    places = _places(short, long)
    free = np.full(places.shape[1:], np.iinfo(places.dtype).max, places.dtype)
    for step in places:
        carry: npt.NDArray[np.bool_] | None = None
        for row, mask in zip(free, step, strict=True):
            matched = row & mask
            total = row + matched
            over = total < row
            if carry is not None:
                total += carry
                over |= carry & (total == 0)
            np.bitwise_or(total, row ^ matched, out=row)
            carry = over
    taken = _ONES[(~free).view(np.uint8)].reshape(*free.shape, -1)
    return taken.sum((0, 2), dtype=np.int64)


def _places(short: IntArray, long: IntArray) -> npt.NDArray[np.unsignedinteger[Any]]:
    """(L, W, E) the places in the shorter text of each word of the longer, as bits of integers."""
    bytes_each = min(8, 1 << max(0, (len(short) - 1) // 8).bit_length())
    blocks = -(-len(short) // (8 * bytes_each))
    places = np.zeros((len(long), blocks, short.shape[1], bytes_each), np.uint8)
    for i, word in enumerate(short):
        block, byte = divmod(i // 8, bytes_each)
        places[:, block, :, byte] |= (long == word).view(np.uint8) << np.uint8(i % 8)
    return places.view(f"<u{bytes_each}")[..., 0]


def _alone(short: IntArray, long: IntArray) -> int:
    """The length for one pair of any size, on Python's integers."""
    places: dict[int, int] = {}
    for i, word in enumerate(short.tolist()):
        places[word] = places.get(word, 0) | 1 << i
    free = full = (1 << len(short)) - 1
    for word in long.tolist():
        if mask := places.get(word):
            matched = free & mask
            free = (free + matched) | (free ^ matched)
    return (full & ~free).bit_count()
