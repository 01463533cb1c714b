"""Folders of tiny models that hold the same numbers under any version of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train_byte_level(texts: Sequence[str], size: int = 600) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a byte-level tokenizer, the special tokens first."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=size, special_tokens=list(SPECIALS))
    model = json.loads(trained.to_str())["model"]
    return dict(sorted(model["vocab"].items(), key=lambda item: item[1])), [
        " ".join(merge) for merge in model["merges"]
    ]


def write_model(
    folder: Path, tokenizer: str, vocabulary: dict[str, int], merges: Sequence[str]
) -> Path:
    """A folder that AutoModel reads: a RoBERTa with a `"RobertaTokenizer"` or `"GPT2Tokenizer"`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {"tokenizer_class": tokenizer, "model_max_length": 512, "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = _model(len(vocabulary))
    _fill(model)
    model.save_pretrained(folder)
    return folder


def _model(size: int) -> Any:
    import transformers

    config = transformers.RobertaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return transformers.RobertaModel(config)


def _fill(model: Any) -> None:
    """Give each parameter numbers that depend on nothing but its place among their names.

    NumPy keeps the legacy generator's stream for good; torch's initialisation may change.
    """
    import torch

    random = np.random.RandomState(0)  # noqa: NPY002
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            numbers = torch.from_numpy(0.3 * random.standard_normal(tuple(parameter.shape)))
            scale = name.endswith("weight") and parameter.ndim == 1  # of a normalisation
            parameter.copy_(numbers + float(scale))
