"""A model that answers conversations, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import LogitsProcessorList

from odvla_bench.baselines.opendrivevla.checkpoint import Loaded
from odvla_bench.baselines.opendrivevla.configuration import OBJECT, PLACEHOLDER_IDS
from odvla_bench.baselines.opendrivevla.grammar import ConstrainedWaypoints, WaypointGrammar
from odvla_bench.baselines.opendrivevla.processing import Encoded
from odvla_bench.baselines.opendrivevla.prompting import Prompting
from odvla_bench.baselines.opendrivevla.tokens import (
    TokenSource,
    VisualTokens,
    agent_row,
    slot_counts,
)

MAX_NEW_TOKENS = 512
"""As released; a plan takes about 75."""

_FEATURES = (
    ("<SCENE>", "scene_features", "scene"),
    ("<TRACK>", "track_features", "agents"),
    ("<MAP>", "map_features", "map"),
)


@dataclass(frozen=True)
class Decoding:
    """How answers are made."""

    batch_size: int = 16
    max_new_tokens: int = MAX_NEW_TOKENS
    constrain: bool = False
    """Whether only parsable waypoints can be answered; off for numbers that are to be compared."""
    samples: int = 1
    """Answers to each conversation: the first is greedy, further ones are drawn."""
    temperature: float = 1.0
    """Of the drawn ones."""
    seed: int = 0

    @property
    def signature(self) -> str:
        """What can move an answer, in one line."""
        drawn = f"|samples:{self.samples}|temperature:{self.temperature}|seed:{self.seed}"
        return (
            f"greedy|max_new_tokens:{self.max_new_tokens}|constrained:"
            f"{'yes' if self.constrain else 'no'}{drawn if self.samples > 1 else ''}"
        )


@dataclass(frozen=True)
class Answer:
    """What a model says to one conversation."""

    row: int
    """Number of the conversation."""
    sample: int
    """0 is the greedy answer."""
    text: str
    latency_s: float
    """From the start of its batch to the batch's answers."""


class Answerer:
    """A model with its prompts and visual tokens."""

    def __init__(
        self,
        loaded: Loaded,
        prompting: Prompting,
        source: TokenSource | None,
        decoding: Decoding,
        *,
        table: str = "planning",
    ) -> None:
        """Make a model ready.

        Args:
            loaded: the model, on the device to use.
            prompting: how its prompts are made.
            source: visual tokens; None where prompts show none.
            decoding: how to answer.
            table: of the conversations; says what a constrained answer is.
        """
        self._model, self._processor = loaded.model.eval(), loaded.processor
        self._prompting, self._source, self._decoding = prompting, source, decoding
        self._constraint = LogitsProcessorList()
        if decoding.constrain:
            grammar = WaypointGrammar(prompting.codec(table), loaded.processor.tokenizer)
            self._constraint.append(ConstrainedWaypoints(grammar))

    def answer(self, conversations: pa.Table) -> Iterator[Answer]:
        """Answers to rows of `CONVERSATIONS`, alike long ones together, so not in their order.

        A conversation about an agent that has no token is answered with nothing.
        """
        rows = conversations.to_pylist()
        tokens = [self._source[r["sample_token"]] if self._source else None for r in rows]
        encoded = [self._encode(r["user"], t) for r, t in zip(rows, tokens, strict=True)]
        agents = [agent_row(t, r["instance_id"]) for r, t in zip(rows, tokens, strict=True)]
        unseen = {i for i, e in enumerate(encoded) if _asks_of_object(e) and agents[i] < 0}
        yield from (Answer(i, 0, "", 0.0) for i in sorted(unseen))
        order = sorted(set(range(len(rows))) - unseen, key=lambda i: len(encoded[i].input_ids))
        for start in range(0, len(order), self._decoding.batch_size):
            batch = order[start : start + self._decoding.batch_size]
            inputs = self._processor([encoded[i] for i in batch])
            inputs |= _features([tokens[i] for i in batch], [encoded[i] for i in batch])
            objects = [i for i in batch if _asks_of_object(encoded[i])]
            if objects:
                inputs["object_features"] = _object_features(objects, tokens, agents)
            yield from self._answer_batch(batch, inputs)

    def _encode(self, user: str, tokens: VisualTokens | None) -> Encoded:
        counts = slot_counts(tokens)
        return self._processor.encode(self._prompting.profile.system, user, counts=counts)

    def _answer_batch(self, rows: Sequence[int], inputs: Any) -> Iterator[Answer]:
        inputs = inputs.to(self._model.device)
        for sample in range(self._decoding.samples):
            start = time.perf_counter()
            texts = self._generate(inputs, sample)
            took = time.perf_counter() - start
            for row, text in zip(rows, texts, strict=True):
                yield Answer(row, sample, text, took)

    def _generate(self, inputs: Any, sample: int) -> list[str]:
        drawn = {"do_sample": True, "temperature": self._decoding.temperature, "top_k": 0}
        with torch.random.fork_rng(enabled=sample > 0):
            torch.manual_seed(self._decoding.seed + sample)
            ids = self._model.generate(
                **inputs,
                max_new_tokens=self._decoding.max_new_tokens,
                logits_processor=self._constraint,
                **(drawn if sample else {"do_sample": False}),
            )
        return self._processor.decode_answers(ids)


def _asks_of_object(encoded: Encoded) -> bool:
    return bool((encoded.input_ids == PLACEHOLDER_IDS[OBJECT]).any())


def _features(
    tokens: Sequence[VisualTokens | None], encoded: Sequence[Encoded]
) -> dict[str, torch.Tensor]:
    """Tokens for the slots of a batch, kind by kind."""
    found = {}
    for placeholder, field, name in _FEATURES:
        slot = PLACEHOLDER_IDS[placeholder]
        parts = [
            getattr(t, name)
            for t, e in zip(tokens, encoded, strict=True)
            if t is not None and (e.input_ids == slot).any()
        ]
        if parts:
            found[field] = torch.from_numpy(np.concatenate(parts))
    return found


def _object_features(
    rows: Sequence[int], tokens: Sequence[VisualTokens | None], agents: Sequence[int]
) -> torch.Tensor:
    parts = [t.agents[agents[i]] for i in rows if (t := tokens[i]) is not None]
    return torch.from_numpy(np.stack(parts))
