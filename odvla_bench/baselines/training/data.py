"""Conversations as packed batches, the same for the same seed whatever was done before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from odvla_bench.baselines.opendrivevla.configuration import (
    MAP,
    OBJECT,
    PLACEHOLDER_IDS,
    SCENE,
    TRACK,
)
from odvla_bench.baselines.opendrivevla.perception.clip import Clip
from odvla_bench.baselines.opendrivevla.processing import OpenDriveVLAProcessor
from odvla_bench.baselines.opendrivevla.tokens import (
    TokenSource,
    VisualTokens,
    agent_row,
    slot_counts,
)
from odvla_bench.baselines.training.packing import (
    Example,
    IntArray,
    Layout,
    joined,
    lay_out,
    plan_packs,
)
from odvla_bench.errors import InputError

_FEATURES = (
    (SCENE, "scene_features", "scene"),
    (TRACK, "track_features", "agents"),
    (MAP, "map_features", "map"),
    (OBJECT, "object_features", "agents"),
)


@dataclass(frozen=True)
class Batch:
    """One packed sequence."""

    inputs: dict[str, Tensor]
    """What the model takes: (1, L) ids and positions, features of the visual slots."""
    segment: Tensor
    """(L,)"""
    branch: Tensor
    """(L,)"""
    kept: Tensor
    """(K,) positions whose next id is learnt."""
    target: Tensor
    """(K,)"""
    weight: Tensor
    """(K,)"""
    task: Tensor
    """(K,) numbers of tasks."""
    rows: list[list[str]]
    """Row ids of each segment, in the order of its branches."""
    clip: Clip | None = None
    """Images in place of features, of the one keyframe; each kind of token has one slot then."""

    @property
    def real(self) -> Tensor:
        """(L,) which positions are not filling."""
        return self.segment < len(self.rows)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) for k, v in vars(self).items() if torch.is_tensor(v)
        }
        inputs = {k: v.to(device, non_blocking=True) for k, v in self.inputs.items()}
        clip = self.clip.to(device) if self.clip else None
        return Batch(inputs=inputs, rows=self.rows, clip=clip, **moved)

    def rows_at(self, where: Tensor) -> list[str]:
        """Ids of the rows that kept positions belong to.

        Args:
            where: (K,) booleans.
        """
        found: dict[str, None] = {}
        for position in self.kept[where].tolist():
            rows = self.rows[int(self.segment[position])]
            branch = int(self.branch[position])
            found.update(dict.fromkeys(rows[branch - 1 : branch] if branch else rows))
        return list(found)


@dataclass(frozen=True)
class Left:
    """Conversations that were left out."""

    too_long: int = 0
    """Longer than a pack."""
    unseen_agents: int = 0
    """About an agent for which the keyframe has no token."""


class TrainingData(torch.utils.data.Dataset[Batch]):
    """Conversations, planned into packs; an item of the data set is the batch of one pack."""

    def __init__(
        self,
        conversations: pa.Table,
        processor: OpenDriveVLAProcessor,
        system: str,
        source: TokenSource | None,
        *,
        pack_length: int,
        rows_per_prefix: int = 1,
        fill: bool = False,
        seed: int = 0,
    ) -> None:
        """Measure all conversations.

        Args:
            conversations: rows of `CONVERSATIONS`.
            processor: makes ids.
            system: the system text.
            source: visual tokens; None where prompts have none.
            pack_length: positions in a pack.
            rows_per_prefix: conversations of a keyframe that share a beginning.
            fill: fill every pack up to `pack_length`.
            seed: of the order.

        Raises:
            InputError: no conversation can be used, or a keyframe has no tokens.
        """
        self._rows = {c: conversations[c].combine_chunks() for c in conversations.column_names}
        self.tasks = sorted(set(self._rows["task"].to_pylist()))
        self._processor, self._system, self._source = processor, system, source
        self._pack_length, self._fill, self._seed = pack_length, fill, seed
        self._pieces, self._lengths, self.left = self._measure(rows_per_prefix)
        if not self._pieces:
            raise InputError(
                f"None of {conversations.num_rows} conversations can be used: "
                f"{self.left.too_long} are longer than a pack of {pack_length} (raise "
                f"pack_length), {self.left.unseen_agents} are about agents without a token."
            )

    @property
    def rows(self) -> int:
        """Conversations in use."""
        return sum(map(len, self._pieces))

    def packs(self, epoch: int) -> list[IntArray]:
        """Packs of an epoch: numbers of pieces, each piece some rows of a keyframe."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._pieces))
        return list(plan_packs(self._lengths, self._pack_length, order))

    def stream(self, skip: int = 0) -> Iterator[IntArray]:
        """The packs of epoch after epoch, without the first `skip` of them."""

        def endless() -> Iterator[IntArray]:
            epoch = 0
            while True:
                yield from self.packs(epoch)
                epoch += 1

        return islice(endless(), skip, None)

    def __getitem__(self, pack: Any) -> Batch:
        """The batch of a pack, which is an array of piece numbers."""
        layouts, tokens, rows = [], [], []
        for piece in np.asarray(pack).tolist():
            examples, visual = self._examples(self._pieces[piece])
            layouts.append(lay_out(examples))
            tokens.append(visual)
            rows.append([e.row_id for e in examples])
        return _batch(self._joined(layouts), layouts, tokens, rows)

    def each_alone(self, batch: Batch) -> Iterator[Batch]:
        """The pieces of a batch, each as a batch of its own."""
        first = {rows[0] for rows in batch.rows}
        for number, rows in enumerate(self._pieces):
            if self._value("row_id", rows[0]) in first:
                yield self[np.array([number])]

    def _joined(self, layouts: Sequence[Layout]) -> Layout:
        pad = self._processor.tokenizer.pad_token_id
        return joined(layouts, length=self._pack_length if self._fill else 0, pad_id=pad)

    def _examples(self, rows: IntArray) -> tuple[list[Example], VisualTokens | None]:
        """The rows of one keyframe that have what they need, as ids."""
        visual = None
        if self._source is not None:
            visual = self._source[self._value("sample_token", rows[0])]
        made = [self._example(row, visual) for row in rows.tolist()]
        return [example for example in made if example is not None], visual

    def _example(self, row: int, visual: VisualTokens | None) -> Example | None:
        user, agent = self._value("user", row), -1
        if OBJECT in user:
            agent = agent_row(visual, self._value("instance_id", row))
            if agent < 0:
                return None
        encoded = self._processor.encode(
            self._system,
            user,
            self._value("answer", row),
            counts=slot_counts(visual),
        )
        task = self.tasks.index(self._value("task", row))
        return Example(self._value("row_id", row), task, encoded, agent)

    def _value(self, column: str, row: Any) -> Any:
        return self._rows[column][int(row)].as_py()

    def _measure(self, rows_per_prefix: int) -> tuple[list[IntArray], IntArray, Left]:
        """Pieces of rows that fit a pack, and their lengths."""
        pieces, lengths = [], []
        too_long = unseen = 0
        for rows in self._keyframes():
            examples, _ = self._examples(rows)
            unseen += len(rows) - len(examples)
            at = {self._value("row_id", row): row for row in rows.tolist()}
            for group in _groups(examples, rows_per_prefix):
                for part, length in _fitting(group, self._pack_length):
                    if length > self._pack_length:
                        too_long += 1
                        continue
                    pieces.append(np.array([at[e.row_id] for e in part], np.int64))
                    lengths.append(length)
        return pieces, np.array(lengths, np.int64), Left(too_long, unseen)

    def _keyframes(self) -> Iterator[IntArray]:
        """Row numbers of each keyframe, keyframes in the order of their first row."""
        codes = self._rows["sample_token"].dictionary_encode().indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        return iter(np.split(order, starts[1:])) if len(order) else iter(())


