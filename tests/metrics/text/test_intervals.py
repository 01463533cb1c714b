"""Corpus scores from weights, and intervals by resampling scenes."""

from __future__ import annotations

import numpy as np
import pytest

from odvla_bench.errors import InputError
from odvla_bench.metrics.bootstrap import bootstrap_interval
from odvla_bench.metrics.text import bootstrap_intervals, score_text
from odvla_bench.metrics.text.intervals import mean_statistic

from .corpora import corpus


def test_weights_score_the_corpus_they_describe() -> None:
    predictions, references = corpus(seed=5, size=30)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 3, size=30)
    scores = score_text(predictions, references, metrics=["bleu", "rouge_l"], tokenizer="none")
    rows = np.repeat(np.arange(30), weights)
    repeated = score_text(
        [predictions[i] for i in rows],
        [references[i] for i in rows],
        metrics=["bleu", "rouge_l"],
        tokenizer="none",
    )
    for statistic, other in zip(scores.statistics, repeated.statistics, strict=True):
        np.testing.assert_allclose(
            statistic.weighted(weights.astype(float)), other.corpus(), rtol=1e-12
        )


def test_intervals_of_two_scenes_by_hand() -> None:
    """Two scenes with means 0 and 1: a resample has mean 0, 0.5 or 1, with odds 1:2:1."""
    statistic = mean_statistic(["x"], np.array([[0.0], [0.0], [1.0], [1.0]]))
    scenes = ["a", "a", "b", "b"]
    assert bootstrap_intervals([statistic], scenes, level=0.9)["x"] == (0.0, 1.0)
    assert bootstrap_intervals([statistic], scenes, level=0.3)["x"] == (0.5, 0.5)


def test_intervals_repeat_with_their_seed_and_hold_the_score() -> None:
    predictions, references = corpus(seed=6, size=80)
    scores = score_text(predictions, references, metrics=["bleu", "cider"], tokenizer="none")
    scenes = [i // 8 for i in range(80)]
    first = scores.intervals(scenes, seed=3)
    assert first == scores.intervals(scenes, seed=3)
    assert first != scores.intervals(scenes, seed=4)
    for name in ("Bleu_1", "CIDEr"):
        assert first[name].low < scores.corpus[name] < first[name].high


def test_intervals_are_those_of_the_planning_scores() -> None:
    values = np.random.default_rng(0).normal(size=(60, 1))
    scenes = np.arange(60) // 4
    statistic = mean_statistic(["x"], values)
    expected = bootstrap_interval(statistic.values, scenes, statistic.finish, seed=5)
    found = bootstrap_intervals([statistic], scenes.tolist(), seed=5)["x"]
    assert found == pytest.approx((expected.low.item(), expected.high.item()))


def test_without_scenes_samples_are_drawn() -> None:
    statistic = mean_statistic(["x"], np.arange(10.0)[:, None])
    low, high = bootstrap_intervals([statistic], resamples=100)["x"]
    assert 1.5 < low < 4.5 < high < 7.5


def test_cluster_labels_must_fit() -> None:
    statistic = mean_statistic(["x"], np.ones((3, 1)))
    with pytest.raises(InputError, match="2 cluster labels for 3 samples"):
        bootstrap_intervals([statistic], ["a", "b"])
