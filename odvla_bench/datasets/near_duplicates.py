"""Texts that are nearly the same: minhash of word shingles with banding (Broder 1997)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MIN_WORDS = 12
"""Shorter texts are not compared: they repeat because there is little to say."""

SIMILARITY = 0.8
"""Estimated Jaccard similarity of shingle sets from which two texts are near-duplicates."""

_SHINGLE_WORDS = 4
_HASHES = 32
_BANDS = 8
_MAX_CANDIDATES = 16
_WORD = re.compile(r"[a-z]+")
_CHUNK = 16_384

Hashes = npt.NDArray[np.uint64]


def near_duplicates(texts: Sequence[str], known: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which texts have a near-duplicate among known ones.

    Case, digits and punctuation do not count. Of each text the candidates that share a band of
    its sketch are compared, a few for every band.

    Args:
        texts: N texts of `MIN_WORDS` words or more.
        known: the texts to compare with.

    Returns:
        (N,) bool.
    """
    vocabulary: dict[str, int] = {}
    ours, theirs = sketches(texts, vocabulary), sketches(known, vocabulary)
    found = np.zeros(len(ours), bool)
    for rows in np.split(np.arange(_HASHES), _BANDS):
        band, order, ends = _sorted_bands(theirs[:, rows])
        wanted = _fold(ours[:, rows])
        first = np.searchsorted(band, wanted)
        for step in range(_MAX_CANDIDATES):
            at = np.minimum(first + step, max(ends - 1, 0))
            hit = ~found & (first + step < ends)
            hit[hit] = band[at[hit]] == wanted[hit]
            if not hit.any():
                break
            same = (ours[hit] == theirs[order[at[hit]]]).mean(1)
            found[np.flatnonzero(hit)[same >= SIMILARITY]] = True
    return found


def sketches(texts: Sequence[str], vocabulary: dict[str, int]) -> Hashes:
    """(N, 32) minhashes of the texts' word shingles; new words are added to the vocabulary."""
    parts = [
        _sketch([_ids(t, vocabulary) for t in texts[i : i + _CHUNK]])
        for i in range(0, len(texts), _CHUNK)
    ]
    return np.concatenate([np.zeros((0, _HASHES), np.uint64), *parts])


def _ids(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Word numbers, padded to one shingle."""
    ids = [vocabulary.setdefault(w, len(vocabulary) + 1) for w in _WORD.findall(text.lower())]
    return ids + [0] * (_SHINGLE_WORDS - len(ids))


def _sketch(words: Sequence[list[int]]) -> Hashes:
    counts = np.array([len(w) for w in words])
    flat = np.fromiter((i for w in words for i in w), np.uint64, int(counts.sum()))
    flat = np.r_[flat, np.zeros(_SHINGLE_WORDS, np.uint64)]
    ends = np.cumsum(counts)
    shingle = _fold(np.stack([flat[k : len(flat) - _SHINGLE_WORDS + k] for k in range(4)], -1))
    # A shingle that would reach into the next text repeats the text's first one.
    start = np.repeat(ends - counts, counts)
    inside = np.arange(len(shingle)) <= np.repeat(ends, counts) - _SHINGLE_WORDS
    shingle = np.where(inside, shingle, shingle[start])
    starts = ends - counts
    columns = [np.minimum.reduceat(_mix(shingle ^ s), starts) for s in _SEEDS]
    return np.stack(columns, -1)


def _sorted_bands(rows: Hashes) -> tuple[Hashes, npt.NDArray[Any], int]:
    band = _fold(rows)
    order = np.argsort(band, kind="stable")
    return band[order], order, len(band)


def _fold(rows: Hashes) -> Hashes:
    """(N, K) numbers → (N,) hashes of each row."""
    folded = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        folded = _mix(folded * np.uint64(31) + column)
    return folded


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64: a bijection that spreads every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_SEEDS = np.random.default_rng(0).integers(0, 1 << 63, _HASHES).astype(np.uint64)
