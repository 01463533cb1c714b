"""The loss of a packed sequence."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from odvla_bench.baselines.training.attention import packed_mask
from odvla_bench.baselines.training.data import Batch


def token_losses(model: Any, batch: Batch, implementation: str) -> Tensor:
    """Cross-entropy of every learnt id; logits are made at those positions only.

    Args:
        model: an `OpenDriveVLAForConditionalGeneration`, or one wrapped for several processes.
        batch: one packed sequence on the model's device.
        implementation: of attention.

    Returns:
        (K,) nats, to be weighted by `batch.weight`.
    """
    inputs: dict[str, Any]
    if batch.clip is None:
        mask = packed_mask(batch.segment, batch.branch, implementation)
        inputs = {**batch.inputs, "attention_mask": mask}
    else:  # one conversation: positions and mask are those of any sequence
        inputs = {"input_ids": batch.inputs["input_ids"], "clip": batch.clip}
    logits = model(**inputs, logits_to_keep=batch.kept, use_cache=False).logits
    return F.cross_entropy(logits[0].float(), batch.target, reduction="none")
