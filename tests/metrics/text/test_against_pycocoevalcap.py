"""Random corpora, scored by pycocoevalcap itself and by us."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odvla_bench.metrics.text import score_text

from .corpora import corpus, our_tokens, pycocoevalcap_scores, pycocoevalcap_tokens

pytest.importorskip("pycocoevalcap")
NGRAM_METRICS = ["bleu", "rouge_l", "cider"]
TEXT = st.text("ab \t\n\u00a0é.", max_size=12)


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=8))
@settings(max_examples=200)
def test_bleu_rouge_cider_of_any_strings(samples: list[tuple[str, list[str]]]) -> None:
    predictions = [prediction for prediction, _ in samples]
    references = [[*group, "x"] for _, group in samples]  # the reference scorer needs one n-gram
    scores = score_text(predictions, references, metrics=NGRAM_METRICS, tokenizer="none")
    expected, each = pycocoevalcap_scores(predictions, references, meteor=False)
    for name, value in expected.items():
        assert scores.corpus[name] == pytest.approx(value, abs=1e-9), name
        np.testing.assert_allclose(scores.per_sample[name], each[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_bleu_rouge_cider_of_random_captions(seed: int) -> None:
    predictions, references = corpus(seed, size=150)
    scores = score_text(predictions, references, metrics=NGRAM_METRICS, tokenizer="none")
    expected, each = pycocoevalcap_scores(predictions, references, meteor=False)
    for name, value in expected.items():
        assert scores.corpus[name] == pytest.approx(value, abs=1e-9), name
        np.testing.assert_allclose(scores.per_sample[name], each[name], rtol=0, atol=1e-9)


def test_a_vocabulary_too_large_to_pack_four_words_into_one_key() -> None:
    words = [f"w{i}" for i in range(33_000)]
    references = [[" ".join(words[i : i + 20])] for i in range(0, len(words), 20)]
    predictions = [group[0].replace("1 ", "2 ") for group in references]
    scores = score_text(predictions, references, metrics=NGRAM_METRICS, tokenizer="none")
    expected, _ = pycocoevalcap_scores(predictions, references, meteor=False)
    for name, value in expected.items():
        assert scores.corpus[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.java
@pytest.mark.parametrize("seed", range(3))
def test_tokens_of_random_captions_depend_on_neighbours_as_in_pycocoevalcap(seed: int) -> None:
    predictions, references = corpus(seed, size=700)
    expected = pycocoevalcap_tokens(predictions, references)
    assert our_tokens(predictions, references, "ptb") == expected


@pytest.mark.java
@pytest.mark.slow
def test_everything_of_random_captions() -> None:
    predictions, references = corpus(seed=11, size=120)
    scores = score_text(predictions, references)
    tokens = pycocoevalcap_tokens(predictions, references)
    expected, each = pycocoevalcap_scores(*tokens, meteor=True)
    assert set(scores.corpus) == set(expected)
    for name, value in expected.items():
        assert scores.corpus[name] == pytest.approx(value, abs=1e-9), name
        np.testing.assert_allclose(scores.per_sample[name], each[name], rtol=0, atol=1e-9)
