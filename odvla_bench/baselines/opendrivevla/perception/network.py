"""The whole perception: images and history of B scenes in, agents, map and features out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.agents import Agents, select_agents
from odvla_bench.baselines.opendrivevla.perception.backbone import FeaturePyramid, ResNet
from odvla_bench.baselines.opendrivevla.perception.config import TOKEN_WIDTH, PerceptionConfig
from odvla_bench.baselines.opendrivevla.perception.layers import full_precision
from odvla_bench.baselines.opendrivevla.perception.track_decoder import DetectionHead, Detections
from odvla_bench.baselines.opendrivevla.perception.tracker import (
    EGO,
    FREE,
    MemoryBank,
    Motion,
    QueryInteraction,
    Tracks,
    empty_tracks,
    life_cycle,
    moved_reference,
    next_tracks,
)


@dataclass(frozen=True)
class TrackState:
    """The tracks of B scenes between two frames."""

    tracks: Tracks
    next_identity: Tensor
    """(B) number of the next track born."""


@dataclass(frozen=True)
class TrackOutput:
    """What tracking says of one frame."""

    agents: Agents
    ego: Tensor
    """(B, C) feature of the ego query."""
    tracks: Tracks
    """All queries after births and deaths, before memory: fresh ones, ego, then tracks."""
    scores: Tensor
    """(B, N) of the same; -1 in empty slots."""
    detections: Detections
    """Of the same."""


class Perception(nn.Module):
    """UniAD's track and map network with the official parameter names."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the network of a configuration with random weights."""
        super().__init__()
        self.config = config
        self.img_backbone = ResNet(config)
        self.img_neck = FeaturePyramid(config)
        self.pts_bbox_head = DetectionHead(config)
        self.query_embedding = nn.Embedding(config.queries + 1, 2 * TOKEN_WIDTH)
        self.reference_points = nn.Linear(TOKEN_WIDTH, 3)
        self.query_interact = QueryInteraction()
        self.memory_bank = MemoryBank(config)

    def track(
        self, bev: Tensor, state: TrackState | None, motion: Motion | None
    ) -> tuple[TrackOutput, TrackState]:
        """One frame of tracking, in float32 throughout.

        Args:
            bev: (B, cells, C).
            state: after the previous frame; None at the start of scenes.
            motion: since the previous frame; None at the start.
        """
        with full_precision(bev):
            return self._track(bev.float(), state, motion)

    def _track(
        self, bev: Tensor, state: TrackState | None, motion: Motion | None
    ) -> tuple[TrackOutput, TrackState]:
        state = state or self._no_tracks(len(bev))
        queries = self._queries(state.tracks, motion)
        slot = torch.arange(queries.identity.shape[1], device=bev.device)
        padding = (queries.identity == FREE) & (slot > self.config.queries)
        found = self.pts_bbox_head.decode(bev, queries.query, queries.reference, padding)
        scores = found.class_logits[-1].sigmoid().amax(-1).masked_fill(padding, -1)
        identity, missed, next_identity = life_cycle(
            queries.identity, queries.missed, scores, state.next_identity, self.config
        )
        tracks = queries.updated(identity=identity, missed=missed)
        active = (identity >= 0) & (scores >= self.config.active_score)
        agents = select_agents(
            found.features, found.class_logits[-1], found.boxes[-1], identity, active, self.config
        )
        after = next_tracks(tracks, found, self.memory_bank, self.query_interact)
        ego = found.features[:, self.config.queries]
        output = TrackOutput(agents, ego, tracks, scores, found)
        return output, TrackState(after, next_identity)

    def _no_tracks(self, scenes: int) -> TrackState:
        weight = self.query_embedding.weight
        slots = (scenes, self.config.track_block)
        tracks = empty_tracks(
            weight.new_zeros(*slots, 2 * TOKEN_WIDTH),
            weight.new_zeros(*slots, 3),
            self.config.memory_length,
        )
        return TrackState(tracks, torch.zeros(scenes, dtype=torch.int64, device=weight.device))

    def _queries(self, tracks: Tracks, motion: Motion | None) -> Tracks:
        """Fresh queries and the ego's, then the tracks, moved into this frame."""
        reference = self.reference_points(tracks.query[..., :TOKEN_WIDTH])
        if motion is not None:
            moved = moved_reference(tracks, motion, self.config)
            reference = torch.cat([moved, reference[..., 2:]], -1)
        weight = self.query_embedding.weight.expand(len(tracks.query), -1, -1)
        fresh = empty_tracks(
            weight, self.reference_points(weight[..., :TOKEN_WIDTH]), self.config.memory_length
        )
        fresh.identity[:, self.config.queries] = EGO
        return fresh.joined(tracks.updated(reference=reference))
