"""Training on clips (stage 3): tokens that gradients flow through, matched to annotated agents.

The loss is the language model's alone; track and map losses play no part, as in the official
stage 3. What the official tracker adds for their sake (random drops and false tracks) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.agents import metric_boxes, standard_boxes
from odvla_bench.baselines.opendrivevla.perception.config import EncoderGradients
from odvla_bench.baselines.opendrivevla.perception.inputs import Annotations
from odvla_bench.baselines.opendrivevla.perception.layers import full_precision
from odvla_bench.baselines.opendrivevla.perception.matching import MINIMUM_IOU, assign, iou_3d
from odvla_bench.baselines.opendrivevla.perception.network import Frames, Perception
from odvla_bench.baselines.opendrivevla.perception.tokens import scene_tokens
from odvla_bench.baselines.opendrivevla.perception.track_decoder import Detections
from odvla_bench.baselines.opendrivevla.perception.tracker import EGO, FREE, Tracks, next_tracks
from odvla_bench.errors import InputError

CLIP_FRAMES = 5
KEPT_IOU = 0.5
"""Overlap with its agent from which a track goes on to the next frame."""
CLASS_COST, BOX_COST = 2.0, 0.25
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0

FROZEN = ("img_backbone.",)
"""Parameters that stage 3 does not train."""
WITHOUT_GRADIENT = (
    "pts_bbox_head.cls_branches.",
    "pts_bbox_head.reg_branches.",
    "pts_bbox_head.past_traj_reg_branches.",
    "seg_head.cls_branches.",
    "seg_head.reg_branches.",
    "seg_head.things_mask_head.attnen.",
    "seg_head.stuff_mask_head.attnen.",
)
"""Parameters that only choose or place tokens, so that the language loss does not reach them."""


@dataclass(frozen=True)
class Clip:
    """Consecutive keyframes of one scene; the last is the one whose tokens are wanted."""

    frames: tuple[Frames, ...]
    """Batch size 1 each."""
    annotations: tuple[Annotations, ...]
    """Of the same keyframes."""
    encoder_gradients: EncoderGradients = "last"
    """See `forward_clip`."""

    def to(self, device: torch.device | str) -> Clip:
        """The same on a device."""
        return replace(self, frames=tuple(frame.to(device) for frame in self.frames))


@dataclass(frozen=True)
class ClipTokens:
    """The tokens of a clip's last keyframe; gradients flow through all three kinds."""

    scene: Tensor
    """(90, C)."""
    agents: Tensor
    """(n, C) queries that found an annotated agent; none is dropped."""
    map: Tensor
    """(m, C)."""
    instance_ids: Tensor
    """(n) int64 which agent each token is."""
    tracks: Tracks
    """All queries of the last keyframe; identities are instance numbers."""
    detections: Detections
    """Of the same."""


