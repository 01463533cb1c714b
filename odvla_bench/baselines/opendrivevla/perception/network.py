"""The whole perception: images and history of B scenes in, agents, map and features out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.agents import Agents, select_agents
from odvla_bench.baselines.opendrivevla.perception.backbone import FeaturePyramid, ResNet
from odvla_bench.baselines.opendrivevla.perception.config import TOKEN_WIDTH, PerceptionConfig
from odvla_bench.baselines.opendrivevla.perception.images import normalise
from odvla_bench.baselines.opendrivevla.perception.inputs import FrameInputs
from odvla_bench.baselines.opendrivevla.perception.layers import full_precision
from odvla_bench.baselines.opendrivevla.perception.map_head import MapElements, MapHead
from odvla_bench.baselines.opendrivevla.perception.tokens import (
    FrameTokens,
    agent_tokens,
    scene_tokens,
)
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


@dataclass(frozen=True)
class Frames:
    """One keyframe of each of B scenes."""

    images: Tensor
    """(B, cameras, rows, columns, 3) uint8 BGR."""
    lidar2img: Tensor
    """(B, cameras, 4, 4) float64: LIDAR frame to pixels times depth."""
    can_bus: Tensor
    """(B, 18) float64, as in `FrameInputs`."""
    motion: Motion
    """Since the previous keyframe; unused at the start of scenes."""

    @staticmethod
    def of(images: NDArray[np.uint8], inputs: FrameInputs, device: torch.device | str) -> Frames:
        """From the host's arrays with a leading scene axis (see `FrameInputs.stack`)."""

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

        motion = Motion(
            tensor(inputs.rotation), tensor(inputs.translation_m), tensor(inputs.seconds)
        )
        return Frames(tensor(images), tensor(inputs.lidar2img), tensor(inputs.can_bus), motion)

    def to(self, device: torch.device | str) -> Frames:
        """The same on a device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        motion = Motion(*(moved(getattr(self.motion, f.name)) for f in fields(Motion)))
        return Frames(moved(self.images), moved(self.lidar2img), moved(self.can_bus), motion)


@dataclass(frozen=True)
class PerceptionState:
    """What B scenes carry from one keyframe to the next."""

    bev: Tensor
    """(B, cells, C)."""
    tracking: TrackState

    def scenes(self, index: Tensor) -> PerceptionState:
        """The state of some of the scenes."""
        tracks = self.tracking.tracks.scenes(index)
        return PerceptionState(
            self.bev[index], TrackState(tracks, self.tracking.next_identity[index])
        )


@dataclass(frozen=True)
class PerceptionOutput:
    """What the network says of one keyframe of each of B scenes."""

    coarsest: Tensor
    """(B, cameras, C, h, w) last level of the pyramid."""
    bev: Tensor
    """(B, cells, C)."""
    tracking: TrackOutput
    maps: list[MapElements]

    def tokens(self, scene: int, config: PerceptionConfig) -> FrameTokens:
        """The tokens of one scene's keyframe."""
        agents = agent_tokens(self.tracking.agents, scene, config)
        return FrameTokens(
            scene=scene_tokens(self.coarsest[scene : scene + 1])[0],
            agents=agents.features,
            map=self.maps[scene].tokens,
            agent_ids=agents.identities,
            agent_boxes=agents.boxes,
            agent_scores=agents.scores,
            agent_labels=agents.labels,
        )


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
        self.seg_head = MapHead(config)

    def forward(
        self, frames: Frames, state: PerceptionState | None = None
    ) -> tuple[PerceptionOutput, PerceptionState]:
        """One keyframe of B scenes.

        Args:
            frames: the keyframe's images and geometry.
            state: after the previous keyframe of the same scenes; None where they start.
        """
        features, size = self.image_features(frames.images)
        previous, tracks, motion = None, None, None
        if state is not None:
            previous, tracks, motion = state.bev, state.tracking, frames.motion
        bev = self.pts_bbox_head.encode(features, frames.lidar2img, frames.can_bus, size, previous)
        tracking, after = self.track(bev, tracks, motion)
        output = PerceptionOutput(features[-1], bev, tracking, self.seg_head(bev))
        return output, PerceptionState(bev, after)

    def image_features(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """(B, cameras, rows, columns, 3) → four (B, cameras, C, h, w) maps and the padded size.

        Scenes, frames and cameras are alike here: B may be any number of keyframes.
        """
        batch, cameras = images.shape[:2]
        padded = normalise(images.flatten(0, 1))
        maps = self.img_neck(self.img_backbone(padded))
        return [m.unflatten(0, (batch, cameras)) for m in maps], (
            padded.shape[-2],
            padded.shape[-1],
        )

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
        state = state or self.no_tracks(len(bev))
        queries, found, scores = self.propose(bev, state.tracks, motion)
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

    def propose(
        self, bev: Tensor, tracks: Tracks, motion: Motion | None
    ) -> tuple[Tracks, Detections, Tensor]:
        """Queries of a frame, what the decoder finds for them, and their scores.

        Args:
            bev: (B, cells, C).
            tracks: after the previous frame.
            motion: since then; None at the start of scenes.

        Returns:
            Fresh queries, ego, tracks; their detections; (B, N) scores, -1 in empty slots.
        """
        queries = self._queries(tracks, motion)
        slot = torch.arange(queries.identity.shape[1], device=bev.device)
        padding = (queries.identity == FREE) & (slot > self.config.queries)
        found = self.pts_bbox_head.decode(bev, queries.query, queries.reference, padding)
        return queries, found, found.class_logits[-1].sigmoid().amax(-1).masked_fill(padding, -1)

    def no_tracks(self, scenes: int) -> TrackState:
        """The state of scenes that start."""
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
