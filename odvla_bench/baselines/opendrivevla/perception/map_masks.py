"""Mask heads of the map (Panoptic SegFormer, Li et al. 2022): queries → masks over the view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.config import TOKEN_WIDTH
from odvla_bench.baselines.opendrivevla.perception.layers import HEADS, LayerNorm

HIDDEN = 4 * TOKEN_WIDTH
NORM_EPSILON = 1e-6


class _CrossAttention(nn.Module):
    """Attention of queries to keys, with separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.k = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.v = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.proj = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = split_heads(self.q(query)), split_heads(self.k(key)), split_heads(self.v(value))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _SelfAttention(nn.Module):
    """Attention among queries, with one projection for all three."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(TOKEN_WIDTH, 3 * TOKEN_WIDTH)
        self.proj = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part) for part in self.qkv(x).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    """The feed-forward network of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(TOKEN_WIDTH, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, TOKEN_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Self-attention if asked for, cross-attention, feed-forward; post-norm."""

    def __init__(self, *, self_attention: bool) -> None:
        super().__init__()
        self.head_norm1 = LayerNorm(TOKEN_WIDTH, NORM_EPSILON)
        self.attn = _CrossAttention()
        self.head_norm2 = LayerNorm(TOKEN_WIDTH, NORM_EPSILON)
        self.mlp = _Mlp()
        self.self_attention = _SelfAttention() if self_attention else None
        self.norm3 = LayerNorm(TOKEN_WIDTH, NORM_EPSILON) if self_attention else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.self_attention is not None and self.norm3 is not None:
            query = self.norm3(query + self.self_attention(query))
        query = self.head_norm1(query + self.attn(query, key, value))
        return self.head_norm2(query + self.mlp(query))


class _MaskAttention(nn.Module):
    """A mask from the raw attention logits of all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.k = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.linear_l1 = nn.Sequential(nn.Linear(HEADS, HEADS), nn.ReLU())
        self.linear = nn.Sequential(nn.Linear(HEADS, 1), nn.ReLU())

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        q, k = split_heads(self.q(query)), split_heads(self.k(key))
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return self.linear(self.linear_l1(logits.permute(0, 2, 3, 1)))[..., 0]


class MaskHead(nn.Module):
    """Blocks that refine queries against the memory, and the mask of each."""

    def __init__(self, blocks: int, *, self_attention: bool) -> None:
        """Make the head with that many blocks."""
        super().__init__()
        self.blocks = nn.ModuleList(_Block(self_attention=self_attention) for _ in range(blocks))
        self.attnen = _MaskAttention()

    def forward(
        self, query: Tensor, memory: Tensor, position: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Masks and final queries.

        Args:
            query: (B, Q, C).
            memory: (B, cells, C).
            position: added to the queries before each block and the mask.

        Returns:
            (B, Q, cells) mask values, at least 0 and not bounded above, and (B, Q, C) queries.
        """
        for block in self.blocks:
            query = block(_plus(query, position), memory, memory)
        return self.attnen(_plus(query, position), memory), query


def split_heads(x: Tensor) -> Tensor:
    """(B, N, C) → (B, heads, N, C / heads)."""
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def _plus(x: Tensor, position: Tensor | None) -> Tensor:
    return x if position is None else x + position


def mask_quality(masks: Tensor) -> Tensor:
    """(…, cells) masks → (…) sum over the cells above one half by their number plus one."""
    inside = masks > 0.5
    return (masks * inside).sum(-1) / (inside.sum(-1) + 1)


def merge_masks(
    masks: Tensor,
    labels: list[int],
    scores: list[float],
    *,
    minimum_score: float,
    overlap: float,
    first_class_never_occupies: bool,
) -> tuple[list[int], Tensor]:
    """Masks accepted greedily, and who owns each cell.

    Args:
        masks: (Q, cells) bool, best first, on the host.
        labels: class of each.
        scores: final score of each.
        minimum_score: a mask below it is left out.
        overlap: a mask is left out if more than this share of it is taken.
        first_class_never_occupies: cells of class 0 stay free for others.

    Returns:
        Ranks of the accepted masks, and (accepted, cells) bool, the cells each was given.
    """
    taken = torch.zeros(masks.shape[-1], dtype=torch.bool)
    areas = masks.sum(-1).tolist()
    accepted, given = [], []
    for rank, (area, score) in enumerate(zip(areas, scores, strict=True)):
        if score < minimum_score or area == 0:
            continue
        mask = masks[rank]
        if int((mask & taken).sum()) / area > overlap:
            continue
        free = mask & ~taken
        accepted.append(rank)
        given.append(free)
        if labels[rank] > 0 or not first_class_never_occupies:
            taken = taken | free
    return accepted, torch.stack(given) if given else masks[:0]