def _groups(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    return (examples[i : i + size] for i in range(0, len(examples), size))


def _fitting(group: Sequence[Example], capacity: int) -> Iterator[tuple[Sequence[Example], int]]:
    """A group halved until its parts fit, with their lengths; one that never fits as it is."""
    length = len(lay_out(group))
    if length <= capacity or len(group) == 1:
        yield group, length
        return
    half = len(group) // 2
    yield from _fitting(group[:half], capacity)
    yield from _fitting(group[half:], capacity)


def _batch(
    whole: Layout,
    layouts: Sequence[Layout],
    tokens: Sequence[VisualTokens | None],
    rows: list[list[str]],
) -> Batch:
    kept = np.flatnonzero(whole.weight > 0)
    inputs = {
        "input_ids": torch.from_numpy(whole.input_ids)[None],
        "position_ids": torch.from_numpy(whole.position)[None],
    }
    for placeholder, field, name in _FEATURES:
        features = _features(layouts, tokens, PLACEHOLDER_IDS[placeholder], name)
        if features is not None:
            inputs[field] = torch.from_numpy(features)
    return Batch(
        inputs,
        torch.from_numpy(whole.segment),
        torch.from_numpy(whole.branch),
        torch.from_numpy(kept),
        torch.from_numpy(whole.target[kept]),
        torch.from_numpy(whole.weight[kept]),
        torch.from_numpy(whole.task[kept]),
        rows,
    )


def _features(
    layouts: Sequence[Layout], tokens: Sequence[VisualTokens | None], slot: int, name: str
) -> npt.NDArray[np.float32] | None:
    """Tokens for all slots of a kind, in order."""
    parts = [
        getattr(visual, name)[layout.slot[layout.input_ids == slot]]
        for layout, visual in zip(layouts, tokens, strict=True)
        if visual is not None
    ]
    return np.concatenate(parts).astype(np.float32, copy=False) if parts else None
