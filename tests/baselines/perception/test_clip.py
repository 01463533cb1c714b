from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from perception_scenes import scene, small_network
from torch import nn

from odvla_bench.baselines.opendrivevla.perception.agents import metric_boxes, standard_boxes
from odvla_bench.baselines.opendrivevla.perception.clip import (
    FROZEN,
    WITHOUT_GRADIENT,
    ClipTokens,
    forward_clip,
    freeze_backbone,
    matching_cost,
    regression_targets,
)
from odvla_bench.baselines.opendrivevla.perception.images import read_images
from odvla_bench.baselines.opendrivevla.perception.inputs import (
    Annotations,
    FrameInputs,
    scene_inputs,
)
from odvla_bench.baselines.opendrivevla.perception.matching import iou_3d, matched_instances
from odvla_bench.baselines.opendrivevla.perception.network import Frames, Perception
from odvla_bench.baselines.opendrivevla.perception.track_decoder import Detections
from odvla_bench.errors import InputError


def frames_of(folder: Path, network: Perception, count: int) -> list[Frames]:
    one = scene(folder, frames=count)
    inputs = scene_inputs(one, network.config.behaviour)
    return [
        Frames.of(read_images(k.image_paths)[None], FrameInputs.stack([i]), "cpu")
        for k, i in zip(one.keyframes, inputs, strict=True)
    ]


def nobody() -> Annotations:
    return Annotations(
        np.zeros((0, 7)), np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(0, np.int64)
    )


def annotations_from(found: Detections, rows: list[int], numbers: list[int]) -> Annotations:
    """Agents that stand exactly where the decoder says."""
    boxes = standard_boxes(metric_boxes(found.boxes[-1, 0, rows])).double().numpy()
    return Annotations(
        boxes=boxes[:, :7],
        velocity_mps=boxes[:, 7:],
        labels=found.class_logits[-1, 0, rows].argmax(-1).numpy(),
        instance_ids=np.array(numbers),
    )


@pytest.fixture(scope="module")
def clip(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Perception, list[Frames], list[Annotations]]:
    """Three keyframes in which agents 40 and 41 are seen, and 42 only in the last."""
    network = small_network()
    without_dropout(network)
    freeze_backbone(network)
    network.train()
    frames = frames_of(tmp_path_factory.mktemp("clip"), network, 3)
    with torch.no_grad():
        found = forward_clip(network, frames[:1], [nobody()]).detections
        known = [annotations_from(found, [5, 300], [41, 40])]
        for count in (2, 3):
            # Where the tracks are found in a keyframe, the agents are put.
            out = forward_clip(network, frames[:count], [*known, known[0]])
            tracks = [int(torch.nonzero(out.tracks.identity[0] == i)[-1]) for i in (40, 41)]
            rows, numbers = (tracks, [40, 41]) if count == 2 else ([*tracks, 77], [40, 41, 42])
            known.append(annotations_from(out.detections, rows, numbers))
    return network, frames, known


def without_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def test_tokens_belong_to_annotated_agents(
    clip: tuple[Perception, list[Frames], list[Annotations]],
) -> None:
    network, frames, annotations = clip
    with torch.no_grad():
        out: ClipTokens = forward_clip(network, frames, annotations)
    assert sorted(out.instance_ids.tolist()) == [40, 41, 42]
    assert out.agents.shape == (3, 256)
    assert out.scene.shape == (90, 256)
    rows = {int(i): int(torch.nonzero(out.tracks.identity[0] == i)[0]) for i in out.instance_ids}
    assert rows[42] == 77
    assert min(rows[40], rows[41]) > network.config.queries
    for number, token in zip(out.instance_ids.tolist(), out.agents, strict=True):
        assert torch.equal(token, out.detections.features[0, rows[number]])


