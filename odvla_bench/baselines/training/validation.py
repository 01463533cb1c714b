"""How good a model is in the middle of its training: on held-out rows, by our own metrics.

Texts are compared as runs of word characters in lower case, without Java (tokenizer
`word-lower`), with the one recorded answer, over few rows: the names say so, and the figures are
for watching a run, not for tables. Those come from `odvla-bench eval`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from odvla_bench.metrics.text.scoring import score_text

Metrics = dict[str, float]

_BATCH_SIZE = 32
_MAX_NEW_TOKENS = {"1": 256, "2": 256, "2.5": 128, "3": 128}
"""Longer answers are cut; of a merged scene caption that leaves the first half."""
_TOKENIZER = "word-lower"
_TEXT_METRICS = {"Bleu_4": "bleu_4", "ROUGE_L": "rouge_l", "CIDEr": "cider"}
_SHORT_ANSWERS = ("nuscenes_qa",)
"""Sources whose answers are right or wrong."""
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
        """`loss`, and what the stage's answers are worth; leaves the model as it was.

        Stages 1 and 2: `exact_match`; by source `accuracy/…` of short answers, and of texts
        `bleu_4_word_lower/…`, `rouge_l_word_lower/…` and `cider_word_lower/…`, 1 being perfect
        and 10 for CIDEr. Stage 2.5: `ade_m`, `fde_m`. Stage 3: `l2_m`.
        """
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
        decoding = Decoding(_BATCH_SIZE, max_new_tokens=_MAX_NEW_TOKENS[self._stage])
        answerer = Answerer(self._loaded, self._prompting, self._source, decoding)
        said = {a.row: a.text for a in answerer.answer(self._rows)}
        texts = [said[i] for i in range(self._rows.num_rows)]
        if self._stage not in _MOVES:
            return text_scores(texts, self._rows)
        truth: list[str] = self._rows["answer"].to_pylist()
        return _MOVES[self._stage](texts, truth, self._prompting)


def text_scores(texts: Sequence[str], rows: pa.Table) -> Metrics:
    """Scores of answers in words; see `Validator.__call__`.

    Args:
        texts: N answers.
        rows: N rows of `CONVERSATIONS` with the recorded answers; a row's id begins with its
            source.
    """
    truth: list[str] = rows["answer"].to_pylist()
    right = np.array([a == b for a, b in zip(texts, truth, strict=True)], np.float64)
    sources = np.array([row.partition(":")[0] for row in rows["row_id"].to_pylist()])
    metrics: Metrics = {"exact_match": float(right.mean())}
    for source in np.unique(sources).tolist():
        of = np.flatnonzero(sources == source)
        if source in _SHORT_ANSWERS:
            metrics[f"accuracy/{source}"] = float(right[of].mean())
            continue
        scores = score_text(
            [texts[i] for i in of],
            [[truth[i]] for i in of],
            metrics=("bleu", "rouge_l", "cider"),
            tokenizer=_TOKENIZER,
        )
        suffix = f"{_TOKENIZER.replace('-', '_')}/{source}"
        metrics |= {f"{n}_{suffix}": scores.corpus[name] for name, n in _TEXT_METRICS.items()}
    return metrics


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


_MOVES: dict[str, Callable[[list[str], list[str], Prompting], Metrics]] = {
    "2.5": _motion,
    "3": _plans,
}
"""Stages whose answers are waypoints."""
