"""Who sees whom in a packed sequence, in the form that each attention implementation takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SHARING = ("sdpa", "flex_attention")
"""Implementations that can let instructions share their beginning; the FlashAttention kernels
only keep sequences apart, so there each instruction is laid out whole."""


def pick_implementation(device: torch.device, wanted: str = "auto", *, packed: bool = True) -> str:
    """The attention implementation to train with.

    Args:
        device: to train on.
        wanted: by name, or "auto": for packed sequences on CUDA flex, which skips blocks; else
            SDPA.
        packed: whether a sequence holds several conversations.
    """
    if wanted != "auto":
        return wanted
    return "flex_attention" if packed and device.type == "cuda" else "sdpa"


def packed_mask(segment: Tensor, branch: Tensor, implementation: str) -> Any:
    """The mask of one packed sequence.

    Args:
        segment: (L,) see `packing`.
        branch: (L,)
        implementation: such as "sdpa".

    Returns:
        (1, 1, L, L) booleans for SDPA, a `BlockMask` for flex attention, and None for the
        FlashAttention kernels, which read the sequences from restarting position ids.
    """
    length = len(segment)
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def visible(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            same = (segment[q] == segment[k]) & (q >= k)
            return same & ((branch[k] == 0) | (branch[q] == branch[k]))

        return create_block_mask(visible, None, None, length, length, device=segment.device)
    if implementation not in SHARING:
        return None
    own = (branch == 0) | (branch[:, None] == branch)
    visible_to = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril_()
    return (visible_to & (segment[:, None] == segment) & own)[None, None]
