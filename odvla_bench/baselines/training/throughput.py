"""How fast a run is: tokens per second, and the share of the device's peak that they take."""

from __future__ import annotations

import time
from typing import Any

import torch

from odvla_bench.baselines.training.stages import PARTS

_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
    "5090": 210e12,
    "B200": 2250e12,
}
"""Dense bf16 peak by a part of the device's name, as its maker gives it."""


def peak_flops(device: torch.device) -> float:
    """Dense bf16 peak of a device; 0 where it is not known."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in _PEAK_FLOPS.items() if part in name), 0.0)


def step_flops(model: Any, *, positions: int, kept: int, context: float) -> float:
    """Operations of a packed sequence forward and backward, without recomputation.

    A parameter takes two a position forward, two for the gradient of what flows through, and two
    for its own gradient if it learns; attention adds 12 a layer, channel and visible position.
    The output layer counts at the positions whose next id is learnt, as logits are made there
    only, and the embedding, a look-up, not at all. Projectors count at every position.

    Args:
        model: an `OpenDriveVLAForConditionalGeneration`; of its perception nothing is counted.
        positions: positions that are not filling.
        kept: those whose next id is learnt.
        context: positions that one sees on average, itself included.
    """
    config, head = model.config, model.lm_head.weight
    body = [
        p
        for n, p in model.named_parameters()
        if not n.startswith((*PARTS["perception"], "model.embed_tokens.", "lm_head."))
    ]
    attention = 12 * config.num_hidden_layers * config.hidden_size * context
    return float(positions * (sum(map(_flops, body)) + attention) + kept * _flops(head))


def _flops(parameter: torch.nn.Parameter) -> int:
    return parameter.numel() * (6 if parameter.requires_grad else 4)


class Meter:
    """Tokens and seconds since it was last read."""

    def __init__(self, peak: float) -> None:
        """Start. `peak` is in operations per second; 0 is unknown."""
        self._peak = peak
        self._reset()

    def add(self, tokens: int, flops: float) -> None:
        """Count a step's tokens and operations."""
        self._tokens += tokens
        self._flops += flops

    def read(self) -> dict[str, float]:
        """`tokens_per_s` and, where peak and operations are known, `utilisation`; starts again."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rates = {"tokens_per_s": self._tokens / seconds}
        if self._peak and self._flops:
            rates["utilisation"] = self._flops / seconds / self._peak
        self._reset()
        return rates

    def _reset(self) -> None:
        self._tokens, self._flops, self._since = 0, 0.0, time.perf_counter()
