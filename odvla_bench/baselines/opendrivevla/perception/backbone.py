"""The image network: ResNet with deformable convolutions in its last two stages, and an FPN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from odvla_bench.baselines.opendrivevla.perception.config import TOKEN_WIDTH, PerceptionConfig
from odvla_bench.baselines.opendrivevla.perception.deformable import DeformableConv2d

EXPANSION = 4
DEFORMABLE_STAGES = (2, 3)


class FrozenStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that always uses its running statistics."""

    def train(self, mode: bool = True) -> FrozenStatisticsBatchNorm:  # noqa: ARG002, FBT001, FBT002
        """Stay in evaluation mode: batches of one keyframe are too small for statistics."""
        return super().train(mode=False)


class Bottleneck(nn.Module):
    """A residual block whose stride sits on the first 1 × 1 convolution ("caffe" style)."""

    def __init__(self, inputs: int, width: int, stride: int, *, deformable: bool) -> None:
        """Make the block of `inputs` to 4 * `width` channels."""
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = FrozenStatisticsBatchNorm(width)
        self.conv2: nn.Module = (
            DeformableConv2d(width, width)
            if deformable
            else nn.Conv2d(width, width, 3, padding=1, bias=False)
        )
        self.bn2 = FrozenStatisticsBatchNorm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = FrozenStatisticsBatchNorm(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                FrozenStatisticsBatchNorm(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 4 * width, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Features of strides 8, 16 and 32."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the four stages."""
        super().__init__()
        width = config.backbone_width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenStatisticsBatchNorm(width)
        inputs = width
        for stage, blocks in enumerate(config.backbone_blocks):
            stage_width = width * 2**stage
            layer = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layer.append(
                    Bottleneck(inputs, stage_width, stride, deformable=stage in DEFORMABLE_STAGES)
                )
                inputs = stage_width * EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised BGR images → three maps, finest first."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        features = []
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            features.append(x)
        return features[1:]


class FeaturePyramid(nn.Module):
    """Four maps of 256 channels: strides 8, 16, 32 and 64."""

    def __init__(self, config: PerceptionConfig) -> None:
        """Make the lateral and output convolutions."""
        super().__init__()
        stages = [config.backbone_width * EXPANSION * 2**stage for stage in (1, 2, 3)]
        self.lateral_convs = nn.ModuleList(_conv(c, 1) for c in stages)
        self.fpn_convs = nn.ModuleList([_conv(TOKEN_WIDTH, 3) for _ in stages])
        self.fpn_convs.append(_conv(TOKEN_WIDTH, 3, stride=2))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Three maps → four, finest first.

        The fourth comes from the third output without a ReLU between them: the configuration asks
        for one, but the official library applies it only from a fifth level on.
        """
        maps = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        for fine in (1, 0):
            maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], size=maps[fine].shape[-2:])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, maps, strict=False)]
        return [*outputs, self.fpn_convs[3](outputs[2])]


class _ConvModule(nn.Module):
    """A convolution under the name `conv`, as the checkpoints have it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _conv(inputs: int, size: int, *, stride: int = 1) -> _ConvModule:
    return _ConvModule(nn.Conv2d(inputs, TOKEN_WIDTH, size, stride, padding=size // 2))
