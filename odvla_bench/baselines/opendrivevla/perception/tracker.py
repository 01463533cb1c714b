"""Tracks over frames: birth, sleep, death, memory and the queries they send to the next frame.

All scenes of a batch advance together. Tracks lie in padded slots, so that nothing loops over rows
and one number a frame, the largest count of tracks, is read back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.config import TOKEN_WIDTH, PerceptionConfig
from odvla_bench.baselines.opendrivevla.perception.deformable import constant
from odvla_bench.baselines.opendrivevla.perception.layers import (
    HEADS,
    LayerNorm,
    inverse_sigmoid,
)
from odvla_bench.baselines.opendrivevla.perception.track_decoder import BOX_WIDTH, Detections

FREE = -1
"""Identity of a query that is no track."""
EGO = -2
"""Identity of the ego query."""


@dataclass(frozen=True)
class Tracks:
    """Queries of B scenes in N slots, with what each remembers."""

    query: Tensor
    """(B, N, 2 C) position and feature."""
    reference: Tensor
    """(B, N, 3) logits of the centre in units of the range, LIDAR frame of the last frame seen."""
    identity: Tensor
    """(B, N) int64: track number within the scene, or `FREE`, or `EGO`."""
    missed: Tensor
    """(B, N) int64 frames in a row with a low score."""
    memory: Tensor
    """(B, N, length, C) past features, oldest first."""
    forgotten: Tensor
    """(B, N, length) true where the memory holds nothing."""
    wait: Tensor
    """(B, N) int64 frames until the memory is written again."""
    velocity_mps: Tensor
    """(B, N, 2) x, y, LIDAR frame of the last frame seen."""

    def gather(self, order: Tensor) -> Tracks:
        """The slots at `order` (B, M)."""
        return Tracks(*(take_slots(getattr(self, f.name), order) for f in fields(self)))

    def updated(self, **changes: Tensor) -> Tracks:
        """The same with some fields changed."""
        return replace(self, **changes)

    def joined(self, other: Tracks) -> Tracks:
        """The slots of both, these first."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Tracks(*(torch.cat(pair, 1) for pair in pairs))

    def scenes(self, index: Tensor) -> Tracks:
        """Those of some scenes."""
        return Tracks(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True)
class Motion:
    """How B scenes moved from the previous frame to this one; all in float64."""

    rotation: Tensor
    """(B, 3, 3) this LIDAR frame from the previous one."""
    translation_m: Tensor
    """(B, 3) the previous LIDAR origin in this LIDAR frame."""
    seconds: Tensor
    """(B) time between them."""


def take_slots(x: Tensor, order: Tensor) -> Tensor:
    """`x` (B, N, …) at slots `order` (B, M)."""
    index = order.view(*order.shape, *[1] * (x.dim() - 2))
    return x.gather(1, index.expand(*order.shape, *x.shape[2:]))


def empty_tracks(query: Tensor, reference: Tensor, memory_length: int) -> Tracks:
    """Queries (B, N, 2 C) with references (B, N, 3) that are no tracks yet."""
    slots = query.shape[:2]
    zeros = query.new_zeros(slots, dtype=torch.int64)
    return Tracks(
        query=query,
        reference=reference,
        identity=zeros + FREE,
        missed=zeros,
        memory=query.new_zeros(*slots, memory_length, TOKEN_WIDTH),
        forgotten=query.new_ones(*slots, memory_length, dtype=torch.bool),
        wait=zeros.clone(),
        velocity_mps=query.new_zeros(*slots, 2),
    )


def moved_reference(tracks: Tracks, motion: Motion, config: PerceptionConfig) -> Tensor:
    """(B, N, 2) x, y logits of the tracks in this frame, driven on with their velocities.

    Height is left to the query, as in the official code.
    """
    low, high = constant(config.range_m, tracks.reference.device, torch.float64).view(2, 3)
    centre = tracks.reference.sigmoid().double() * (high - low) + low
    step = tracks.velocity_mps.double() * motion.seconds[:, None, None]
    centre = torch.cat([centre[..., :2] + step, centre[..., 2:]], -1)
    # float64 products are never rounded to TF32.
    here = centre @ motion.rotation.transpose(1, 2) + motion.translation_m[:, None]
    share = (here - low) / (high - low)
    return inverse_sigmoid(share[..., :2].to(tracks.reference.dtype))


