from __future__ import annotations

import pytest
import torch
from perception_goldens import Load, close, fill
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.backbone import FeaturePyramid, ResNet
from odvla_bench.baselines.opendrivevla.perception.config import perception_config

TAPS = {
    "stem": "",
    "layer1": "layer1",
    "layer3.0.conv2": "layer3.0.conv2",
    "layer3.0.conv2.conv_offset": "layer3.0.conv2.conv_offset",
}


@pytest.mark.golden
def test_backbone_and_pyramid_equal_the_original(load: Load) -> None:
    config = perception_config("uniad-small")
    weights, inputs = load("backbone/weights"), load("backbone/inputs")
    outputs = load("backbone/outputs")
    resnet, pyramid = ResNet(config), FeaturePyramid(config)
    fill(resnet, weights, "img_backbone.")
    fill(pyramid, weights, "img_neck.")
    taps: dict[str, Tensor] = {}
    for name in ("layer1", "layer3.0.conv2", "layer3.0.conv2.conv_offset"):
        resnet.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: taps.__setitem__(name, out[:2])
        )
    with torch.no_grad():
        features = resnet(inputs["image_normalized"])
        maps = pyramid(features)
    for name, tap in taps.items():
        close(tap, outputs[f"tap.{name}"], 1e-6)
    for i, feature in enumerate(features):
        close(feature, outputs[f"c{i + 3}"], 1e-6)
    for i, feature in enumerate(maps):
        close(feature, outputs[f"p{i}"], 1e-6)
