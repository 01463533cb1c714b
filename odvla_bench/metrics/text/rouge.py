"""ROUGE-L as pycocoevalcap computes it (Lin, 2004), with beta 1.2.

Tokens are what single spaces separate, so that a double space makes an empty token and two empty
strings match. Precision and recall are maximised over the references separately.
"""

from __future__ import annotations

import numpy as np

from odvla_bench.metrics.text.corpus import Corpus, FloatArray

_BETA_SQUARED = 1.2**2


def rouge_l(corpus: Corpus) -> FloatArray:
    """(P,) ROUGE-L of each pair."""
    scores = np.empty(len(corpus.hypothesis))
    for pair, hypothesis in enumerate(corpus.hypothesis.tolist()):
        scores[pair] = _score(corpus.texts[hypothesis], corpus.references_of(pair))
    return scores


def _score(prediction: str, references: list[str]) -> float:
    tokens = prediction.split(" ")
    places: dict[str, int] = {}
    bit = 1
    for token in tokens:
        places[token] = places.get(token, 0) | bit
        bit <<= 1
    precision = recall = 0.0
    for reference in references:
        other = reference.split(" ")
        common = _common_length(places, bit - 1, other)
        precision = max(precision, common / len(tokens))
        recall = max(recall, common / len(other))
    if not precision:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def _common_length(places: dict[str, int], full: int, other: list[str]) -> int:
    """Length of the longest common subsequence, by bit-parallel rows (Hyyrö, 2004).

    Args:
        places: for each token of the first sequence, the set of its positions as bits.
        full: the set of all positions.
        other: the second sequence.
    """
    free = full
    for token in other:
        if (mask := places.get(token)) is not None:
            matched = free & mask
            free = (free + matched) | (free - matched)
    return (full & ~free).bit_count()
