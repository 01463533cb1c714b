"""The map head: dividers, crossings, contours and the drivable area from the bird's-eye view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.bev_encoder import HIDDEN
from odvla_bench.baselines.opendrivevla.perception.bev_geometry import cell_grid
from odvla_bench.baselines.opendrivevla.perception.config import (
    MAP_CLASSES,
    TOKEN_WIDTH,
    PerceptionConfig,
)
from odvla_bench.baselines.opendrivevla.perception.layers import (
    DecoderLayer,
    DeformableAttention,
    FeedForward,
    LayerNorm,
    LayerStack,
    full_precision,
    inverse_sigmoid,
    mlp,
)
from odvla_bench.baselines.opendrivevla.perception.map_masks import (
    MaskHead,
    mask_quality,
    merge_masks,
)

LEVEL_EMBEDDINGS = 4


class MapEncoderLayer(nn.Module):
    """Deformable self-attention of the view's cells, feed-forward; post-norm."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make one layer."""
        super().__init__()
        attention = DeformableAttention(
            TOKEN_WIDTH, config.dropout, levels=config.map_attention_levels
        )
        self.attentions = nn.ModuleList([attention])
        self.ffns = nn.ModuleList([FeedForward(TOKEN_WIDTH, HIDDEN, config.dropout)])
        self.norms = nn.ModuleList(LayerNorm(TOKEN_WIDTH) for _ in range(2))

    def forward(self, x: Tensor, position: Tensor, shape: tuple[int, int], grid: Tensor) -> Tensor:
        """(B, cells, C) → (B, cells, C)."""
        x = self.norms[0](self.attentions[0](x, position, x, shape, grid))
        return self.norms[1](self.ffns[0](x))


class MapTransformer(nn.Module):
    """Encoder and decoder under the checkpoint's name `transformer`."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the layers."""
        super().__init__()
        self.level_embeds = nn.Parameter(torch.randn(LEVEL_EMBEDDINGS, TOKEN_WIDTH))
        self.encoder = LayerStack(MapEncoderLayer(config) for _ in range(config.map_encoder_layers))
        self.decoder = LayerStack(
            DecoderLayer(TOKEN_WIDTH, HIDDEN, config.dropout, levels=config.map_attention_levels)
            for _ in range(config.map_decoder_layers)
        )
        self.reference_points = nn.Linear(TOKEN_WIDTH, 2)


@dataclass(frozen=True)
class MapQueries:
    """What the decoder says of each map query."""

    memory: Tensor
    """(B, cells, C) encoded view."""
    features: Tensor
    """(B, Q, C)."""
    class_logits: Tensor
    """(layers, B, Q, 3)."""
    boxes: Tensor
    """(layers, B, Q, 4) centre x, y, width, height; units of the view."""


@dataclass(frozen=True)
class MapElements:
    """The map of one frame of one scene."""

    tokens: Tensor
    """(accepted + 1, C): countable elements, then the drivable area."""
    labels: Tensor
    """(accepted) index into `MAP_CLASSES` of the accepted masks."""
    scores: Tensor
    """(accepted)."""
    masks: Tensor
    """(3, rows, columns) bool, on the host: cells of each class; row = y, column = x, LIDAR."""
    drivable: Tensor
    """(rows, columns) bool."""
    ranks: Tensor
    """(accepted) place of each accepted mask among the candidates by final score."""


