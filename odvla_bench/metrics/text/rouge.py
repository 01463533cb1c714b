"""ROUGE-L as pycocoevalcap computes it (Lin, 2004), with beta 1.2.

Tokens are what single spaces separate, so that a double space makes an empty token and two empty
strings match. Precision and recall are maximised over the references separately.
"""

from __future__ import annotations

import numpy as np

from odvla_bench.metrics.text.common_subsequence import common_lengths
from odvla_bench.metrics.text.corpus import Corpus, FloatArray
from odvla_bench.metrics.text.ngrams import number_words

_BETA_SQUARED = 1.2**2


def rouge_l(corpus: Corpus) -> FloatArray:
    """(P,) ROUGE-L of each pair."""
    words = number_words(corpus.texts, separator=" ")
    single = len(corpus.reference) == len(corpus.hypothesis)
    hypothesis = corpus.hypothesis
    if not single:
        hypothesis = np.repeat(hypothesis, corpus.reference_count)
    common = common_lengths(words, hypothesis, corpus.reference)
    precision, recall = (common / words.length[texts] for texts in (hypothesis, corpus.reference))
    if not single:
        precision, recall = (
            np.maximum.reduceat(each, corpus.offset[:-1]) for each in (precision, recall)
        )
    weight = recall + _BETA_SQUARED * precision
    product = (1 + _BETA_SQUARED) * precision * recall
    return np.divide(product, weight, out=np.zeros(len(weight)), where=weight > 0)
