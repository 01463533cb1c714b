from __future__ import annotations

import pytest
import torch
from perception_goldens import Load, close, fill
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.backbone import FeaturePyramid, ResNet
from odvla_bench.baselines.opendrivevla.perception.config import perception_config

TAPS = ("layer1", "layer3.0.conv2", "layer3.0.conv2.conv_offset")


@pytest.mark.golden
def test_backbone_and_pyramid_equal_the_original(load: Load) -> None:
    """In float64, so that the golden's own rounding is all of the difference: some CPUs convolve
    float32 by Winograd's method, which alone errs by 3e-6. In float32 ours is held to that."""
    config = perception_config("uniad-small")
    weights, inputs = load("backbone/weights"), load("backbone/inputs")
    outputs = load("backbone/outputs")
    resnet, pyramid = ResNet(config), FeaturePyramid(config)
    fill(resnet, weights, "img_backbone.")
    fill(pyramid, weights, "img_neck.")
    taps: dict[str, Tensor] = {}
    for name in TAPS:
        resnet.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: taps.__setitem__(name, out[:2])
        )

    def run(kind: torch.dtype) -> dict[str, Tensor]:
        with torch.no_grad():
            features = resnet.to(kind)(inputs["image_normalized"].to(kind))
            maps = pyramid.to(kind)(list(features))
        found = {f"c{i + 3}": feature for i, feature in enumerate(features)}
        found |= {f"p{i}": feature for i, feature in enumerate(maps)}
        return found | {f"tap.{name}": tap for name, tap in taps.items()}

    single, double = run(torch.float32), run(torch.float64)
    for name, found in double.items():
        close(found, outputs[name], 1e-6)
        close(single[name], found, 5e-6)
