"""Scoring a corpus of texts: one call, the reference implementations' numbers, and a signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odvla_bench.metrics.signature import format_signature
from odvla_bench.metrics.text import bleu, cider, meteor
from odvla_bench.metrics.text.corpus import Corpus, FloatArray, IntArray, pair_up, read_samples
from odvla_bench.metrics.text.intervals import (
    Interval,
    Statistic,
    bootstrap_intervals,
    mean_statistic,
)
from odvla_bench.metrics.text.java import java_version
from odvla_bench.metrics.text.ngrams import NgramTable, overlaps
from odvla_bench.metrics.text.rouge import rouge_l
from odvla_bench.metrics.text.tokenizer import tokenize
from odvla_bench.provenance import package_version
from odvla_bench.registry import suggest

if TYPE_CHECKING:
    from odvla_bench.metrics.text.bertscore import BertScorer

CAPTION_METRICS = ("bleu", "meteor", "rouge_l", "cider")
METRICS = (*CAPTION_METRICS, "bertscore")


@dataclass(frozen=True)
class TextOptions:
    """How to run the scorers; nothing here but the BERTScore model can move a number."""

    bertscore_model: str = "roberta-large"
    """A model's name, or the path of a folder that holds one."""
    bertscore_layer: int | None = None
    """Whose output to compare; by default bert-score's choice for the name, 17 for the default."""
    timeout_s: float | None = None
    """Wall-clock limit of each Java program; by default it grows with the corpus."""
    workers: int | None = None
    """JVMs for METEOR; by default one for each core."""
    cache: Path | None = None
    """Folder for METEOR's index; by default the user's cache folder."""


@dataclass(frozen=True)
class TextScores:
    """Scores of N predictions, in pycocoevalcap's own scale."""

    statistics: tuple[Statistic, ...]
    """What the scores are computed from, for `intervals`."""
    choices: Mapping[str, object]
    """Every choice that can move a number."""

    @property
    def signature(self) -> str:
        """The choices as a string, with a place for a build's fingerprint."""
        return format_signature(self.choices.items())

    @property
    def corpus(self) -> dict[str, float]:
        """Score of the whole corpus by name: `Bleu_1` … `Bleu_4`, `METEOR`, `ROUGE_L`, `CIDEr`."""
        return {
            name: float(value)
            for statistic in self.statistics
            for name, value in zip(statistic.names, statistic.corpus(), strict=True)
        }

    @property
    def per_sample(self) -> dict[str, FloatArray]:
        """(N,) score of each sample by name; BLEU and METEOR of a corpus are not their means."""
        return {
            name: column
            for statistic in self.statistics
            for name, column in zip(statistic.names, statistic.per_sample().T, strict=True)
        }

    def intervals(
        self, clusters: Sequence[object] | None = None, **options: Any
    ) -> dict[str, Interval]:
        """Bootstrap intervals by name; see `intervals.bootstrap_intervals`."""
        return bootstrap_intervals(self.statistics, clusters, **options)


def score_text(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = CAPTION_METRICS,
    tokenizer: str = "ptb",
    options: TextOptions | None = None,
) -> TextScores:
    """Captioning scores of a corpus, equal to pycocoevalcap's and bert-score's.

    Args:
        predictions: N strings; an empty one stands for no answer.
        references: N non-empty sequences of strings.
        metrics: any of `"bleu"`, `"meteor"`, `"rouge_l"`, `"cider"`, `"bertscore"`.
        tokenizer: see `tokenizer.tokenize`; BERTScore always reads the texts as they are.
        options: how to run, and the BERTScore model.

    Raises:
        PredictionError: the corpus cannot be scored; the message lists rows.
        UnknownNameError: no such metric or tokenizer.
        JavaError: PTB or METEOR failed, took too long, or found no Java runtime.

    >>> scores = score_text(["a red car", "no"], [["a red car"], ["yes", "no"]],
    ...                     metrics=["rouge_l"], tokenizer="none")
    >>> scores.corpus
    {'ROUGE_L': 1.0}
    """
    for metric in metrics:
        if metric not in METRICS:
            raise suggest(metric, list(METRICS), kind="metric")
    samples = read_samples(predictions, references)
    options = options or TextOptions()
    # First, so that a model that is not there is told before minutes of METEOR.
    bert = _bert_scorer(options) if "bertscore" in metrics else None
    found: dict[str, Statistic] = {}
    if set(metrics) & set(CAPTION_METRICS):
        corpus = pair_up(tokenize(samples, tokenizer, timeout_s=options.timeout_s))
        for given, scorer in _SCORERS.items():
            if given & set(metrics):
                found |= scorer(corpus, options)
    notes = dict(_NOTES)
    if bert is not None:
        found["bertscore"] = _bertscore_statistic(pair_up(samples), bert)
        notes["bertscore"] = bert.signature
    notes = {metric: notes[metric] for metric in METRICS if metric in metrics}
    return TextScores(
        tuple(found[metric] for metric in notes),
        _choices(samples.reference_count, tokenizer, notes),
    )


def _ngram_statistics(corpus: Corpus, _: TextOptions) -> dict[str, Statistic]:
    """BLEU and CIDEr from one table of n-grams."""
    table = NgramTable(corpus.texts)
    pairs = len(corpus.hypothesis)
    counts = bleu.length_statistics(corpus, table.word_count)
    score = np.zeros(pairs)
    for grams in table.orders():
        overlap = list(overlaps(grams, corpus))
        counts[:, grams.order - 1] = bleu.count_matches(grams, overlap, pairs)
        cider.add_order(score, grams, overlap, corpus, table.word_count)
    names = tuple(f"Bleu_{n}" for n in range(1, 5))
    return {
        "bleu": Statistic(names, counts[corpus.pair], bleu.finish),
        "cider": mean_statistic(["CIDEr"], score[corpus.pair, None]),
    }


def _rouge_statistics(corpus: Corpus, _: TextOptions) -> dict[str, Statistic]:
    return {"rouge_l": mean_statistic(["ROUGE_L"], rouge_l(corpus)[corpus.pair][:, None])}


def _meteor_statistics(corpus: Corpus, options: TextOptions) -> dict[str, Statistic]:
    counts = meteor.meteor_statistics(
        corpus, timeout_s=options.timeout_s, workers=options.workers, cache=options.cache
    )
    return {
        "meteor": Statistic(
            ("METEOR",), counts[corpus.pair], lambda sums: meteor.finish(sums)[..., None]
        )
    }


_SCORERS: Mapping[frozenset[str], Callable[[Corpus, TextOptions], dict[str, Statistic]]] = {
    frozenset({"bleu", "cider"}): _ngram_statistics,
    frozenset({"rouge_l"}): _rouge_statistics,
    frozenset({"meteor"}): _meteor_statistics,
}


_NOTES = {
    "bleu": "closest,pooled",
    "meteor": "1.5-en-norm",
    "rouge_l": "beta1.2",
    "cider": "D,sigma6,df-corpus",
}


def _bert_scorer(options: TextOptions) -> BertScorer:
    from odvla_bench.metrics.text.bertscore import load_scorer  # imports torch

    return load_scorer(options.bertscore_model, options.bertscore_layer)


def _bertscore_statistic(corpus: Corpus, scorer: BertScorer) -> Statistic:
    names = [f"BERTScore_{part}" for part in ("P", "R", "F1")]
    return mean_statistic(names, scorer.score(corpus)[corpus.pair])


def _choices(
    reference_count: IntArray, tokenizer: str, notes: Mapping[str, str]
) -> dict[str, object]:
    """Every choice that can move a number."""
    fewest, most = int(reference_count.min()), int(reference_count.max())
    choices: dict[str, object] = {
        "n": len(reference_count),
        "refs": most if fewest == most else f"{fewest}-{most}",
        **notes,
    }
    captions = any(metric in notes for metric in CAPTION_METRICS)
    if captions:
        choices["tok"] = tokenizer
    if "meteor" in notes or (captions and tokenizer.startswith("ptb")):
        choices |= {"pycocoevalcap": package_version("pycocoevalcap"), "java": java_version()}
    return choices
