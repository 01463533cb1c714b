"""Scores of generated text: BLEU, METEOR, ROUGE-L, CIDEr and BERTScore."""

from odvla_bench.metrics.text.intervals import Interval, Statistic, bootstrap_intervals
from odvla_bench.metrics.text.scoring import TextOptions, TextScores, score_text

__all__ = [
    "Interval",
    "Statistic",
    "TextOptions",
    "TextScores",
    "bootstrap_intervals",
    "score_text",
]
