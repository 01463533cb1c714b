"""CIDEr-D as pycocoevalcap computes it under the name CIDEr (Vedantam et al., 2015).

Counts are clipped, a Gaussian of width 6 penalises a difference in length (counted in bigrams),
n = 1 … 4 are averaged and the result is multiplied by ten. The document frequencies are those of
this corpus's references, so that no part of a corpus can be scored alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odvla_bench.metrics.text.corpus import Corpus, FloatArray, IntArray
from odvla_bench.metrics.text.ngrams import MAX_ORDER, Grams, Overlap, ranges

_SIGMA = 6.0
_SCALE = 10.0


def add_order(
    score: FloatArray,
    grams: Grams,
    overlap: Sequence[Overlap],
    corpus: Corpus,
    word_count: IntArray,
) -> None:
    """Add to (P,) `score` what the n-grams of one order contribute to each pair's CIDEr.

    Args:
        score: (P,) changed in place; zero before the first order.
        grams: counts of this order.
        overlap: `overlaps(grams, corpus)`.
        corpus: P pairs over T texts.
        word_count: (T,) words of each text.
    """
    idf = _inverse_document_frequency(grams, corpus)[grams.gram]
    norm = np.sqrt(np.bincount(grams.text, (grams.counts * idf) ** 2, minlength=len(word_count)))
    bigrams = np.maximum(word_count - 1, 0)
    for part in overlap:
        hypothesis = corpus.hypothesis[part.pairs]
        clipped = np.minimum(grams.counts[part.row], part.reference_count)
        product = clipped * part.reference_count * idf[part.row] ** 2
        similarity = np.bincount(part.pair, product, minlength=len(score))[part.pairs]
        norms = norm[hypothesis] * norm[part.reference]
        cosine = np.divide(similarity, norms, out=np.zeros_like(norms), where=norms > 0)
        delta = bigrams[hypothesis] - bigrams[part.reference]
        penalty = np.exp(-(delta.astype(np.float64) ** 2) / (2 * _SIGMA**2))
        weight = _SCALE / MAX_ORDER / corpus.reference_count[part.pairs]
        score[part.pairs] += cosine * penalty * weight


def _inverse_document_frequency(grams: Grams, corpus: Corpus) -> FloatArray:
    """(G,) log N - log max(1, number of samples with the n-gram in any reference)."""
    pair_samples = corpus.pair_weight.astype(np.float64)
    if (corpus.reference_count == 1).all():
        text_samples = np.bincount(corpus.reference, pair_samples, minlength=len(corpus.texts))
        gram, samples = grams.gram, np.asarray(text_samples, np.float64)[grams.text]
    else:
        gram, pair = _grams_of_groups(grams, corpus)
        samples = pair_samples[pair]
    documents = np.bincount(gram, samples, minlength=grams.gram_count)
    return np.log(corpus.sample_count) - np.log(np.maximum(documents, 1.0))


def _grams_of_groups(grams: Grams, corpus: Corpus) -> tuple[IntArray, IntArray]:
    """Each distinct (n-gram, pair) with the n-gram in any reference of the pair."""
    within, slot = ranges(np.diff(grams.offset)[corpus.reference])
    gram = grams.gram[grams.offset[corpus.reference[slot]] + within]
    pair = np.repeat(np.arange(len(corpus.hypothesis)), corpus.reference_count)[slot]
    pair, gram = np.divmod(np.unique(pair * grams.gram_count + gram), grams.gram_count)
    return gram, pair
