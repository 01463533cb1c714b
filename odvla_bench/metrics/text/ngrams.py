"""The n-grams of a corpus as integers, counted once for BLEU and CIDEr.

One sort puts all 4-grams into lexicographic order, so that those sharing their first n words stand
together: the n-grams of every order come out of the same sort. A second sort, within each text,
counts them.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from odvla_bench.metrics.text.corpus import LOOKED_UP_AT_ONCE, Corpus, IntArray, numbers_of

MAX_ORDER = 4
_PAIR_BITS = 31
"""Two pairs of words must fit into one 64-bit key."""


class Grams(NamedTuple):
    """The distinct n-grams of each text for one n, text after text, sorted by n-gram."""

    order: int
    """n."""
    text: IntArray
    """(K,) text of each row."""
    gram: IntArray
    """(K,) n-gram id in [0, `gram_count`)."""
    counts: IntArray
    """(K,) how often the text has the n-gram."""
    offset: IntArray
    """(T + 1,) first row of each text."""
    gram_count: int

    def count_of(self, text: IntArray, gram: IntArray) -> IntArray:
        """How often each of M texts has each of M n-grams."""
        if not len(self.gram):
            return np.zeros(len(gram), np.int64)
        keys = self.text * self.gram_count + self.gram
        wanted = text * self.gram_count + gram
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, self.counts[at], 0)


class Words(NamedTuple):
    """The words of T texts as numbers."""

    ids: IntArray
    """(M,) all words, text after text, numbered from 1 up."""
    length: IntArray
    """(T,) words of each text."""
    start: IntArray
    """(T,) where each text's words start."""
    vocabulary: int
    """The first unused number."""

    def of(self, text: int) -> IntArray:
        """The words of one text."""
        return self.ids[self.start[text] : self.start[text] + self.length[text]]


def number_words(texts: Sequence[str], separator: str | None = None) -> Words:
    """The words of T texts, split at each separator, or by default at runs of white space."""
    vocabulary: defaultdict[str, int] = defaultdict(count(1).__next__)
    ids, lengths = array("I"), array("Q")
    waiting: list[str] = []
    for text in texts:
        words = text.split(separator)
        lengths.append(len(words))
        waiting += words
        if len(waiting) >= LOOKED_UP_AT_ONCE:
            ids.extend(array("I", numbers_of(vocabulary, waiting)))
            waiting.clear()
    ids.extend(array("I", numbers_of(vocabulary, waiting)))
    length = np.frombuffer(lengths, np.int64)
    start = np.cumsum(length) - length
    return Words(np.frombuffer(ids, np.int32), length, start, len(vocabulary) + 1)


class NgramTable:
    """Word lengths and n-gram counts of T texts, split on white space."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Split, number and sort the words of `texts`."""
        words = number_words(texts)
        self.word_count = words.length
        windows = _windows(words.ids, words.length)
        unique, inverse = np.unique(_pack(windows, words.vocabulary), return_inverse=True)
        first = np.empty(len(unique), np.int64)
        first[inverse] = np.arange(len(inverse))
        self._window = windows[:, first]
        text = np.repeat(np.arange(len(texts)), self.word_count)
        self._key = text * len(unique) + inverse
        self._key.sort()

    def orders(self) -> Iterator[Grams]:
        """The counts for n = 1, 2, 3, 4."""
        size = max(self._window.shape[1], 1)
        text, window = np.divmod(self._key, size)
        new_text = _changes(text)
        new_gram = np.zeros(self._window.shape[1], bool)
        for n in range(1, MAX_ORDER + 1):
            last_word = self._window[n - 1]
            new_gram |= _changes(last_word)
            gram_of_window = np.cumsum(new_gram) - 1
            gram = gram_of_window[window]
            start = np.flatnonzero(_changes(gram) | new_text)
            count = np.diff(start, append=len(gram))
            # A window that runs over the end of its text holds zeros and is no n-gram.
            whole = last_word[window[start]] > 0
            start, count = start[whole], count[whole]
            row_text = text[start]
            offset = np.searchsorted(row_text, np.arange(len(self.word_count) + 1))
            yield Grams(n, row_text, gram[start], count, offset, int(new_gram.sum()))


class Overlap(NamedTuple):
    """The n-grams of each pair's prediction beside their counts in one reference of that pair."""

    pair: IntArray
    """(E,) pair of each row; rows of a pair stand together."""
    row: IntArray
    """(E,) row of the prediction's n-gram in `Grams`."""
    reference: IntArray
    """(P',) text of the reference, for those pairs in `pairs`."""
    pairs: IntArray
    """(P',) the pairs that have this reference, ascending."""
    at: IntArray
    """(E,) position of each row among the rows of all pairs' predictions."""
    reference_count: IntArray
    """(E,) how often the reference has the n-gram."""


def overlaps(grams: Grams, corpus: Corpus) -> Iterator[Overlap]:
    """The first reference of all pairs, then the second of those that have one, and so on."""
    sizes = np.diff(grams.offset)[corpus.hypothesis]
    base = np.cumsum(sizes) - sizes
    for k in range(int(corpus.reference_count.max())):
        pairs = np.flatnonzero(corpus.reference_count > k)
        reference = corpus.reference[corpus.offset[pairs] + k]
        within, owner = ranges(sizes[pairs])
        pair = pairs[owner]
        row = grams.offset[corpus.hypothesis[pair]] + within
        counts = grams.count_of(reference[owner], grams.gram[row])
        yield Overlap(pair, row, reference, pairs, base[pair] + within, counts)


def ranges(sizes: IntArray) -> tuple[IntArray, IntArray]:
    """0 … size-1 for each size, and the index of the size each number belongs to."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner], owner


def _windows(words: IntArray, word_count: IntArray) -> IntArray:
    """(4, M) each word and its three followers, 0 beyond the end of its text."""
    text = np.repeat(np.arange(len(word_count)), word_count)
    place = np.arange(len(words)) + (MAX_ORDER - 1) * text
    padded = np.zeros(len(words) + (MAX_ORDER - 1) * len(word_count), np.int64)
    padded[place] = words
    return np.stack([padded[place + k] for k in range(MAX_ORDER)])


def _pack(windows: IntArray, vocabulary: int) -> IntArray:
    """(M,) one integer for each window, ordered as the windows are."""
    head = windows[0] * vocabulary + windows[1]
    tail = windows[2] * vocabulary + windows[3]
    if 2 * vocabulary.bit_length() <= _PAIR_BITS:
        return head * vocabulary**2 + tail
    pairs, rank = np.unique(np.concatenate([head, tail]), return_inverse=True)
    return rank[: len(head)] * len(pairs) + rank[len(head) :]


def _changes(values: IntArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each value differs from the one before; the first does."""
    changed = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed
