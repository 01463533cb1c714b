"""The agents of a frame: tracks that are seen, best first, with metric boxes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.config import PerceptionConfig
from odvla_bench.baselines.opendrivevla.perception.deformable import constant
from odvla_bench.baselines.opendrivevla.perception.tracker import take_slots


@dataclass(frozen=True)
class Agents:
    """Agents of B scenes in A slots, by falling score; slots that hold none have `valid` false."""

    features: Tensor
    """(B, A, C) decoder features before the memory bank: the tokens."""
    boxes: Tensor
    """(B, A, 9) x, y, z of the bottom's centre, width, length, height, official yaw, velocity
    x, y; LIDAR frame, metres, radians, m/s."""
    scores: Tensor
    """(B, A) highest class probability."""
    labels: Tensor
    """(B, A) index into `CLASSES`."""
    identities: Tensor
    """(B, A) track numbers within the scene."""
    valid: Tensor
    """(B, A)."""

    def of(self, scene: int, keep: Tensor | None = None) -> Agents:
        """One scene's agents without batch axis: the valid ones, or those of mask `keep`."""
        mask = self.valid[scene] if keep is None else keep
        return Agents(*(getattr(self, f.name)[scene][mask] for f in fields(self)))


def select_agents(
    features: Tensor,
    class_logits: Tensor,
    boxes: Tensor,
    identities: Tensor,
    active: Tensor,
    config: PerceptionConfig,
) -> Agents:
    """The best active queries whose centre is in range.

    Args:
        features: (B, N, C).
        class_logits: (B, N, classes).
        boxes: (B, N, 10) as `Detections` has them.
        identities: (B, N).
        active: (B, N) which queries count.
        config: the largest number and the range.
    """
    scores, labels = class_logits.sigmoid().max(-1)
    ranked, order = scores.masked_fill(~active, -1).topk(
        min(config.max_agents, scores.shape[1]), dim=1
    )
    metric = metric_boxes(take_slots(boxes, order))
    limit = constant(
        (config.max_xy_m, config.max_xy_m, config.max_z_m), metric.device, metric.dtype
    )
    in_range = (metric[..., :3].abs() <= limit).all(-1)
    return Agents(
        features=take_slots(features, order),
        boxes=metric,
        scores=ranked,
        labels=labels.gather(1, order),
        identities=identities.gather(1, order),
        valid=in_range & (ranked >= 0),
    )


def metric_boxes(boxes: Tensor) -> Tensor:
    """(…, 10) regressed boxes → (…, 9) x, y, z, width, length, height, yaw, velocity x, y."""
    x, y, log_w, log_l, z, log_h, sin, cos, vx, vy = boxes.unbind(-1)
    yaw = torch.atan2(sin, cos)
    return torch.stack([x, y, z, log_w.exp(), log_l.exp(), log_h.exp(), yaw, vx, vy], -1)


def standard_boxes(boxes: Tensor) -> Tensor:
    """(…, 9) boxes as `Agents` has them → the same in the convention of this package.

    Returns:
        (…, 9) x, y, z of the centre, length, width, height, heading counter-clockwise from +x,
        velocity x, y; LIDAR frame.
    """
    x, y, bottom, width, length, height, yaw, vx, vy = boxes.unbind(-1)
    centre = (x, y, bottom + height / 2)
    return torch.stack([*centre, length, width, height, heading(yaw), vx, vy], -1)


def heading(official_yaw_rad: Tensor) -> Tensor:
    """Headings, counter-clockwise from +x (LIDAR frame), of the official, legacy yaws."""
    turned = -official_yaw_rad - torch.pi / 2
    return torch.atan2(turned.sin(), turned.cos())