def freeze_backbone(network: Perception) -> None:
    """Make everything but the image backbone trainable."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))


def forward_clip(
    network: Perception,
    frames: Sequence[Frames],
    annotations: Sequence[Annotations],
    *,
    encoder_gradients: EncoderGradients = "last",
) -> ClipTokens:
    """The tokens of the last keyframe of one clip.

    The view that a keyframe looks back on is made without gradients and dropout, keyframe after
    keyframe; queries carry gradients through the whole clip.

    Args:
        network: in training mode.
        frames: consecutive keyframes of one scene, batch size 1.
        annotations: of the same keyframes.
        encoder_gradients: "last": image features and view get gradients from the last keyframe
            only; "all": from every one, as in the official code, for twice the work and a graph
            as many times as large.

    Raises:
        InputError: frames and annotations differ in number, or there are none.
    """
    if len(frames) != len(annotations) or not frames:
        raise InputError(
            f"A clip of {len(frames)} keyframes with {len(annotations)} annotations; give one "
            "set of annotations for each keyframe, and at least one."
        )
    tracks = network.no_tracks(1).tracks
    history: Tensor | None = None
    last = len(frames) - 1
    for t, (frame, known) in enumerate(zip(frames, annotations, strict=True)):
        learns = t == last or encoder_gradients == "all"
        with nullcontext() if learns else as_history(network):
            view, features = _view(network, frame, history)
        if t < last and learns:
            with as_history(network):
                history, _ = _view(network, frame, history)
        else:
            history = view
        with full_precision(view):
            queries, found, _ = network.propose(view.float(), tracks, frame.motion if t else None)
            identity, overlap = match(queries.identity[0], found, known)
            seen = queries.updated(identity=identity[None])
            if t == last:
                break
            kept = identity.masked_fill((identity >= 0) & (overlap <= KEPT_IOU), FREE)
            tracks = _next(network, queries.updated(identity=kept[None]), found)
    token = (identity >= 0) & (overlap >= MINIMUM_IOU)
    return ClipTokens(
        scene=scene_tokens(features[-1])[0],
        agents=found.features[0][token],
        map=network.seg_head(view)[0].tokens,
        instance_ids=identity[token],
        tracks=seen,
        detections=found,
    )


@torch.no_grad()
def match(identity: Tensor, found: Detections, annotations: Annotations) -> tuple[Tensor, Tensor]:
    """Which agent each query stands for: tracks keep theirs, fresh queries take what is left.

    Args:
        identity: (N) instance that each track follows, `FREE` or `EGO`.
        found: the frame's detections, batch size 1.
        annotations: the frame's agents.

    Returns:
        (N) the same with fresh queries matched and tracks of vanished agents freed, and (N) the
        overlap with the matched agent, 0 without one.
    """
    numbers = torch.from_numpy(annotations.instance_ids).to(identity.device)
    gone = (identity >= 0) & ~torch.isin(identity, numbers)
    identity = identity.masked_fill(gone, FREE)
    fresh_rows = torch.arange(len(identity), device=identity.device) <= _ego_row(identity)
    free = torch.nonzero((identity == FREE) & fresh_rows)[:, 0]
    left = torch.nonzero(~torch.isin(numbers, identity))[:, 0]
    if len(left):
        cost = matching_cost(
            found.class_logits[-1, 0, free], found.boxes[-1, 0, free], annotations, left
        )
        rows, columns = assign(cost.double().cpu().numpy())
        identity[free[torch.from_numpy(rows).to(free.device)]] = numbers[
            left[torch.from_numpy(columns).to(left.device)]
        ]
    return identity, _overlap(identity, found, annotations)


def matching_cost(
    class_logits: Tensor, boxes: Tensor, annotations: Annotations, which: Tensor
) -> Tensor:
    """(Q, G) focal cost of the class plus L1 cost of the box, as the official matcher has them.

    Args:
        class_logits: (Q, classes).
        boxes: (Q, 10) as `Detections` has them.
        annotations: the agents.
        which: (G) those to match.
    """
    p = class_logits.sigmoid().clamp(1e-12, 1 - 1e-12)
    positive = -(1 - p).pow(_FOCAL_GAMMA) * p.log() * _FOCAL_ALPHA
    negative = -p.pow(_FOCAL_GAMMA) * (1 - p).log() * (1 - _FOCAL_ALPHA)
    labels = torch.from_numpy(annotations.labels).to(p.device)[which]
    targets = regression_targets(annotations).to(p)[which]
    distance = torch.cdist(boxes[:, :8], targets[:, :8], p=1)
    return CLASS_COST * (positive - negative)[:, labels] + BOX_COST * distance


def regression_targets(annotations: Annotations) -> Tensor:
    """(n, 10) annotated boxes as the decoder regresses them (see `Detections.boxes`)."""
    x, y, z, length, width, height, heading = annotations.boxes.T
    yaw = -heading - np.pi / 2
    columns = [x, y, np.log(width), np.log(length), z - height / 2, np.log(height)]
    columns += [np.sin(yaw), np.cos(yaw), *annotations.velocity_mps.T]
    return torch.from_numpy(np.stack(columns, 1))


def _overlap(identity: Tensor, found: Detections, annotations: Annotations) -> Tensor:
    """(N) intersection over union of each matched query's box with its agent's."""
    overlap = np.zeros(len(identity))
    host = identity.cpu().numpy()
    rows = np.flatnonzero(host >= 0)
    if len(rows):
        boxes = standard_boxes(metric_boxes(found.boxes[-1, 0])).double().cpu().numpy()
        order = np.argsort(annotations.instance_ids)
        agent = order[np.searchsorted(annotations.instance_ids[order], host[rows])]
        for row, column in zip(rows, agent, strict=True):
            pair = iou_3d(boxes[row : row + 1, :7], annotations.boxes[column : column + 1])
            overlap[row] = pair[0, 0]
    return torch.from_numpy(overlap).to(identity.device)


def _next(network: Perception, queries: Tracks, found: Detections) -> Tracks:
    tracks = next_tracks(queries, found, network.memory_bank, network.query_interact)
    # Where a track is looked for next is no path for gradients: boxes have no loss here.
    return tracks.updated(
        reference=tracks.reference.detach(), velocity_mps=tracks.velocity_mps.detach()
    )


def _view(
    network: Perception, frame: Frames, previous: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    features, size = network.image_features(frame.images)
    bev = network.pts_bbox_head.encode(features, frame.lidar2img, frame.can_bus, size, previous)
    return bev, features


def _ego_row(identity: Tensor) -> Tensor:
    """The row of the ego query, the last of the fresh ones."""
    return (identity == EGO).int().argmax()


@contextmanager
def as_history(network: Perception) -> Iterator[None]:
    """Without gradients and dropout."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)
