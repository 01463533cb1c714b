"""Instructions laid out side by side in one sequence, without seeing each other.

The instructions of a keyframe begin alike: system text, visual tokens, ego state. Their common
beginning stands once, and each goes on from it in a branch of its own:

    segment   0 0 0 0 0 0 0 0 1 1 …      a keyframe's instructions
    branch    0 0 0 0 1 1 2 2 0 0 …      0 is the common beginning
    position  0 1 2 3 4 5 4 5 0 1 …      as if each instruction stood alone

A position attends to what stands before it in its segment, in branch 0 or in its own branch.
The loss is that of separate sequences: a target in the common beginning weighs as many times as
there are instructions that learn it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from odvla_bench.baselines.opendrivevla.configuration import (
    IGNORE_ID,
    OBJECT,
    PLACEHOLDER_IDS,
)
from odvla_bench.baselines.opendrivevla.processing import Encoded

IntArray = npt.NDArray[np.int64]

_OPEN_PACKS = 64


@dataclass(frozen=True, eq=False)
class Example:
    """One instruction as ids."""

    row_id: str
    task: int
    """Number of its task, to tell losses apart."""
    encoded: Encoded
    agent_row: int = -1
    """Which agent's token an object slot takes."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Sequences laid out in one, L positions long."""

    input_ids: IntArray
    """(L,)"""
    position: IntArray
    """(L,)"""
    segment: IntArray
    """(L,)"""
    branch: IntArray
    """(L,)"""
    target: IntArray
    """(L,) the id that follows, -100 where nothing is learnt."""
    weight: npt.NDArray[np.float32]
    """(L,) how often the target counts."""
    task: IntArray
    """(L,)"""
    slot: IntArray
    """(L,) which of the keyframe's tokens of its kind a visual slot takes; -1 elsewhere."""

    def __len__(self) -> int:
        return len(self.input_ids)


def lay_out(examples: Sequence[Example]) -> Layout:
    """The instructions of one keyframe after their common beginning."""
    shared = shared_length([e.encoded.input_ids for e in examples])
    alone = [_alone(example) for example in examples]
    if len(alone) == 1:
        return alone[0]
    beginning = _cut(alone[0], slice(0, shared), branch=0)
    weight = np.sum([layout.weight[:shared] for layout in alone], 0)
    following = examples[0].encoded.input_ids[1 : shared + 1]
    beginning = replace(beginning, target=np.where(weight > 0, following, IGNORE_ID), weight=weight)
    branches = [_cut(a, slice(shared, None), branch=i) for i, a in enumerate(alone, 1)]
    return _concatenated([beginning, *branches])


def shared_length(ids: Sequence[IntArray]) -> int:
    """Length of the common beginning whose every target is common too; 0 for one sequence.

    Object slots have one id and different tokens, and so end it.
    """
    if len(ids) < 2:
        return 0
    shortest = min(map(len, ids))
    rows = np.stack([i[:shortest] for i in ids])
    differs = (rows != rows[0]).any(0) | (rows[0] == PLACEHOLDER_IDS[OBJECT])
    alike = int(differs.argmax()) if differs.any() else shortest
    return max(alike - 1, 0)


def joined(layouts: Sequence[Layout], *, length: int = 0, pad_id: int = 0) -> Layout:
    """Layouts one after another, each a segment of its own.

    Args:
        layouts: at least one.
        length: fill up to this length with positions that nothing else sees.
        pad_id: the id of those.
    """
    parts = [_as_segment(layout, i) for i, layout in enumerate(layouts)]
    missing = length - sum(map(len, parts))
    if missing > 0:
        parts.append(_padding(missing, pad_id, segment=len(parts)))
    return _concatenated(parts)


def plan_packs(lengths: IntArray, capacity: int, order: IntArray) -> Iterator[IntArray]:
    """Packs of items, none longer than `capacity`, in about the given order.

    Each item goes to the fullest of the open packs that holds it; when too many are open, the
    fullest is closed.

    Args:
        lengths: (N,) of the items, each at most `capacity`.
        capacity: positions in a pack.
        order: (N,) a permutation.

    Yields:
        Indices of the items of each pack.
    """
    packs: list[list[int]] = []
    room = np.zeros(0, np.int64)
    for item in order.tolist():
        fits = np.flatnonzero(room >= lengths[item])
        if len(fits):
            best = int(fits[room[fits].argmin()])
        else:
            if len(packs) == _OPEN_PACKS:
                fullest = int(room.argmin())
                yield np.array(packs.pop(fullest), np.int64)
                room = np.delete(room, fullest)
            packs.append([])
            room = np.append(room, capacity)
            best = len(packs) - 1
        packs[best].append(item)
        room[best] -= lengths[item]
    for pack in packs:
        yield np.array(pack, np.int64)


def _alone(example: Example) -> Layout:
    """One instruction in a sequence of its own."""
    ids, learnt = example.encoded.input_ids, example.encoded.learnt
    length = len(ids)
    target = np.full(length, IGNORE_ID, np.int64)
    target[:-1] = np.where(learnt[1:], ids[1:], IGNORE_ID)
    zeros = np.zeros(length, np.int64)
    return Layout(
        ids,
        np.arange(length),
        zeros,
        zeros,
        target,
        (target != IGNORE_ID).astype(np.float32),
        np.full(length, example.task, np.int64),
        _slots(example),
    )


def _slots(example: Example) -> IntArray:
    ids = example.encoded.input_ids
    slots = np.full(len(ids), -1, np.int64)
    for placeholder, slot in PLACEHOLDER_IDS.items():
        where = np.flatnonzero(ids == slot)
        slots[where] = example.agent_row if placeholder == OBJECT else np.arange(len(where))
    return slots


def _cut(layout: Layout, part: slice, *, branch: int) -> Layout:
    cut = Layout(**{name: array[part] for name, array in vars(layout).items()})
    return replace(cut, branch=np.full(len(cut), branch, np.int64))


def _as_segment(layout: Layout, segment: int) -> Layout:
    return replace(layout, segment=np.full(len(layout), segment, np.int64))


def _padding(length: int, pad_id: int, segment: int) -> Layout:
    zeros = np.zeros(length, np.int64)
    return Layout(
        np.full(length, pad_id, np.int64),
        np.arange(length),
        np.full(length, segment, np.int64),
        zeros,
        np.full(length, IGNORE_ID, np.int64),
        np.zeros(length, np.float32),
        zeros,
        np.full(length, -1, np.int64),
    )


def _concatenated(parts: Sequence[Layout]) -> Layout:
    names = Layout.__dataclass_fields__
    return Layout(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})
