"""A corpus of predictions and references: checked once, each distinct string and pair kept once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import PredictionError

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]

MAX_CHARACTERS = 100_000
"""Longest text that is scored; a driving caption has a few hundred characters."""

_MAX_PROBLEMS = 10


class Corpus(NamedTuple):
    """N samples as P distinct (prediction, references) pairs over T distinct texts."""

    texts: list[str]
    """T distinct strings."""
    hypothesis: IntArray
    """(P,) index into `texts` of each pair's prediction."""
    reference: IntArray
    """(R,) indices into `texts` of all pairs' references, pair after pair."""
    offset: IntArray
    """(P + 1,) where each pair's references start in `reference`."""
    pair: IntArray
    """(N,) the pair of each sample."""

    @property
    def sample_count(self) -> int:
        """N."""
        return len(self.pair)

    @property
    def pair_weight(self) -> IntArray:
        """(P,) number of samples with each pair."""
        return np.bincount(self.pair, minlength=len(self.hypothesis))

    @property
    def reference_count(self) -> IntArray:
        """(P,) number of references of each pair."""
        return np.diff(self.offset)

    def references_of(self, pair: int) -> list[str]:
        """The reference strings of one pair."""
        ids = self.reference[self.offset[pair] : self.offset[pair + 1]]
        return [self.texts[i] for i in ids.tolist()]


def make_corpus(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
    """The corpus of N predictions and N sequences of references; see `check_texts` for limits."""
    ids: dict[str, int] = {}
    pairs: dict[tuple[int, ...], int] = {}
    pair_of_sample = np.empty(len(predictions), np.int64)
    for i, (prediction, group) in enumerate(zip(predictions, references, strict=True)):
        key = tuple(ids.setdefault(text, len(ids)) for text in (prediction, *group))
        pair_of_sample[i] = pairs.setdefault(key, len(pairs))
    reference = [text for key in pairs for text in key[1:]]
    return Corpus(
        texts=list(ids),
        hypothesis=np.array([key[0] for key in pairs], np.int64),
        reference=np.array(reference, np.int64),
        offset=np.concatenate([[0], np.cumsum([len(key) - 1 for key in pairs])]).astype(np.int64),
        pair=pair_of_sample,
    )


def check_texts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse a corpus that cannot be scored.

    Raises:
        PredictionError: unequal lengths, no sample, a sample without references, something that
            is not a string, a lone surrogate, or a text over `MAX_CHARACTERS`; each with its row.
    """
    if len(predictions) != len(references):
        raise PredictionError(
            f"{len(predictions)} predictions but {len(references)} lists of references. "
            "Give one list of references for each prediction."
        )
    if not len(predictions):
        raise PredictionError("The corpus is empty: give at least one prediction to score.")
    problems: list[str] = []
    for i, (prediction, group) in enumerate(zip(predictions, references, strict=True)):
        problems += _sample_problems(i, prediction, group)
        if len(problems) > _MAX_PROBLEMS:
            problems[_MAX_PROBLEMS:] = ["… and perhaps more"]
            break
    if problems:
        raise PredictionError("The corpus cannot be scored:", problems)


def _sample_problems(row: int, prediction: str, group: Sequence[str]) -> list[str]:
    problems = [f"row {row}: prediction {flaw}" for flaw in _flaws(prediction)]
    if isinstance(group, str):
        return [*problems, f"row {row}: references is one string; put it into a list"]
    if not len(group):
        return [*problems, f"row {row}: no reference; leave the row out, or give at least one"]
    for k, text in enumerate(group):
        problems += [f"row {row}: reference {k} {flaw}" for flaw in _flaws(text)]
    return problems


def _flaws(text: str) -> list[str]:
    if not isinstance(text, str):
        return [f"is {type(text).__name__}, not a string; an empty string stands for no answer"]
    if len(text) > MAX_CHARACTERS:
        return [f"has {len(text):,} characters, more than {MAX_CHARACTERS:,}; cut it first"]
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        return ["holds a lone surrogate, which is not Unicode text; mend how it was decoded"]
    return []
