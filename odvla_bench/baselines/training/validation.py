"""How good a model is in the middle of its training: on held-out rows, by our own metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from odvla_bench.baselines.opendrivevla.answering import Answerer, Decoding
from odvla_bench.baselines.opendrivevla.checkpoint import Loaded
from odvla_bench.baselines.opendrivevla.prompting import Prompting
from odvla_bench.baselines.opendrivevla.tokens import TokenSource
from odvla_bench.baselines.training.data import TrainingData
from odvla_bench.baselines.training.loss import token_losses
from odvla_bench.datasets.waypoints import WaypointCodec
from odvla_bench.metrics.displacement import displacement_m
from odvla_bench.metrics.forecasting import hold_last, score_motion

Metrics = dict[str, float]

_BATCH_SIZE = 32
_MAX_NEW_TOKENS = 128
_IMPLEMENTATION = "sdpa"


class Validator:
    """Scores a model on fixed held-out conversations: the loss, and what its answers are worth."""

    def __init__(
        self,
        conversations: pa.Table,
        loaded: Loaded,
        prompting: Prompting,
        source: TokenSource | None,
        *,
        stage: str,
        pack_length: int,
    ) -> None:
        """Prepare the batches.

        Args:
            conversations: rows of `CONVERSATIONS` with answers.
            loaded: the model that will be scored, and its processor.
            prompting: how the prompts were made.
            source: visual tokens.
            stage: decides which metrics there are.
            pack_length: positions in a pack.
        """
        self._rows, self._loaded, self._stage = conversations, loaded, stage
        self._prompting, self._source = prompting, source
        self._data = TrainingData(
            conversations,
            loaded.processor,
            prompting.profile.system,
            source,
            pack_length=pack_length,
        )

    def __call__(self) -> Metrics:
        """`loss`, and `l2_m`, `ade_m` or `exact_match` by the stage; leaves the model as it was."""
        model = self._loaded.model
        before, training = model.config._attn_implementation, model.training
        model.set_attn_implementation(_IMPLEMENTATION)
        model.eval()
        try:
            return {"loss": self._loss(model)} | self._answers()
        finally:
            model.set_attn_implementation(before)
            model.train(training)

    @torch.no_grad()
    def _loss(self, model: Any) -> float:
        total = count = 0.0
        for pack in self._data.packs(0):
            batch = self._data[pack].to(model.device)
            nats = token_losses(model, batch, _IMPLEMENTATION)
            total += float((nats * batch.weight).sum())
            count += float(batch.weight.sum())
        return total / count

    def _answers(self) -> Metrics:
        decoding = Decoding(batch_size=_BATCH_SIZE, max_new_tokens=_MAX_NEW_TOKENS)
        answerer = Answerer(self._loaded, self._prompting, self._source, decoding)
        said = {a.row: a.text for a in answerer.answer(self._rows)}
        texts = [said[i] for i in range(self._rows.num_rows)]
        truth: list[str] = self._rows["answer"].to_pylist()
        return _SCORES[self._stage](texts, truth, self._prompting)


def _exact_match(texts: list[str], truth: list[str], _: Prompting) -> Metrics:
    return {"exact_match": float(np.mean([a == b for a, b in zip(texts, truth, strict=True)]))}


def _plans(texts: list[str], truth: list[str], prompting: Prompting) -> Metrics:
    """Mean distance over the six steps; a plan that does not parse stands still."""
    pred, real, failed = _positions(texts, truth, prompting.codec("planning"))
    return {"l2_m": float(displacement_m(pred, real).mean()), "failed_parses": failed}


def _motion(texts: list[str], truth: list[str], prompting: Prompting) -> Metrics:
    """ADE and FDE at 3 s over agents whose future reaches it."""
    pred, real, failed = _positions(texts, truth, prompting.codec("forecasting"))
    scores = score_motion(hold_last(pred)[:, None], np.nan_to_num(real), np.isfinite(real).all(-1))
    ade, fde = (float(scores.mean(m)[-1]) for m in ("min_ade_m", "min_fde_m"))
    return {"ade_m": ade, "fde_m": fde, "failed_parses": failed}


def _positions(texts: list[str], truth: list[str], codec: WaypointCodec) -> tuple[Any, Any, float]:
    """Predicted and recorded (N, 6, 2) positions, and the share of texts that do not parse."""
    decoded = codec.decode_batch(texts)
    failed = decoded.status == "failed"
    pred = np.where(failed[:, None, None], 0.0, decoded.xy_m)
    return pred, codec.decode_batch(truth).xy_m, float(failed.mean())


_SCORES: dict[str, Callable[[list[str], list[str], Prompting], Metrics]] = {
    "1": _exact_match,
    "2": _exact_match,
    "2.5": _motion,
    "3": _plans,
}
