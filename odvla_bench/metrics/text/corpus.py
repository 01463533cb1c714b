"""A corpus of predictions and references: checked once, each distinct string and pair kept once.

Answers repeat heavily, so that nothing here looks at a sample twice in Python: samples become
numbers of distinct texts, the tokenizer maps distinct texts, and equal pairs are found by sorting.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain, count
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import PredictionError

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]
_Key = TypeVar("_Key", bound=Hashable)

MAX_CHARACTERS = 100_000
"""Longest text that is scored; a driving caption has a few hundred characters."""

_MAX_PROBLEMS = 10
LOOKED_UP_AT_ONCE = 4_096
"""Keys whose numbers are asked for together, so few that the lists in between stay in the cache."""
_CODES_FOR_A_TABLE = 16
"""Times as many possible codes as codes, beyond which sorting them is cheaper."""


class Samples(NamedTuple):
    """N predictions with their references, as numbers of T distinct texts."""

    texts: list[str]
    """T distinct strings."""
    prediction: IntArray
    """(N,) index into `texts` of each sample's prediction."""
    reference: IntArray
    """(M,) indices into `texts` of all samples' references, sample after sample."""
    reference_count: IntArray
    """(N,) number of references of each sample."""

    def mapped(self, texts: list[str], at: IntArray | None = None) -> Samples:
        """The same samples with other texts.

        Args:
            texts: strings, which may repeat.
            at: (N + M,) index into them of each prediction, and then of each reference; by
                default they stand in place of the present texts.
        """
        distinct, number = number_distinct(texts)
        ids = number[np.concatenate([self.prediction, self.reference]) if at is None else at]
        n = len(self.prediction)
        return Samples(distinct, ids[:n], ids[n:], self.reference_count)


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


def read_samples(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Samples:
    """The samples of N predictions and N sequences of references, in their order.

    Raises:
        PredictionError: unequal lengths, no sample, a sample without references, something that
            is not a string, a lone surrogate, or a text over `MAX_CHARACTERS`; each with its row.
    """
    if len(predictions) != len(references):
        raise PredictionError(
            f"{len(predictions)} predictions but {len(references)} lists of references. "
            "Give one list of references for each prediction."
        )
    n = len(predictions)
    if not n:
        raise PredictionError("The corpus is empty: give at least one prediction to score.")
    try:
        members, sizes = _members(references)
        texts, ids = number_distinct(predictions, members)
        sound = 0 not in sizes and not any(map(_flaw, texts))
        sound = sound and not _has_string(references, texts, ids[n:])
    except TypeError:  # something without a length, or that cannot be a key
        sound = False
    if not sound:
        problems = _problems(predictions, references)
        raise PredictionError("The corpus cannot be scored:", problems)
    return Samples(texts, ids[:n], ids[n:], sizes)


def pair_up(samples: Samples) -> Corpus:
    """The distinct pairs of the samples; those with equally many references stand together."""
    sizes = samples.reference_count
    size = int(sizes.min())
    if size == sizes.max():
        group = samples.reference.reshape(-1, size)
        code, rows = _equal_rows(samples.prediction, group, len(samples.texts))
        return _corpus(samples, [(rows, group[rows])], code)
    pair = np.empty(len(sizes), np.int64)
    start = np.cumsum(sizes) - sizes
    parts: list[tuple[IntArray, IntArray]] = []
    for size in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == size)
        group = samples.reference[start[rows, None] + np.arange(size)]
        code, example = _equal_rows(samples.prediction[rows], group, len(samples.texts))
        pair[rows] = sum(len(part) for part, _ in parts) + code
        parts.append((rows[example], group[example]))
    return _corpus(samples, parts, pair)


