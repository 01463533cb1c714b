"""The bird's-eye view encoder (BEVFormer, Li et al. 2022): images and history → one feature map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.bev_geometry import (
    VisiblePairs,
    cell_grid,
    ego_shift,
    pillar_points,
    project,
    rotate_view,
    visible_pairs,
)
from odvla_bench.baselines.opendrivevla.perception.config import (
    CAMERAS,
    TOKEN_WIDTH,
    PerceptionConfig,
)
from odvla_bench.baselines.opendrivevla.perception.deformable import (
    constant,
    deformable_attention,
)
from odvla_bench.baselines.opendrivevla.perception.layers import (
    HEADS,
    DecoderLayer,
    FeedForward,
    LayerNorm,
    LayerStack,
    full_precision,
    item_index,
    spread_offsets,
)

FEATURE_LEVELS = 4
HIDDEN = 512
CAN_BUS_WIDTH = 18
QUEUE = 2
"""Views that temporal attention reads: the previous one and the present one."""
TEMPORAL_POINTS = 4
SPATIAL_POINTS = 8


@dataclass(frozen=True)
class EncoderInputs:
    """What all layers of the encoder share for one frame."""

    position: Tensor
    """(cells, C) learned position of the cells."""
    history: Tensor | None
    """(B, 2, cells, C) the previous view, turned, and the initial queries; None at a start."""
    grid: Tensor
    """(B, 2, cells, 2) where each of the two views is sampled, units of the view."""
    value: Tensor
    """(B * cameras, tokens, C) image features of all levels."""
    shapes: list[tuple[int, int]]
    """Rows and columns of the levels."""
    pairs: VisiblePairs
    """Which cell sees which image where."""


class TemporalSelfAttention(nn.Module):
    """Deformable attention of each cell to the previous and the present view."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the projections."""
        super().__init__()
        self.rows, self.columns = config.bev_rows, config.bev_columns
        samples = QUEUE * HEADS * TEMPORAL_POINTS
        self.sampling_offsets = nn.Linear(QUEUE * TOKEN_WIDTH, samples * 2)
        self.attention_weights = nn.Linear(QUEUE * TOKEN_WIDTH, samples)
        self.value_proj = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.output_proj = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.dropout = nn.Dropout(config.dropout)
        spread_offsets(self.sampling_offsets, QUEUE, TEMPORAL_POINTS)

    def forward(self, x: Tensor, shared: EncoderInputs) -> Tensor:
        """(B, cells, C) → (B, cells, C).

        The present view is the layer's own queries at the start of a scene and the encoder's
        initial queries afterwards: the official code does so and the weights expect it.
        """
        batch, cells, _ = x.shape
        views = torch.stack([x, x], 1) if shared.history is None else shared.history
        query = torch.cat([views[:, 0], x + shared.position], -1).float()
        layout = (batch, cells, HEADS, QUEUE, TEMPORAL_POINTS)
        with full_precision(query):
            offsets = self.sampling_offsets(query).view(*layout, 2)
            weights = self.attention_weights(query).view(layout).softmax(-1) / QUEUE
        grid = shared.grid.permute(0, 2, 1, 3)[:, :, None, :, None]
        locations = grid + offsets / constant((self.columns, self.rows), x.device, offsets.dtype)
        out = deformable_attention(
            self.value_proj(views).view(batch, QUEUE * cells, HEADS, -1),
            [(self.rows, self.columns)] * QUEUE,
            locations.flatten(0, 1),
            weights.flatten(0, 1),
            item_index(x),
        )
        return x + self.dropout(self.output_proj(out.view(batch, cells, -1)))


class ImageAttention(nn.Module):
    """The projections of a cell's attention to the images; the output stays unprojected."""

    def __init__(self) -> None:
        """Make the projections."""
        super().__init__()
        samples = HEADS * FEATURE_LEVELS * SPATIAL_POINTS
        self.sampling_offsets = nn.Linear(TOKEN_WIDTH, samples * 2)
        self.attention_weights = nn.Linear(TOKEN_WIDTH, samples)
        self.value_proj = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        spread_offsets(self.sampling_offsets, FEATURE_LEVELS, SPATIAL_POINTS)

    def forward(self, x: Tensor, shared: EncoderInputs) -> Tensor:
        """(B, cells, C) → (P, C), what each visible pair of `shared` collects.

        Offsets and weights depend on the cell alone, so they are made once a cell.
        """
        query = x.flatten(0, 1).float()
        anchors = shared.pairs.points.shape[1]
        with full_precision(query):
            # Points are offsets × anchors with the anchor fastest.
            layout = (-1, HEADS, FEATURE_LEVELS, SPATIAL_POINTS // anchors, anchors, 2)
            offsets = self.sampling_offsets(query).view(layout)
            weights = self.attention_weights(query).view(-1, HEADS, FEATURE_LEVELS * SPATIAL_POINTS)
            weights = weights.softmax(-1).view(-1, HEADS, FEATURE_LEVELS, SPATIAL_POINTS)
        size = constant(tuple(shared.shapes), x.device, offsets.dtype).flip(-1)
        offsets = offsets / size[:, None, None]
        pairs = shared.pairs
        locations = pairs.points[:, None, None, None] + offsets[pairs.cell]
        images, tokens, _ = shared.value.shape
        return deformable_attention(
            self.value_proj(shared.value).view(images, tokens, HEADS, -1),
            shared.shapes,
            locations.flatten(3, 4),
            weights[pairs.cell],
            pairs.image,
        )


class SpatialCrossAttention(nn.Module):
    """Attention of each cell to the images that see it, averaged over these."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the attention and its output projection."""
        super().__init__()
        self.deformable_attention = ImageAttention()
        self.output_proj = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, shared: EncoderInputs) -> Tensor:
        """(B, cells, C) → (B, cells, C)."""
        collected = self.deformable_attention(x, shared)
        pairs = shared.pairs
        mean = F.embedding_bag(
            torch.arange(len(pairs.cell), device=x.device),
            collected,
            pairs.starts,
            mode="sum",
            per_sample_weights=pairs.weight.to(collected.dtype),
        )
        return x + self.dropout(self.output_proj(mean.view_as(x)))


