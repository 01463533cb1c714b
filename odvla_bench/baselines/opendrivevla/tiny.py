"""`tiny`: an OpenDriveVLA of 0.3 million parameters with a tokenizer of its own.

For tests and demos: nothing is downloaded, and all four stages run in minutes on a laptop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import pre_tokenizers, trainers
from transformers import GenerationConfig, Qwen2Tokenizer

from odvla_bench.baselines.opendrivevla.checkpoint import Loaded
from odvla_bench.baselines.opendrivevla.configuration import OpenDriveVLAConfig
from odvla_bench.baselines.opendrivevla.modeling import OpenDriveVLAForConditionalGeneration
from odvla_bench.baselines.opendrivevla.ordered_tokens import wave_rows
from odvla_bench.baselines.opendrivevla.processing import (
    IM_END,
    IM_START,
    OpenDriveVLAProcessor,
    with_added_tokens,
)
from odvla_bench.datasets.nuscenes.ego import COMMANDS
from odvla_bench.datasets.prompts import PROFILES

VOCABULARY = 1_200
MAX_LENGTH = 4_096
_DEVIATION = 0.1
"""Of initial weights; with Qwen2's 0.02 so narrow a model learns to copy numbers much later."""

_UNITS = (" m/s", " m/s²", " rad", " rad/s")
_FILLED_IN = re.compile(r"\{\w+\}|<\w+>|\n")
"""Between phrases of a profile: fields, sentinels and added tokens, ends of lines."""

_CAPTION_WORDS = (
    "a an the is are car truck bus trailer bicycle motorcycle pedestrian barrier traffic cone "
    "construction vehicle moving parked stopped standing slowly fast white black red blue "
    "crossing divider lane boundary drivable area left right front back of ego meters away about "
    "scene camera view street road intersection turning keep forward turn yes no how many what"
)


NUMBERS = (
    *(f"-{n / 10:.1f}" for n in reversed(range(1_000))),
    *(f"{n / 10:.1f}" for n in range(1_000)),
)
"""Numbers to a tenth, ascending, each a token: a number in a prompt is one of them and a digit.
Digit by digit, so small a model needs far more examples until it reads a speed."""


def tiny_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """A byte-level BPE with Qwen2's rules and further tokens for what all prompts are made of.

    Numbers and fixed phrases are a token each, so that a prompt is a third as long and what it
    says of the ego vehicle stands at the same places in all of them. The same for the same seed.
    """
    blank = Qwen2Tokenizer(vocab={}, merges=[])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    blank.backend_tokenizer.train_from_iterator(_corpus(seed), trainer)
    model = json.loads(blank.backend_tokenizer.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token=IM_END,
        pad_token="<|endoftext|>",
        additional_special_tokens=[IM_START],
        model_max_length=MAX_LENGTH,
    )
    return with_added_tokens(tokenizer, [*NUMBERS, *_phrases()])


def tiny_model(
    seed: int = 0, *, profile: str = "default", hidden_size: int = 64, layers: int = 2
) -> Loaded:
    """A small model with random weights, the same for the same seed.

    Args:
        seed: of tokenizer and weights.
        profile: prompt profile.
        hidden_size: a multiple of 32.
        layers: decoder layers.
    """
    tokenizer = tiny_tokenizer(seed)
    heads = hidden_size // 32
    config = OpenDriveVLAConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 2, 1),
        max_position_embeddings=MAX_LENGTH,
        initializer_range=_DEVIATION,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OpenDriveVLAForConditionalGeneration(config)
        first = tokenizer.convert_tokens_to_ids(NUMBERS[0])
        rows = wave_rows(len(NUMBERS), hidden_size, _DEVIATION)
        model.model.embed_tokens.weight.data[first : first + len(NUMBERS)] = rows
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return Loaded(model, OpenDriveVLAProcessor(tokenizer, profile))


def _phrases() -> list[str]:
    """The texts that prompts have in common, without what is filled in."""
    found = dict.fromkeys([*COMMANDS, *_UNITS])
    for profile in PROFILES.values():
        questions = (wording for _, wordings in profile.questions for wording in wordings)
        for text in (profile.system, *(line for _, line in profile.lines), *questions):
            found |= dict.fromkeys(_FILLED_IN.split(text))
    return [phrase for phrase in found if len(phrase) > 1]


def _corpus(seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    texts = [_CAPTION_WORDS]
    for profile in PROFILES.values():
        texts += [profile.system, *(line for _, line in profile.lines)]
        texts += [wording for _, wordings in profile.questions for wording in wordings]
    for _ in range(20):
        yield from texts
    for _ in range(500):
        points = rng.normal(0, 10, (6, 2))
        yield "[" + ",".join(f"({x:.2f},{y:.2f})" for x, y in points) + "]"
