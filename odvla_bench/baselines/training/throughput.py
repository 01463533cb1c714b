"""How fast a run is: tokens per second, and the share of the device's peak that they take."""

from __future__ import annotations

import time
from typing import Any

import torch

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


def flops_per_token(model: Any, *, context: float) -> float:
    """Operations of one token forward and backward, without recomputation.

    Two a parameter forward, two for the gradient of what flows through, two for the gradient of
    the parameter if it learns; attention adds 12 a layer, channel and visible position. The
    embedding is a look-up and counts as the output layer only.

    Args:
        model: an `OpenDriveVLAForConditionalGeneration`.
        context: positions that a token sees on average.
    """
    config = model.config
    used = [p for n, p in model.named_parameters() if "perception" not in n]
    if not config.tie_word_embeddings:
        used = [p for p in used if p is not model.model.embed_tokens.weight]
    forward = sum(4 * p.numel() for p in used)
    learnt = sum(2 * p.numel() for p in used if p.requires_grad)
    attention = 12 * config.num_hidden_layers * config.hidden_size * context
    return float(forward + learnt + attention)


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