class EncoderLayer(nn.Module):
    """Temporal attention, image attention, feed-forward; post-norm."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make one layer."""
        super().__init__()
        self.attentions = nn.ModuleList(
            [TemporalSelfAttention(config), SpatialCrossAttention(config)]
        )
        self.ffns = nn.ModuleList([FeedForward(TOKEN_WIDTH, HIDDEN, config.dropout)])
        self.norms = nn.ModuleList(LayerNorm(TOKEN_WIDTH) for _ in range(3))

    def forward(self, x: Tensor, shared: EncoderInputs) -> Tensor:
        """(B, cells, C) → (B, cells, C)."""
        x = self.norms[0](self.attentions[0](x, shared))
        x = self.norms[1](self.attentions[1](x, shared))
        return self.norms[2](self.ffns[0](x))


class LearnedPosition(nn.Module):
    """A position for each cell: half from its column, half from its row."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the two tables."""
        super().__init__()
        self.row_embed = nn.Embedding(config.bev_rows, TOKEN_WIDTH // 2)
        self.col_embed = nn.Embedding(config.bev_columns, TOKEN_WIDTH // 2)

    def forward(self) -> Tensor:
        """(cells, C)."""
        rows, columns = self.row_embed.weight, self.col_embed.weight
        return torch.cat(
            [columns.repeat(len(rows), 1), rows.repeat_interleave(len(columns), 0)], -1
        )


def can_bus_mlp() -> nn.Sequential:
    """The network of the CAN-bus vector."""
    layers = nn.Sequential(
        nn.Linear(CAN_BUS_WIDTH, TOKEN_WIDTH // 2),
        nn.ReLU(),
        nn.Linear(TOKEN_WIDTH // 2, TOKEN_WIDTH),
        nn.ReLU(),
    )
    layers.add_module("norm", LayerNorm(TOKEN_WIDTH))
    return layers


def flatten_features(
    features: Sequence[Tensor], cameras: Tensor, levels: Tensor
) -> tuple[Tensor, list[tuple[int, int]]]:
    """(B, cameras, C, h, w) maps with their embeddings → (B * cameras, tokens, C) and shapes."""
    flat = []
    for level, feature in enumerate(features):
        tokens = feature.flatten(3).transpose(2, 3)
        flat.append((tokens + cameras[:, None] + levels[level]).flatten(0, 1))
    return torch.cat(flat, 1), [(f.shape[-2], f.shape[-1]) for f in features]


def sampling_grid(can_bus: Tensor, config: PerceptionConfig) -> Tensor:
    """(B, 2, cells, 2) where the previous and the present view are sampled."""
    grid = cell_grid(config.bev_rows, config.bev_columns, can_bus.device)
    previous = grid + ego_shift(can_bus, config)[:, None]
    moved = config.behaviour.shift_current_grid
    present = previous if moved else grid.expand_as(previous)
    return torch.stack([previous, present], 1)


class BevTransformer(nn.Module):
    """The encoder with its embeddings, under the checkpoint's name `transformer`."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make encoder and embeddings, and the decoder's layers, which `DetectionHead` runs."""
        super().__init__()
        self.config = config
        self.level_embeds = nn.Parameter(torch.randn(FEATURE_LEVELS, TOKEN_WIDTH))
        self.cams_embeds = nn.Parameter(torch.randn(len(CAMERAS), TOKEN_WIDTH))
        self.can_bus_mlp = can_bus_mlp()
        self.encoder = LayerStack(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = LayerStack(
            DecoderLayer(TOKEN_WIDTH, HIDDEN, config.dropout) for _ in range(config.decoder_layers)
        )

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        features: Sequence[Tensor],
        lidar2img: Tensor,
        can_bus: Tensor,
        image_size: tuple[int, int],
        previous: Tensor | None,
    ) -> Tensor:
        """The bird's-eye view of one frame of each of B scenes.

        Args:
            queries: (cells, C) learned queries.
            position: (cells, C) learned positions.
            features: (B, cameras, C, h, w) maps, finest first.
            lidar2img: (B, cameras, 4, 4) LIDAR frame to pixels times depth.
            can_bus: (B, 18) float64; entries 0-2 the motion since the previous frame (GLOBAL
                frame, metres), -2 the heading (radians), -1 the turn since then (degrees).
            image_size: rows and columns of the padded images.
            previous: (B, cells, C) the previous frame's result, None at the start of scenes.

        Returns:
            (B, cells, C), LIDAR frame, row-major.
        """
        config = self.config
        with full_precision(queries):
            x = queries + self.can_bus_mlp(can_bus.float())[:, None]
        history = None
        if previous is not None:
            turned = rotate_view(previous, can_bus[:, -1], config.bev_rows, config.bev_columns)
            history = torch.stack([turned, x], 1)
        points = pillar_points(config, x.device)
        value, shapes = flatten_features(features, self.cams_embeds, self.level_embeds)
        shared = EncoderInputs(
            position=position,
            history=history,
            grid=sampling_grid(can_bus, config),
            value=value,
            shapes=shapes,
            pairs=visible_pairs(*project(points, lidar2img, image_size)),
        )
        for layer in self.encoder.layers:
            x = layer(x, shared)
        return x
