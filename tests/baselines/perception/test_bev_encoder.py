from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perception_goldens import Load, close, fill, rows
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.bev_encoder import sampling_grid
from odvla_bench.baselines.opendrivevla.perception.bev_geometry import (
    PAIR_BLOCK,
    cell_grid,
    ego_shift,
    pillar_points,
    project,
    rotate_view,
    visible_pairs,
)
from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.track_decoder import DetectionHead

CONFIG = perception_config("uniad-small")
IMAGE = (96, 160)


@pytest.mark.golden
def test_three_frames_equal_the_original(load: Load) -> None:
    inputs = load("bev/inputs")
    outputs = load("bev/outputs_f0") | load("bev/outputs_f1-2")
    head = DetectionHead(CONFIG)
    fill(head, load("bev/weights"), "pts_bbox_head.", partial=True)
    first_layer: list[Tensor] = []
    layers = head.transformer.encoder.layers
    layers[0].register_forward_hook(lambda _, __, out: first_layer.append(out))
    queries: list[Tensor] = []
    layers[0].register_forward_pre_hook(lambda _, args: queries.append(args[0]))
    previous = None
    for t in range(3):
        can_bus = inputs[f"f{t}.can_bus_delta"][None]
        with torch.no_grad():
            bev = head.encode(
                [inputs[f"f{t}.feat{level}"] for level in range(4)],
                inputs[f"f{t}.lidar2img"][None],
                can_bus,
                IMAGE,
                previous,
            )
        close(*rows(bev, outputs, f"f{t}.bev_embed"), 6e-6)
        close(ego_shift(can_bus, CONFIG), outputs[f"f{t}.shift"], 1e-7)
        points, visible = project(
            pillar_points(CONFIG, bev.device), inputs[f"f{t}.lidar2img"][None], IMAGE
        )
        assert torch.equal(visible.permute(1, 0, 2, 3).byte(), outputs[f"f{t}.bev_mask"])
        if t == 0:
            seen = visible.permute(1, 0, 2, 3)
            theirs = outputs["f0.reference_points_cam"]
            close(points.permute(1, 0, 2, 3, 4)[seen], theirs[seen], 6e-6)
        if t == 1:
            turned = rotate_view(previous, can_bus[:, -1], 50, 50)
            close(*rows(turned, outputs, "f1.prev_bev_rotated"), 6e-6)
        previous = bev
    close(*rows(first_layer[0], outputs, "f0.layer0"), 6e-6)
    close(*rows(first_layer[1], outputs, "f1.layer0"), 6e-6)
    close(*rows(queries[0], outputs, "f0.query_after_canbus"), 6e-6)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["200", "30x44"])
@pytest.mark.parametrize("case", range(6))
def test_rotation_is_exactly_the_original(load: Load, golden: Path, name: str, case: int) -> None:
    meta = json.loads((golden / "perception/bev/rotate_unit.json").read_text())
    tensors = load("bev/rotate_unit")
    x, y = tensors[f"x{name}"], tensors[f"y{name}_{case}"]
    angle = torch.tensor([meta["angles_deg"][case]], dtype=torch.float64)
    view = x.flatten(1).T[None]
    ours = rotate_view(view, angle, *x.shape[1:])
    assert torch.equal(ours[0].T.view_as(y), y)


def test_a_quarter_turn_by_hand() -> None:
    view = torch.tensor([[1.0, 2], [3, 4]]).view(1, 4, 1)
    turned = rotate_view(view, torch.tensor([90.0]), 2, 2)
    assert turned.view(2, 2).tolist() == [[2, 4], [1, 3]]


@pytest.mark.parametrize(
    ("heading", "motion", "expected"),
    [
        pytest.param(0.0, (1.024, 0.0), (0.0, 0.01), id="east, heading east: forward"),
        pytest.param(math.pi / 2, (0.0, 2.048), (0.0, 0.02), id="north, heading north: forward"),
        pytest.param(math.pi / 2, (1.024, 0.0), (0.01, 0.0), id="east, heading north: right"),
        pytest.param(1.0, (0.0, 0.0), (0.0, 0.0), id="standing"),
    ],
)
def test_ego_shift(
    heading: float, motion: tuple[float, float], expected: tuple[float, float]
) -> None:
    can_bus = torch.zeros(1, 18, dtype=torch.float64)
    can_bus[0, 0], can_bus[0, 1], can_bus[0, -2] = *motion, heading
    assert torch.allclose(ego_shift(can_bus, CONFIG), torch.tensor([expected]), atol=1e-7)


def test_only_the_released_behaviour_shifts_the_present_grid() -> None:
    can_bus = torch.zeros(1, 18, dtype=torch.float64)
    can_bus[0, 0] = 10.24
    grid = cell_grid(50, 50, can_bus.device)
    shifted = grid + torch.tensor([0.0, 0.1])
    fixed = perception_config("uniad-small", behaviour="fixed")
    assert torch.allclose(sampling_grid(can_bus, CONFIG)[0], torch.stack([shifted, shifted]))
    assert torch.allclose(sampling_grid(can_bus, fixed)[0], torch.stack([shifted, grid]))


def test_pillars_have_the_heights_of_the_specification() -> None:
    points = pillar_points(replace(CONFIG, bev_rows=2, bev_columns=4), torch.device("cpu"))
    assert points.shape == (8, 4, 3)
    assert torch.allclose(points[0, :, 2], torch.tensor([-4.5, -2.1667, 0.1667, 2.5]), atol=1e-4)
    assert points[5, 0, :2].tolist() == pytest.approx([-12.8, 25.6])


@given(st.integers(0, 2**31), st.floats(0, 1))
@settings(max_examples=25)
def test_pairs_are_the_visible_ones_in_order(seed: int, share: float) -> None:
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(2, 3, 7, 4, 2, generator=g)
    visible = torch.rand(2, 3, 7, 4, generator=g) < share
    pairs = visible_pairs(points, visible)
    expected = [
        (b * 7 + q, b * 3 + c)
        for b in range(2)
        for q in range(7)
        for c in range(3)
        if visible[b, c, q].any()
    ]
    count = len(expected)
    assert len(pairs.cell) % PAIR_BLOCK == 0
    ours = torch.stack([pairs.cell, pairs.image], -1)[:count]
    assert [tuple(row) for row in ours.tolist()] == expected
    assert pairs.weight[count:].eq(0).all()
    for i, (cell, image) in enumerate(expected):
        assert torch.equal(pairs.points[i], points[image // 3, image % 3, cell % 7])
        assert pairs.weight[i].item() == pytest.approx(
            1 / sum(other == cell for other, _ in expected)
        )
        assert pairs.starts[cell] <= i