def life_cycle(
    identity: Tensor, missed: Tensor, score: Tensor, next_identity: Tensor, config: PerceptionConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Births, misses and deaths of one frame.

    Args:
        identity: (B, N).
        missed: (B, N).
        score: (B, N) highest class probability; below zero in empty slots.
        next_identity: (B) number of the next track born.
        config: thresholds.

    Returns:
        The three as they are after the frame.
    """
    missed = missed.masked_fill(score >= config.birth_score, 0)
    born = (identity == FREE) & (score >= config.birth_score)
    number = next_identity[:, None] + born.cumsum(1) - 1
    low = (identity >= 0) & (score < config.active_score)
    missed = missed + low.long()
    dead = low & (missed >= config.miss_tolerance)
    identity = torch.where(born, number, identity).masked_fill(dead, FREE)
    return identity, missed, next_identity + born.sum(1)


class MemoryBank(nn.Module):
    """Features that a track keeps, and attention of its present one to them."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the attention and the projection of what is saved."""
        super().__init__()
        self.config = config
        width = TOKEN_WIDTH
        self.save_proj = nn.Linear(width, width)
        self.temporal_attn = nn.MultiheadAttention(width, HEADS)
        self.temporal_fc1 = nn.Linear(width, width)
        self.temporal_fc2 = nn.Linear(width, width)
        self.temporal_norm1 = LayerNorm(width)
        self.temporal_norm2 = LayerNorm(width)

    def recall(self, features: Tensor, tracks: Tracks) -> Tensor:
        """(B, N, C) features of the frame → the same, informed by the memory where there is one."""
        flat = features.flatten(0, 1)
        memory = tracks.memory.flatten(0, 1).transpose(0, 1)
        forgotten = tracks.forgotten.flatten(0, 1)
        remembers = ~forgotten[:, -1:]
        # A row without memory attends to zeros: no key at all would give NaN.
        attended = self.temporal_attn(
            flat[None],
            memory,
            memory,
            key_padding_mask=forgotten & remembers,
            need_weights=False,
        )[0][0]
        x = self.temporal_norm1(flat + attended)
        x = self.temporal_norm2(x + self.temporal_fc2(F.relu(self.temporal_fc1(x))))
        return torch.where(remembers, x, flat).view_as(features)

    def save(self, features: Tensor, tracks: Tracks) -> tuple[Tensor, Tensor, Tensor]:
        """Memory, forgotten and wait of the tracks after this frame's features (B, N, C)."""
        due = torch.ones_like(tracks.wait, dtype=torch.bool) if self.training else tracks.wait == 0
        entry = self.save_proj(features)[:, :, None]
        memory = torch.cat([tracks.memory[:, :, 1:], entry], 2)
        shown = torch.zeros_like(tracks.forgotten[:, :, :1])
        forgotten = torch.cat([tracks.forgotten[:, :, 1:], shown], 2)
        wait = torch.where(due, self.config.memory_period, tracks.wait - 1)
        return (
            torch.where(due[..., None, None], memory, tracks.memory),
            torch.where(due[..., None], forgotten, tracks.forgotten),
            wait,
        )


class QueryInteraction(nn.Module):
    """What tracks tell each other, and the queries they send to the next frame."""

    def __init__(self) -> None:
        """Make the attention and the updates of position and feature."""
        super().__init__()
        width = TOKEN_WIDTH
        self.self_attn = nn.MultiheadAttention(width, HEADS)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.linear_pos1 = nn.Linear(width, width)
        self.linear_pos2 = nn.Linear(width, width)
        self.norm_pos = LayerNorm(width)
        self.linear_feat1 = nn.Linear(width, width)
        self.linear_feat2 = nn.Linear(width, width)
        self.norm_feat = LayerNorm(width)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)

    def forward(self, query: Tensor, features: Tensor, padding: Tensor) -> Tensor:
        """(B, N, 2 C) queries and (B, N, C) features → (B, N, 2 C); `padding` marks empty slots."""
        position, feature = query[..., :TOKEN_WIDTH], query[..., TOKEN_WIDTH:]
        keys = (position + features).transpose(0, 1)
        # A scene without tracks attends to one empty slot: no key at all would give NaN.
        padding = padding & ~padding.all(1, keepdim=True)
        attended = self.self_attn(
            keys, keys, features.transpose(0, 1), key_padding_mask=padding, need_weights=False
        )[0]
        x = self.norm1(features + attended.transpose(0, 1))
        x = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        position = self.norm_pos(position + self.linear_pos2(F.relu(self.linear_pos1(x))))
        feature = self.norm_feat(feature + self.linear_feat2(F.relu(self.linear_feat1(x))))
        return torch.cat([position, feature], -1)


def survivors(identity: Tensor, block: int) -> Tensor:
    """(B, M) slots of the tracks (B, N), in their order, then others up to a multiple of `block`.

    M is as large as the scene with the most tracks needs: the one value read from the device.
    """
    alive = identity >= 0
    most = int(alive.sum(1).max())
    slots = min(identity.shape[1], max(block, -(-most // block) * block))
    return torch.argsort(~alive, dim=1, stable=True)[:, :slots]


def next_tracks(
    tracks: Tracks, detections: Detections, memory_bank: MemoryBank, interact: QueryInteraction
) -> Tracks:
    """The tracks that go to the next frame, with new memory, queries and references.

    Args:
        tracks: of this frame after `life_cycle`.
        detections: of the same slots.
        memory_bank: updates the memory.
        interact: updates the queries.
    """
    order = survivors(tracks.identity, memory_bank.config.track_block)
    kept = tracks.gather(order)
    features = memory_bank.recall(take_slots(detections.features, order), kept)
    memory, forgotten, wait = memory_bank.save(features, kept)
    padding = kept.identity < 0
    return Tracks(
        query=interact(kept.query, features, padding),
        reference=take_slots(detections.reference, order),
        identity=kept.identity.masked_fill(padding, FREE),
        missed=kept.missed,
        memory=memory,
        forgotten=forgotten,
        wait=wait,
        velocity_mps=take_slots(detections.boxes[-1], order)[..., BOX_WIDTH - 2 :],
    )