def make_corpus(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
    """The corpus of N predictions and N sequences of references, see `read_samples`."""
    return pair_up(read_samples(predictions, references))


def number_distinct(*parts: Sequence[_Key]) -> tuple[list[_Key], IntArray]:
    """The distinct values of all parts in order of first appearance, and each value's number."""
    numbers: defaultdict[_Key, int] = defaultdict(count().__next__)
    ids = array("I")
    for part in parts:
        values = part if isinstance(part, list) else list(part)
        for start in range(0, len(values), LOOKED_UP_AT_ONCE):
            ids.extend(array("I", numbers_of(numbers, values[start : start + LOOKED_UP_AT_ONCE])))
    return list(numbers), np.frombuffer(ids, np.int32)


def numbers_of(numbers: Mapping[_Key, int], keys: Sequence[_Key]) -> tuple[int, ...]:
    """The number of each key; an `itemgetter` finds many faster than anything else in Python."""
    if len(keys) > 1:
        found: tuple[int, ...] = itemgetter(*keys)(numbers)
        return found
    return tuple(map(numbers.__getitem__, keys))


def _members(groups: Sequence[Sequence[str]]) -> tuple[list[str], IntArray]:
    """The members of all groups, group after group, and the size of each."""
    try:
        return [one for (one,) in groups], np.ones(len(groups), np.int64)
    except ValueError:  # not one in each
        sizes = np.fromiter(map(len, groups), np.int64, len(groups))
        return list(chain.from_iterable(groups)), sizes


def _has_string(groups: Sequence[Sequence[str]], texts: list[str], members: IntArray) -> bool:
    """Whether a group is a string; its members were then taken for texts of one character."""
    if len(members) == len(groups):
        every = groups if isinstance(groups, list) else list(groups)
        letter = np.array([len(text) == 1 for text in texts])
        groups = [every[row] for row in np.flatnonzero(letter[members]).tolist()]
    return any(issubclass(kind, str) for kind in set(map(type, groups)))


def _corpus(samples: Samples, parts: list[tuple[IntArray, IntArray]], pair: IntArray) -> Corpus:
    """The corpus of pairs given as an example row and the references of each, by their number."""
    counts = np.repeat([g.shape[1] for _, g in parts], [len(g) for _, g in parts])
    offset = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offset[1:])
    return Corpus(
        texts=samples.texts,
        hypothesis=samples.prediction[np.concatenate([rows for rows, _ in parts])].astype(np.int64),
        reference=np.concatenate([group.ravel() for _, group in parts], dtype=np.int64),
        offset=offset,
        pair=pair,
    )


def _equal_rows(first: IntArray, others: IntArray, texts: int) -> tuple[IntArray, IntArray]:
    """Number of each of n rows among the distinct ones, and a row that has each number.

    Args:
        first: (n,) texts.
        others: (n, k) texts.
        texts: how many texts there are.
    """
    many, code = texts, first
    for column in others.T:
        code = np.multiply(code, texts, dtype=np.int64) + column
        many, code = _ranks(code, many * texts)
    example = np.empty(many, np.int64)
    example[code] = np.arange(len(code))
    return code, example


def _ranks(codes: IntArray, limit: int) -> tuple[int, IntArray]:
    """How many distinct codes there are, all below `limit`, and each code's rank among them."""
    if limit > _CODES_FOR_A_TABLE * len(codes):
        distinct, rank = np.unique(codes, return_inverse=True)
        return len(distinct), rank
    there = np.zeros(limit, bool)
    there[codes] = True
    rank = np.cumsum(there, dtype=np.int32)  # from 1 up
    rank -= 1
    return int(rank[-1]) + 1, rank[codes].astype(np.int64)


def _problems(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
    """What is wrong with each row, up to a limit."""
    problems: list[str] = []
    for i, (prediction, group) in enumerate(zip(predictions, references, strict=True)):
        problems += _sample_problems(i, prediction, group)
        if len(problems) > _MAX_PROBLEMS:
            problems[_MAX_PROBLEMS:] = ["… and perhaps more"]
            break
    return problems


def _sample_problems(row: int, prediction: str, group: Sequence[str]) -> list[str]:
    flaw = _flaw(prediction)
    problems = [f"row {row}: prediction {flaw}"] if flaw else []
    if isinstance(group, str):
        return [*problems, f"row {row}: references is one string; put it into a list"]
    if not hasattr(group, "__len__"):
        return [*problems, f"row {row}: references is {type(group).__name__}, not a list"]
    if not len(group):
        return [*problems, f"row {row}: no reference; leave the row out, or give at least one"]
    flaws = enumerate(map(_flaw, group))
    return [*problems, *(f"row {row}: reference {k} {flaw}" for k, flaw in flaws if flaw)]


def _flaw(text: str) -> str | None:
    """What keeps a text from being scored."""
    if not isinstance(text, str):
        return f"is {type(text).__name__}, not a string; an empty string stands for no answer"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters, more than {MAX_CHARACTERS:,}; cut it first"
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        return "holds a lone surrogate, which is not Unicode text; mend how it was decoded"
    return None
