"""First embeddings of tokens that stand for the bins of an axis: neighbours begin alike.

With independent random rows a model would have to learn of every bin by itself where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

_SHORTEST_BINS = 10.0
"""Shortest wave: bins closer than a few can hardly be told apart at first."""


def wave_rows(count: int, width: int, deviation: float) -> Tensor:
    """(count, width) embeddings along an axis: waves from 10 bins to twice the axis long.

    Lengths are spread evenly by their logarithm; they and the phases are drawn from torch's
    generator.

    Args:
        count: bins of the axis.
        width: of an embedding.
        deviation: standard deviation of its numbers.
    """
    shortest = min(_SHORTEST_BINS, float(count))
    waves = shortest * (2 * count / shortest) ** torch.rand(width)
    angle = torch.arange(count)[:, None] / waves + torch.rand(width)
    return math.sqrt(2) * deviation * torch.cos(2 * math.pi * angle)


def axes(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start and length of each axis in a codec's tokens, such as `<x_017>`."""
    start = 0
    for _, group in groupby(tokens, key=lambda token: token[1]):
        count = len(list(group))
        yield start, count
        start += count
