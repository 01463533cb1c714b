"""Longest common subsequences of many pairs at once, against the table of the definition."""

from __future__ import annotations

import random

import numpy as np
import pytest

from odvla_bench.metrics.text import common_subsequence
from odvla_bench.metrics.text.common_subsequence import common_lengths
from odvla_bench.metrics.text.ngrams import number_words


def by_definition(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        above = row.copy()
        for j, other in enumerate(second):
            row[j + 1] = above[j] + 1 if word == other else max(above[j + 1], row[j])
    return row[-1]


def texts_of(seed: int, count: int, longest: int, vocabulary: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(str(rng.randrange(vocabulary)) for _ in range(rng.randint(1, longest)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("together", [True, False], ids=["together", "alone"])
@pytest.mark.parametrize(
    ("longest", "vocabulary"),
    [(1, 3), (2, 3), (9, 4), (20, 2), (40, 6), (64, 3), (66, 1), (128, 5), (140, 3)],
)
def test_lengths_are_those_of_the_definition(
    longest: int, vocabulary: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common_subsequence, "_FEWEST_TOGETHER", 1 if together else 1 << 30)
    texts = texts_of(longest, 60, longest, vocabulary)
    first, second = np.arange(60), np.roll(np.arange(60), 7)
    expected = [
        by_definition(texts[a].split(), texts[b].split())
        for a, b in zip(first, second, strict=True)
    ]
    assert common_lengths(number_words(texts), first, second).tolist() == expected


def test_pairs_are_taken_in_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*texts_of(1, 300, 30, 5), *texts_of(2, 20, 200, 5)]
    words = number_words(texts)
    first, second = np.arange(320), np.roll(np.arange(320), 1)
    whole = common_lengths(words, first, second)
    monkeypatch.setattr(common_subsequence, "_CELLS_AT_ONCE", 10_000)
    monkeypatch.setattr(common_subsequence, "_FEWEST_TOGETHER", 1)
    np.testing.assert_array_equal(common_lengths(words, first, second), whole)


def test_double_spaces_are_empty_words() -> None:
    words = number_words(["", "a  b", " ", "a b"], separator=" ")
    lengths = common_lengths(words, np.array([0, 1, 2, 3]), np.array([2, 3, 2, 0]))
    assert lengths.tolist() == [1, 2, 2, 0]
