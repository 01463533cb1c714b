"""Blocks that several parts of the network share, named as in the official checkpoints.

Under autocast image network and view encoder run their wide projections in half precision;
softmax, normalisation, sampling geometry and everything wrapped in `full_precision`, which is all
that chooses tokens, stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.deformable import (
    constant,
    deformable_attention,
    flat_read,
)

HEADS = 8


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False)


def inverse_sigmoid(p: Tensor, epsilon: float = 1e-5) -> Tensor:
    """The logit of probabilities, held `epsilon` away from 0 and 1."""
    p = p.clamp(0, 1)
    return torch.log(p.clamp(min=epsilon) / (1 - p).clamp(min=epsilon))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation that computes in float32 whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) → (..., C), float32 or wider."""
        return super().forward(x.float() if x.dtype.itemsize < 4 else x)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class FeedForward(nn.Module):
    """The residual two-layer network of a transformer layer."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        """Make a network of `width` channels with `hidden` in the middle."""
        super().__init__()
        first = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.layers = nn.Sequential(first, nn.Linear(hidden, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) → (..., C)."""
        return x + self.layers(x)


class SelfAttention(nn.Module):
    """Residual multi-head self-attention with a position added to queries and keys."""

    def __init__(self, width: int, dropout: float) -> None:
        """Make the eight-headed attention."""
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, Q, C) features and positions → (B, Q, C); `padding` (B, Q) is true at no query."""
        keys = x + position
        out = self.attn(keys, keys, x, key_padding_mask=padding, need_weights=False)[0]
        return x + self.dropout(out)


class DeformableAttention(nn.Module):
    """Residual deformable attention to one feature map; its callers run it in float32."""

    def __init__(self, width: int, dropout: float, *, levels: int = 1, points: int = 4) -> None:
        """Make the attention.

        Args:
            width: channels.
            dropout: of the output.
            levels: levels the weights are made for; with more than one they are read flat.
            points: sampling points a head and level.
        """
        super().__init__()
        self.levels, self.points = levels, points
        self.sampling_offsets = nn.Linear(width, HEADS * levels * points * 2)
        self.attention_weights = nn.Linear(width, HEADS * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        spread_offsets(self.sampling_offsets, levels, points)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)

    def forward(
        self, x: Tensor, position: Tensor, memory: Tensor, shape: tuple[int, int], reference: Tensor
    ) -> Tensor:
        """Attend to `memory` near the references.

        Args:
            x: (B, Q, C) queries.
            position: (B, Q, C) added to the queries for the sampling only.
            memory: (B, rows * columns, C).
            shape: rows and columns of the memory.
            reference: (B, Q, 2) x, y or (B, Q, 4) x, y, width, height; units of the map, 0…1.

        Returns:
            (B, Q, C).
        """
        batch, queries, _ = x.shape
        locations, weights = self._sampling(x + position, reference, shape)
        if self.levels > 1:
            locations = flat_read(locations, queries)
            weights = flat_read(weights, queries)
        value = self.value_proj(memory).view(batch, shape[0] * shape[1], HEADS, -1)
        out = deformable_attention(
            value, [shape], locations.flatten(0, 1), weights.flatten(0, 1), item_index(x)
        )
        return x + self.dropout(self.output_proj(out.view(batch, queries, -1)))

    def _sampling(
        self, query: Tensor, reference: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, Q', heads, levels, points[, 2]) locations and weights of the queries that matter."""
        used = -(-query.shape[1] // self.levels)
        query, reference = query[:, :used], reference[:, :used, None, None, None]
        layout = (*query.shape[:2], HEADS, self.levels, self.points)
        offsets = self.sampling_offsets(query).view(*layout, 2)
        weights = self.attention_weights(query).view(*layout[:3], -1).softmax(-1).view(layout)
        if reference.shape[-1] == 4:
            unit = reference[..., 2:] * (0.5 / self.points)
        else:
            unit = 1 / constant((shape[1], shape[0]), reference.device, reference.dtype)
        return reference[..., :2] + offsets * unit, weights


def item_index(x: Tensor) -> Tensor:
    """For (B, Q, …) the batch index of each of its B * Q rows."""
    return torch.arange(x.shape[0], device=x.device).repeat_interleave(x.shape[1])


def spread_offsets(layer: nn.Linear, levels: int, points: int) -> None:
    """Start sampling on a star around the reference: one direction a head, further each point."""
    angle = torch.arange(HEADS, dtype=torch.float32) * (2 * torch.pi / HEADS)
    star = torch.stack([angle.cos(), angle.sin()], -1)
    star = star / star.abs().amax(-1, keepdim=True)
    distance = torch.arange(1, points + 1)[:, None]
    bias = (star[:, None, None] * distance).expand(HEADS, levels, points, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(bias.reshape(-1).to(layer.bias.device))


class DecoderLayer(nn.Module):
    """Self-attention of queries, deformable attention to a map, feed-forward; post-norm."""

    def __init__(self, width: int, hidden: int, dropout: float, *, levels: int = 1) -> None:
        """Make one layer; `levels` as in `DeformableAttention`."""
        super().__init__()
        self.attentions = nn.ModuleList(
            [SelfAttention(width, dropout), DeformableAttention(width, dropout, levels=levels)]
        )
        self.ffns = nn.ModuleList([FeedForward(width, hidden, dropout)])
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        memory: Tensor,
        shape: tuple[int, int],
        reference: Tensor,
        padding: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, C) → (B, Q, C); arguments as in the two attentions."""
        x = self.norms[0](self.attentions[0](x, position, padding))
        x = self.norms[1](self.attentions[1](x, position, memory, shape, reference))
        return self.norms[2](self.ffns[0](x))


class LayerStack(nn.Module):
    """Layers under the official name `layers`."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        """Hold the layers in their order."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