class MapHead(nn.Module):
    """Everything used under the checkpoint's `seg_head`."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make transformer, branches and mask heads."""
        super().__init__()
        self.config = config
        self.shape = (config.bev_rows, config.bev_columns)
        width, layers = TOKEN_WIDTH, range(config.map_decoder_layers)
        self.transformer = MapTransformer(config)
        self.query_embedding = nn.Embedding(config.map_queries, 2 * width)
        self.stuff_query = nn.Embedding(1, 2 * width)
        self.cls_branches = nn.ModuleList(nn.Linear(width, len(MAP_CLASSES)) for _ in layers)
        self.reg_branches = nn.ModuleList(mlp(width, width, width, 4) for _ in layers)
        self.things_mask_head = MaskHead(config.thing_blocks, self_attention=False)
        self.stuff_mask_head = MaskHead(config.stuff_blocks, self_attention=True)

    def forward(self, bev: Tensor) -> list[MapElements]:
        """(B, cells, C) views → the map of each scene, in float32 throughout.

        Elements are ranked by masks that are cut at a threshold: in half precision neighbours
        change places and other tokens are sent. It is a tenth of a frame's operations.
        """
        with full_precision(bev):
            return self.elements(self.decode(self.encode(bev.float())))

    def encode(self, bev: Tensor) -> Tensor:
        """(B, cells, C) → (B, cells, C) memory."""
        grid = cell_grid(*self.shape, bev.device).expand(len(bev), -1, -1)
        position = self.position(bev.device)
        for layer in self.transformer.encoder.layers:
            bev = layer(bev, position, self.shape, grid)
        return bev

    def position(self, device: torch.device) -> Tensor:
        """(cells, C) sine position and level embedding."""
        return sine_position(*self.shape, device) + self.transformer.level_embeds[0]

    def decode(self, memory: Tensor) -> MapQueries:
        """The queries after the decoder."""
        position, x = self.query_embedding.weight.expand(len(memory), -1, -1).chunk(2, -1)
        reference = self.transformer.reference_points(position).sigmoid()
        class_logits, boxes = [], []
        for i, layer in enumerate(self.transformer.decoder.layers):
            x = layer(x, position, memory, self.shape, reference)
            logits = self.reg_branches[i](x)
            before = inverse_sigmoid(reference)
            size = logits[..., 2:] + before[..., 2:] if i else logits[..., 2:]
            box = torch.cat([logits[..., :2] + before[..., :2], size], -1).sigmoid()
            class_logits.append(self.cls_branches[i](x))
            boxes.append(box)
            reference = box.detach()
        return MapQueries(memory, x, torch.stack(class_logits), torch.stack(boxes))

    def candidates(self, queries: MapQueries) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K) scores, classes and query numbers of the best pairs of query and class."""
        flat = queries.class_logits[-1].sigmoid().flatten(1)
        scores, index = flat.topk(min(self.config.map_candidates, flat.shape[1]), dim=1)
        kinds = len(MAP_CLASSES)
        return scores, index % kinds, index // kinds

    def elements(self, queries: MapQueries) -> list[MapElements]:
        """Masks, their greedy merge and the tokens, of each scene."""
        scores, labels, index = self.candidates(queries)
        chosen = queries.features.gather(1, index[..., None].expand(-1, -1, TOKEN_WIDTH))
        masks, things = self.things_mask_head(chosen, queries.memory)
        query, position = self.stuff_query.weight[None].expand(len(masks), -1, -1).chunk(2, -1)
        drivable, stuff = self.stuff_mask_head(query, queries.memory, position)
        final, order = (scores * mask_quality(masks) ** 2).sort(descending=True)
        return [
            self._scene(
                masks[b, order[b]],
                labels[b, order[b]],
                final[b],
                things[b] if self.config.behaviour.map_tokens_by_rank else things[b, order[b]],
                drivable[b, 0],
                stuff[b],
            )
            for b in range(len(masks))
        ]

    def _scene(
        self,
        masks: Tensor,
        labels: Tensor,
        scores: Tensor,
        things: Tensor,
        drivable: Tensor,
        stuff: Tensor,
    ) -> MapElements:
        host_labels = labels.cpu()
        ranks, cells = merge_masks(
            (masks > 0.5).cpu(),
            host_labels.tolist(),
            scores.tolist(),
            minimum_score=self.config.map_score,
            overlap=self.config.map_overlap,
            first_class_never_occupies=self.config.behaviour.first_map_class_never_occupies,
        )
        rank = torch.tensor(ranks, dtype=torch.int64)
        by_class = torch.zeros(len(MAP_CLASSES), masks.shape[-1], dtype=torch.int32)
        by_class.index_add_(0, host_labels[rank], cells.int())
        rank = rank.to(masks.device)
        return MapElements(
            tokens=torch.cat([things[rank], stuff]),
            labels=labels[rank],
            scores=scores[rank],
            masks=by_class.bool().view(-1, *self.shape),
            drivable=(drivable > 0.5).view(self.shape),
            ranks=rank,
        )


def sine_position(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, C) sine position (Carion et al. 2020): half y, half x, over 2 pi."""
    half = TOKEN_WIDTH // 2
    step = torch.arange(half, device=device, dtype=torch.float32)
    period = 10000 ** (2 * (step // 2) / half)

    def waves(size: int) -> Tensor:
        place = (torch.arange(1, size + 1, device=device) - 0.5) / (size + 1e-6) * (2 * math.pi)
        angle = place[:, None] / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    y = waves(rows).repeat_interleave(columns, 0)
    return torch.cat([y, waves(columns).repeat(rows, 1)], -1)
