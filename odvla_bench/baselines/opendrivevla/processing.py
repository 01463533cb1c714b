"""Text and visual slots ↔ token ids: ChatML turns, what is learnt, batches for generation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AddedToken, AutoProcessor, BatchFeature, ProcessorMixin

from odvla_bench.baselines.opendrivevla.configuration import (
    ADDED_TOKENS,
    IGNORE_ID,
    PLACEHOLDER_IDS,
    OpenDriveVLAConfig,
)
from odvla_bench.errors import InputError
from odvla_bench.registry import suggest

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
PROFILES = ("default", "released")

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_PLACEHOLDER = re.compile("(" + "|".join(PLACEHOLDER_IDS) + ")")


@dataclass(frozen=True, eq=False)
class Encoded:
    """One conversation as ids."""

    input_ids: Ids
    """(L,) a visual slot holds its placeholder's id, once for each of its tokens."""
    learnt: Mask
    """(L,) whether the id is a target of training."""

    @property
    def labels(self) -> Ids:
        """(L,) the ids where learnt, else -100."""
        return np.where(self.learnt, self.input_ids, IGNORE_ID)


def expand_slots(
    input_ids: Ids, learnt: Mask, counts: Mapping[str, int], *, max_length: int | None = None
) -> Encoded:
    """Repeat each placeholder's id for as many tokens as it stands for; no token, no slot.

    Args:
        input_ids: (L,) ids with one negative id a placeholder.
        learnt: (L,) whether each id is a target; slots never are.
        counts: placeholder → number of tokens.
        max_length: cut what is longer.
    """
    repeats = np.ones(len(input_ids), np.int64)
    for placeholder, slot in PLACEHOLDER_IDS.items():
        repeats[input_ids == slot] = counts.get(placeholder, 0)
    ids, mask = np.repeat(input_ids, repeats), np.repeat(learnt & (input_ids >= 0), repeats)
    return Encoded(ids[:max_length], mask[:max_length])


class OpenDriveVLAProcessor(ProcessorMixin):  # type: ignore[misc]
    """Makes the ids that `OpenDriveVLAForConditionalGeneration` takes.

    Two prompt profiles. `default`: one ChatML conversation, the same in training and prediction;
    the answer and the token that ends it are learnt. `released`: what the released checkpoint was
    trained and is run with: in training the system header stands twice, the whole assistant turn
    is learnt, and so is every line feed, turn marker and added token of the prompt.
    """

    def __init__(self, tokenizer: Any, prompt_profile: str = "default") -> None:
        """Wrap a tokenizer that has the added tokens, see `with_added_tokens`.

        Raises:
            UnknownNameError: no such profile.
        """
        if prompt_profile not in PROFILES:
            raise suggest(prompt_profile, list(PROFILES), kind="prompt profile")
        super().__init__(tokenizer)
        self.prompt_profile = prompt_profile
        ids = tokenizer.convert_tokens_to_ids([IM_START, IM_END, *ADDED_TOKENS])
        self._structural = np.array([*ids, *tokenizer.encode("\n", add_special_tokens=False)])

    @property
    def end_id(self) -> int:
        """Id of the token that ends a turn."""
        return int(self.tokenizer.convert_tokens_to_ids(IM_END))

    def encode(
        self,
        system: str,
        user: str,
        answer: str | None = None,
        *,
        counts: Mapping[str, int] | None = None,
    ) -> Encoded:
        """Encode a conversation of one question.

        Args:
            system: the system text.
            user: the question, with placeholders where visual tokens go.
            answer: what to learn; None leaves the assistant's turn open, for generation.
            counts: placeholder → number of tokens that it stands for.
        """
        header = f"{IM_START}system\n"
        prompt = f"{header}{system}{IM_END}\n{IM_START}user\n{user}{IM_END}\n"
        released = self.prompt_profile == "released"
        if released and answer is not None:
            prompt = header + prompt
        opening, closing = f"{IM_START}assistant\n", f"{IM_END}\n" if released else IM_END
        parts = [(prompt, False), (opening, released and answer is not None)]
        if answer is not None:
            parts.append((answer + closing, True))
        chunks = [(self._tokenize(text), learnt) for text, learnt in parts]
        ids = np.concatenate([c for c, _ in chunks])
        learnt = np.concatenate([np.full(len(c), flag) for c, flag in chunks])
        if released:
            learnt |= np.isin(ids, self._structural)
        return expand_slots(
            ids, learnt, counts or {}, max_length=self.tokenizer.model_max_length or None
        )

    def __call__(self, encoded: Sequence[Encoded], **_: Any) -> BatchFeature:
        """A batch for `generate`: (B, L) ids and attention mask, padded on the left."""
        longest = max(len(e.input_ids) for e in encoded)
        ids = np.full((len(encoded), longest), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        for row, e in enumerate(encoded):
            ids[row, longest - len(e.input_ids) :] = e.input_ids
            mask[row, longest - len(e.input_ids) :] = 1
        return BatchFeature(
            {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        )

    def decode_answers(self, generated: Any) -> list[str]:
        """Texts of (B, N) new ids: up to the end of the turn, added tokens kept."""
        rows = generated.tolist()
        cut = [row[: row.index(self.end_id)] if self.end_id in row else row for row in rows]
        pad = self.tokenizer.pad_token_id
        texts = self.tokenizer.batch_decode([[i for i in row if i != pad] for row in cut])
        return [str(text) for text in texts]

    def _tokenize(self, text: str) -> Ids:
        """Ids of a text whose placeholders stand for themselves, each part tokenised alone."""
        parts: list[Ids] = []
        for part in filter(None, _PLACEHOLDER.split(text)):
            slot = PLACEHOLDER_IDS.get(part)
            ids = [slot] if slot else self.tokenizer.encode(part, add_special_tokens=False)
            parts.append(np.array(ids, np.int64))
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def with_added_tokens(tokenizer: Any, extra: Sequence[str] = ()) -> Any:
    """The tokenizer with the 17 tokens of OpenDriveVLA, special, in their order.

    Args:
        tokenizer: a Qwen2 tokenizer.
        extra: further tokens, such as a waypoint codec's; not special, as decoding must keep them.

    Raises:
        InputError: some but not all are there, or in another order.
    """
    missing = [t for t in ADDED_TOKENS if t not in tokenizer.get_vocab()]
    if missing and len(missing) < len(ADDED_TOKENS):
        raise InputError(
            f"The tokenizer has some of OpenDriveVLA's tokens, but not {', '.join(missing)}. "
            "Use the tokenizer of the language model, or that of a whole checkpoint."
        )
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED_TOKENS])
    ids = tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS))
    if ids != list(range(ids[0], ids[0] + len(ids))):
        raise InputError(
            "The tokenizer has OpenDriveVLA's tokens in another order; the released checkpoint's "
            f"is {', '.join(ADDED_TOKENS)}."
        )
    if extra:
        tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in extra])
    return tokenizer


AutoProcessor.register(OpenDriveVLAConfig, OpenDriveVLAProcessor)
