"""The detection head: bird's-eye view encoder, query decoder and box regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.bev_encoder import (
    BevTransformer,
    LearnedPosition,
)
from odvla_bench.baselines.opendrivevla.perception.config import (
    CLASSES,
    TOKEN_WIDTH,
    PerceptionConfig,
)
from odvla_bench.baselines.opendrivevla.perception.deformable import constant
from odvla_bench.baselines.opendrivevla.perception.layers import (
    LayerNorm,
    full_precision,
    inverse_sigmoid,
    mlp,
)

BOX_WIDTH = 10
TRAJECTORY_STEPS = 8


@dataclass(frozen=True)
class Detections:
    """What the decoder says of each query."""

    features: Tensor
    """(B, N, C) of the last layer."""
    class_logits: Tensor
    """(layers, B, N, classes)."""
    boxes: Tensor
    """(layers, B, N, 10): x, y, log width, log length, z, log height, sine and cosine of the
    official yaw, velocity x, y; LIDAR frame, metres, m/s."""
    reference: Tensor
    """(B, N, 3) logits of the last layer's centre x, y, z in units of the range."""
    trajectories: Tensor
    """(B, N, 8, 2) the last layer's past and future offsets, metres; nothing here uses them."""


class DetectionHead(nn.Module):
    """Everything under the checkpoint's `pts_bbox_head`."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make encoder, decoder and branches."""
        super().__init__()
        self.config = config
        self.positional_encoding = LearnedPosition(config)
        self.bev_embedding = nn.Embedding(config.cells, TOKEN_WIDTH)
        self.transformer = BevTransformer(config)
        layers = range(config.decoder_layers)
        width = TOKEN_WIDTH
        self.cls_branches = nn.ModuleList(_class_branch() for _ in layers)
        self.reg_branches = nn.ModuleList(mlp(width, width, width, BOX_WIDTH) for _ in layers)
        self.past_traj_reg_branches = nn.ModuleList(
            mlp(width, width, width, TRAJECTORY_STEPS * 2) for _ in layers
        )

    def encode(
        self,
        features: Sequence[Tensor],
        lidar2img: Tensor,
        can_bus: Tensor,
        image_size: tuple[int, int],
        previous: Tensor | None,
    ) -> Tensor:
        """The bird's-eye view; arguments and result as in `BevTransformer.forward`."""
        return self.transformer(
            self.bev_embedding.weight,
            self.positional_encoding(),
            features,
            lidar2img,
            can_bus,
            image_size,
            previous,
        )

    def decode(self, bev: Tensor, query: Tensor, reference: Tensor, padding: Tensor) -> Detections:
        """Boxes of queries, in float32 throughout: thresholds and tracks hang on them.

        Args:
            bev: (B, cells, C).
            query: (B, N, 2 C) position and feature.
            reference: (B, N, 3) logits of the centre, units of the range.
            padding: (B, N) true where there is no query.
        """
        with full_precision(bev):
            return self._decode(bev.float(), query.float(), reference.float(), padding)

    def _decode(self, bev: Tensor, query: Tensor, reference: Tensor, padding: Tensor) -> Detections:
        position, x = query[..., :TOKEN_WIDTH], query[..., TOKEN_WIDTH:]
        shape = (self.config.bev_rows, self.config.bev_columns)
        centre = reference.sigmoid()
        class_logits, boxes = [], []
        for i, layer in enumerate(self.transformer.decoder.layers):
            x = layer(x, position, bev, shape, centre[..., :2], padding)
            box = self.reg_branches[i](x)
            reference = inverse_sigmoid(centre) + box[..., [0, 1, 4]]
            boxes.append(_with_centre(box, reference.sigmoid(), self.config.range_m))
            class_logits.append(self.cls_branches[i](x))
            centre = reference.sigmoid().detach()
        trajectories = self.past_traj_reg_branches[-1](x)
        return Detections(
            features=x,
            class_logits=torch.stack(class_logits),
            boxes=torch.stack(boxes),
            reference=inverse_sigmoid(reference.sigmoid()),
            trajectories=trajectories.view(*x.shape[:2], TRAJECTORY_STEPS, 2),
        )


def _with_centre(box: Tensor, centre: Tensor, range_m: tuple[float, ...]) -> Tensor:
    """The regressed box with its centre, given in units of the range, in metres."""
    low, high = constant(range_m, centre.device, centre.dtype).view(2, 3)
    x, y, z = (centre * (high - low) + low).unbind(-1)
    size_xy, height_on = box[..., 2:4], box[..., 5:]
    return torch.cat([x[..., None], y[..., None], size_xy, z[..., None], height_on], -1)


def _class_branch() -> nn.Sequential:
    width = TOKEN_WIDTH
    return nn.Sequential(
        nn.Linear(width, width),
        LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, width),
        LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, len(CLASSES)),
    )
