"""The tokens of a keyframe: what the language model sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.agents import Agents
from odvla_bench.baselines.opendrivevla.perception.config import SCENE_GRID, PerceptionConfig


@dataclass(frozen=True)
class FrameTokens:
    """Tokens of one keyframe and what its agents are, best first."""

    scene: Tensor
    """(90, C) camera after camera in the order of `CAMERAS`, row-major within each."""
    agents: Tensor
    """(n, C)."""
    map: Tensor
    """(m, C) countable elements, then the drivable area."""
    agent_ids: Tensor
    """(n) int64 track numbers within the scene; box numbers where there are no tracks."""
    agent_boxes: Tensor
    """(n, 9) x, y, z of the bottom's centre, width, length, height, official yaw, velocity x, y;
    LIDAR frame, metres, radians, m/s."""
    agent_scores: Tensor
    """(n)."""
    agent_labels: Tensor
    """(n) int64 index into `CLASSES`."""


def scene_tokens(coarsest: Tensor) -> Tensor:
    """(B, cameras, C, h, w) coarsest features → (B, 90, C): the maxima on a 3 × 5 grid."""
    batch, cameras, channels = coarsest.shape[:3]
    pooled = F.adaptive_max_pool2d(coarsest.flatten(0, 1).float(), SCENE_GRID)
    tokens = pooled.flatten(2).transpose(1, 2)
    return tokens.reshape(batch, cameras * SCENE_GRID[0] * SCENE_GRID[1], channels)


def agent_tokens(agents: Agents, scene: int, config: PerceptionConfig) -> Agents:
    """One scene's agents that become tokens, without batch axis."""
    seen = agents.of(scene)
    if config.behaviour.drop_last_track:
        return Agents(*(getattr(seen, name)[:-1] for name in Agents.__dataclass_fields__))
    return seen
