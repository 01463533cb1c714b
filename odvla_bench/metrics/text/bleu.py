"""Corpus BLEU as pycocoevalcap computes it (Papineni et al., 2002).

Counts are clipped by their maximum over the references, the closest reference length counts (the
shorter on a tie), and statistics are pooled over samples before precision and brevity penalty.
1e-15 is added to numerators and 1e-9 to denominators, so that no score is exactly zero by a
missing n-gram.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odvla_bench.metrics.text.corpus import Corpus, FloatArray, IntArray
from odvla_bench.metrics.text.ngrams import MAX_ORDER, Grams, Overlap

_SMALL = 1e-9
_TINY = 1e-15
STATISTICS = 2 * MAX_ORDER + 2
"""Columns: matches for n = 1 … 4, n-grams for n = 1 … 4, prediction and reference length."""


def length_statistics(corpus: Corpus, word_count: IntArray) -> FloatArray:
    """(P, 10) statistics of each pair with all but the matches filled in.

    Args:
        corpus: P pairs over T texts.
        word_count: (T,) words of each text.
    """
    length = word_count[corpus.hypothesis]
    statistics = np.zeros((len(length), STATISTICS))
    for n in range(MAX_ORDER):
        statistics[:, MAX_ORDER + n] = np.maximum(length - n, 0)
    statistics[:, -2] = length
    statistics[:, -1] = _closest_length(corpus, word_count, length)
    return statistics


def count_matches(grams: Grams, overlap: Sequence[Overlap], pairs: int) -> FloatArray:
    """(P,) clipped matches of each pair for one n."""
    first = overlap[0]
    best = first.reference_count.copy()
    for other in overlap[1:]:
        best[other.at] = np.maximum(best[other.at], other.reference_count)
    matches = np.minimum(grams.counts[first.row], best)
    return np.bincount(first.pair, matches, minlength=pairs).astype(np.float64)


def finish(statistics: FloatArray) -> FloatArray:
    """(…, 10) statistics, of one pair or pooled → (…, 4) BLEU-1 to BLEU-4."""
    matches, guesses = statistics[..., :MAX_ORDER], statistics[..., MAX_ORDER : 2 * MAX_ORDER]
    precision = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=-1)
    score = precision ** (1.0 / np.arange(1, MAX_ORDER + 1))
    ratio = (statistics[..., -2:-1] + _TINY) / (statistics[..., -1:] + _SMALL)
    return score * np.exp(np.minimum(1 - 1 / ratio, 0))


def _closest_length(corpus: Corpus, word_count: IntArray, length: IntArray) -> FloatArray:
    """(P,) the reference length nearest to the prediction's, the shorter on a tie."""
    reference = word_count[corpus.reference]
    distance = np.abs(reference - np.repeat(length, corpus.reference_count))
    ranking = distance * (int(word_count.max()) + 1) + reference
    best = np.minimum.reduceat(ranking, corpus.offset[:-1])
    return np.asarray(best % (int(word_count.max()) + 1), np.float64)
