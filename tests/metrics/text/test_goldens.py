"""Every corpus that pycocoevalcap scored, scored again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odvla_bench.metrics.text import score_text

from .corpora import our_tokens

CORPORA = (
    "captions_single",
    "captions_multi",
    "qa_short",
    "edge_unicode_punct",
    "empty_predictions",
    "long_captions",
    "one_sample",
    "identical_references",
    "raw_no_tokenizer",
)
TOLERANCE = 1e-9


def read(golden: Path, name: str) -> dict[str, Any]:
    return json.loads((golden / "text" / f"{name}.json").read_text())


def assert_equal_scores(scores: Any, data: dict[str, Any], names: set[str]) -> None:
    assert set(scores.corpus) == names
    for name in names:
        expected = [sample["scores"][name] for sample in data["samples"]]
        np.testing.assert_allclose(scores.per_sample[name], expected, rtol=0, atol=TOLERANCE)
        assert scores.corpus[name] == pytest.approx(data["corpus"][name], abs=TOLERANCE, rel=0)


@pytest.mark.golden
@pytest.mark.parametrize("name", CORPORA)
def test_bleu_rouge_cider_of_tokens(golden: Path, name: str) -> None:
    data = read(golden, name)
    predictions = [sample.get("hyp_tok", sample["hyp"]) for sample in data["samples"]]
    references = [sample.get("refs_tok", sample["refs"]) for sample in data["samples"]]
    metrics = ["bleu", "rouge_l", "cider"]
    scores = score_text(predictions, references, metrics=metrics, tokenizer="none")
    assert_equal_scores(scores, data, set(data["corpus"]) - {"METEOR"})


@pytest.mark.golden
@pytest.mark.java
@pytest.mark.parametrize("name", CORPORA)
def test_everything_from_raw_text(golden: Path, name: str) -> None:
    data = read(golden, name)
    predictions = [sample["hyp"] for sample in data["samples"]]
    references = [sample["refs"] for sample in data["samples"]]
    scores = score_text(predictions, references, tokenizer=data.get("tokenizer", "ptb"))
    assert_equal_scores(scores, data, set(data["corpus"]))


@pytest.mark.golden
@pytest.mark.java
def test_tokenizer_table(golden: Path) -> None:
    pairs = read(golden, "ptb_tokens")["pairs"]
    tokens, _ = our_tokens([text for text, _ in pairs], [[""] for _ in pairs], "ptb")
    assert tokens == [expected for _, expected in pairs]


@pytest.mark.golden
@pytest.mark.java
def test_line_separators_shift_later_texts_only_in_the_compatible_tokenizer(golden: Path) -> None:
    cases = read(golden, "line_separators")["cases"]
    for first, second in zip(cases[::2], [*cases[1::2], cases[0]], strict=True):
        # Predictions and references go through the tokenizer apart.
        found = our_tokens(first["inputs"], [[text] for text in second["inputs"]], "ptb-compat")
        assert found == (first["outputs"], [[text] for text in second["outputs"]])
    cured, _ = our_tokens([t for case in cases for t in case["inputs"]], [["x"]] * 36, "ptb")
    assert cured == ["first a b end", "second public", "third one", "fourth"] * len(cases)
