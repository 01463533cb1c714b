from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from perception_goldens import Load, close
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception import deformable
from odvla_bench.baselines.opendrivevla.perception.deformable import (
    DeformableConv2d,
    bilinear_corners,
    deformable_attention,
    flat_read,
    modulated_deform_conv2d,
)


@pytest.mark.golden
@pytest.mark.parametrize("unit", [0, 1, 2])
def test_modulated_convolution_equals_the_original(load: Load, golden: Path, unit: int) -> None:
    case = json.loads((golden / "perception/backbone/meta.json").read_text())["dcn_unit"][unit]
    step = {k: case[k] for k in ("stride", "padding", "dilation")}
    t = {k[3:]: v for k, v in load("backbone/dcn_unit").items() if k.startswith(f"u{unit}.")}
    out = F.conv2d(t["x"], t["conv_offset.weight"], t["conv_offset.bias"], **step)
    ours = modulated_deform_conv2d(
        t["x"], out[:, :18], out[:, 18:].sigmoid(), t["weight"], t.get("bias"), **step
    )
    close(ours, t["y"], 3e-6)


@pytest.mark.golden
def test_attention_over_levels_equals_the_original(load: Load) -> None:
    t = {k[2:]: v for k, v in load("map/msda_unit").items() if k.startswith("a.")}
    batch, queries = t["loc"].shape[:2]
    ours = deformable_attention(
        t["value"],
        [(int(h), int(w)) for h, w in t["shapes"]],
        t["loc"].flatten(0, 1),
        t["weights"].flatten(0, 1),
        torch.arange(batch).repeat_interleave(queries),
    )
    close(ours.view(batch, queries, -1), t["out"], 3e-7)


@pytest.mark.golden
def test_flat_read_equals_the_original_kernel(load: Load) -> None:
    t = {k[2:]: v for k, v in load("map/msda_unit").items() if k.startswith("b.")}
    queries, levels = t["loc"].shape[1], t["loc"].shape[3]
    used = queries // levels
    ours = deformable_attention(
        t["value"],
        [(int(t["shapes"][0, 0]), int(t["shapes"][0, 1]))],
        flat_read(t["loc"][:, :used], queries)[0],
        flat_read(t["weights"][:, :used], queries)[0],
    )
    close(ours[None], t["out"], 3e-7)


def test_flat_read_refuses_too_few_groups() -> None:
    with pytest.raises(ValueError, match="serve 4 queries, not 9"):
        flat_read(torch.zeros(1, 1, 2, 4, 1), queries=9)


def test_corners_of_a_point_by_hand() -> None:
    index, weight = bilinear_corners(torch.tensor([1.25]), torch.tensor([0.5]), 4, 3)
    assert index.tolist() == [[1, 2, 5, 6]]
    assert weight.tolist() == [[0.375, 0.125, 0.375, 0.125]]


coordinate = st.floats(-3, 9, width=32) | st.sampled_from([-1e30, 1e30, float("inf")])


@given(st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=20))
@settings(max_examples=50)
def test_corners_equal_grid_sample_anywhere(points: list[tuple[float, float]]) -> None:
    height, width = 5, 6
    values = torch.arange(30, dtype=torch.float64) + 1
    x, y = torch.tensor(points, dtype=torch.float64).T
    index, weight = bilinear_corners(x, y, width, height)
    assert index.min() >= 0
    assert index.max() < height * width
    ours = (values[index.long()] * weight).sum(-1)
    bounded = torch.stack([x, y], -1).clamp(-4, 10)
    grid = (bounded + 0.5) / torch.tensor([width, height]) * 2 - 1
    image = values.view(1, 1, height, width)
    theirs = F.grid_sample(image, grid[None, None], align_corners=False)
    assert torch.allclose(ours, theirs.view(-1), atol=1e-9)


def _away_from_pixel_borders(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Offsets at which the bilinear weights have a derivative."""
    whole = torch.randint(-1, 2, shape, generator=generator)
    return whole + 0.2 + 0.6 * torch.rand(shape, generator=generator, dtype=torch.float64)


def test_gradients_of_the_convolution() -> None:
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True)

    offset = _away_from_pixel_borders((2, 18, 3, 4), g).requires_grad_()
    arguments = (random(2, 3, 5, 6), offset, random(2, 9, 3, 4), random(2, 3, 3, 3), random(2))
    assert torch.autograd.gradcheck(lambda *a: modulated_deform_conv2d(*a), arguments)


@pytest.mark.parametrize("flat", [False, True], ids=["levels", "flat-read"])
def test_gradients_of_the_attention(flat: bool) -> None:
    g = torch.Generator().manual_seed(1)
    shapes = [(4, 5)] if flat else [(4, 5), (2, 3)]
    levels, queries, heads, points = 2, 4, 2, 2
    cells = sum(h * w for h, w in shapes)
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)
    pixel = _away_from_pixel_borders((1, queries, heads, levels, points, 2), g) + 1
    locations = ((pixel + 0.5) / sizes[:, None]).requires_grad_()
    value = torch.randn(1, cells, heads, 3, generator=g, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(locations.shape[:-1], generator=g, dtype=torch.float64).requires_grad_()

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        if flat:
            locations, weights = (flat_read(x, queries) for x in (locations, weights))
        return deformable_attention(value, shapes, locations[0], weights[0])

    assert torch.autograd.gradcheck(attend, (value, locations, weights))


def test_the_module_hands_torchvision_the_same_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def kernel(x: Tensor, offset: Tensor, weight: Tensor, bias: None, **options: object) -> Tensor:
        mask = options["mask"]
        assert isinstance(mask, Tensor)
        assert options["padding"] == (1, 1)
        seen.append(offset.shape)
        return modulated_deform_conv2d(x, offset, mask, weight, bias, padding=1)

    torch.manual_seed(0)
    plain = DeformableConv2d(4, 5)
    torch.nn.init.normal_(plain.conv_offset.weight)
    monkeypatch.setattr(deformable, "_torchvision_kernel", lambda: kernel)
    module = DeformableConv2d(4, 5)
    module.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 6, 7)
    assert torch.equal(module(x), plain(x))
    assert seen == [(1, 18, 6, 7)]