@pytest.mark.parametrize("encoder_gradients", ["last", pytest.param("all", marks=pytest.mark.slow)])
def test_backward_fills_exactly_the_intended_parameters(
    clip: tuple[Perception, list[Frames], list[Annotations]], encoder_gradients: str
) -> None:
    network, frames, annotations = clip
    network.zero_grad()
    out = forward_clip(network, frames, annotations, encoder_gradients=encoder_gradients)
    loss = sum((x * torch.randn_like(x)).sum() for x in (out.scene, out.agents, out.map))
    loss.backward()
    filled = {
        name
        for name, p in network.named_parameters()
        if p.grad is not None and bool(p.grad.abs().sum() > 0)
    }
    intended = {
        name
        for name, _ in network.named_parameters()
        if not name.startswith((*FROZEN, *WITHOUT_GRADIENT))
    }
    assert sorted(filled - intended) == []
    assert sorted(intended - filled) == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_history_is_made_without_gradients_and_mode_comes_back(
    clip: tuple[Perception, list[Frames], list[Annotations]],
) -> None:
    network, frames, annotations = clip
    forward_clip(network, frames, annotations)
    assert network.training
    assert not network.img_backbone.bn1.training


def test_a_clip_needs_annotations_for_each_keyframe() -> None:
    with pytest.raises(InputError, match="A clip of 0 keyframes with 1 annotations"):
        forward_clip(small_network(), [], [nobody()])


@pytest.mark.parametrize(
    ("change", "overlap"),
    [
        pytest.param({}, 1.0, id="same"),
        pytest.param({0: 2.0}, 2 / 6, id="half a length ahead"),
        pytest.param({2: 1.0}, 1 / 3, id="half a height up"),
        pytest.param({6: np.pi}, 1.0, id="turned around"),
        pytest.param({6: np.pi / 2}, 4 / 12, id="across"),
        pytest.param({0: 100.0}, 0.0, id="elsewhere"),
    ],
)
def test_overlap_of_boxes(change: dict[int, float], overlap: float) -> None:
    a = np.array([[0.0, 0, 0, 4, 2, 2, 0]])
    b = a.copy()
    for column, value in change.items():
        b[0, column] += value
    assert iou_3d(a, b) == pytest.approx(np.array([[overlap]]), abs=1e-9)
    assert iou_3d(b, a) == pytest.approx(np.array([[overlap]]), abs=1e-9)


def test_agents_are_matched_one_to_one() -> None:
    box = np.array([0.0, 0, 0, 4, 2, 2, 0])
    shifted = box + [0.5, 0, 0, 0, 0, 0, 0]
    known = Annotations(box[None], np.zeros((1, 2)), np.zeros(1, np.int64), np.array([9]))
    assert matched_instances(np.stack([shifted, box]), known).tolist() == [-1, 9]
    assert matched_instances(np.zeros((0, 7)), known).tolist() == []
    far = replace(known, boxes=known.boxes + 50)
    assert matched_instances(box[None], far).tolist() == [-1]


def test_regression_targets_invert_the_decoded_box() -> None:
    boxes = np.array([[1.0, 2.0, -0.25, 4.5, 1.8, 1.5, 0.7]])
    known = Annotations(boxes, np.array([[0.1, 5.0]]), np.array([0]), np.array([1]))
    decoded = standard_boxes(metric_boxes(regression_targets(known)))
    np.testing.assert_allclose(decoded.numpy(), [[*boxes[0], 0.1, 5.0]], atol=1e-9)


def test_cost_prefers_the_right_class_and_place() -> None:
    boxes = np.array([[1.0, 2.0, 0.0, 4.5, 1.8, 1.5, 0.7]] * 2)
    boxes[1, 0] = 9.0
    known = Annotations(boxes, np.zeros((2, 2)), np.array([0, 3]), np.array([1, 2]))
    target = regression_targets(known).float()
    logits = torch.full((2, 10), -4.0)
    logits[0, 0], logits[1, 3] = 4.0, 4.0
    cost = matching_cost(logits, target, known, torch.arange(2))
    assert cost.argmin(1).tolist() == [0, 1]
    assert (cost[0, 1] - cost[0, 0]).item() > 0.25 * 8
