"""BERTScore (Zhang et al., 2020) with the numbers of bert-score 0.3.13 under transformers 4.

Under transformers 5, bert-score itself loses the leading space that RoBERTa and GPT-2 vocabularies
expect, and fails on empty texts. Here RoBERTa and GPT-2 kinds read `" " + text`, and an empty text
scores 0. A token is compared with the tokens of its own pair only, so that a score does not depend
on what else is in its batch. Scores are not weighted by idf and not rescaled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odvla_bench.errors import InputError, MissingDependencyError
from odvla_bench.metrics.text.corpus import Corpus, FloatArray
from odvla_bench.provenance import digest_file, package_version

if TYPE_CHECKING:
    import torch

_PREFIX_SPACE = {"RobertaTokenizer", "RobertaTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"}
_TOKENS_AT_ONCE = 8_192
_SIMILARITIES_AT_ONCE = 2_000_000
_PAIRS_AT_ONCE = 2_048
_CACHE_BYTES = 1 << 30


class BertScorer:
    """A loaded model, and the embeddings of the texts it has read lately."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, *, signature: str) -> None:
        """Take a model cut after the layer to compare, and its tokenizer."""
        self.signature = signature
        self._model = model
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._cache: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()
        self._cached_bytes = 0

    def score(self, corpus: Corpus) -> FloatArray:
        """(P, 3) precision, recall and F1 of each pair, each at its best over the references."""
        owner = np.repeat(np.arange(len(corpus.hypothesis)), corpus.reference_count)
        hypothesis = [corpus.texts[i] for i in corpus.hypothesis[owner].tolist()]
        reference = [corpus.texts[i] for i in corpus.reference.tolist()]
        scores = np.empty((len(owner), 3))
        for start in range(0, len(owner), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            scores[part] = self._score_pairs(hypothesis[part], reference[part])
        return np.maximum.reduceat(scores, corpus.offset[:-1], axis=0)

    def token_ids(self, text: str) -> list[int]:
        """The ids of one text with its special tokens, as bert-score has them."""
        text = text.strip()
        if text and type(self._tokenizer).__name__ in _PREFIX_SPACE:
            text = " " + text
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=True, truncation=True, max_length=self._max_length
        )
        return ids

    @property
    def _max_length(self) -> int:
        """Longest input in tokens; some tokenizers do not know it, and the model does."""
        positions = int(getattr(self._model.config, "max_position_embeddings", 512))
        declared = int(self._tokenizer.model_max_length)
        # RoBERTa keeps two positions for padding.
        return declared if declared <= positions else positions - 2

    def _score_pairs(self, hypotheses: Sequence[str], references: Sequence[str]) -> FloatArray:
        """(len, 3) scores of pairs of texts."""
        known = self._embeddings({*hypotheses, *references})
        lengths = [
            (len(known[h][1]), len(known[r][1]))
            for h, r in zip(hypotheses, references, strict=True)
        ]
        scores = np.empty((len(hypotheses), 3))
        for batch in _batches(lengths, lambda n, h, r: n * h * r <= _SIMILARITIES_AT_ONCE):
            scores[batch] = _match(
                [known[hypotheses[i]] for i in batch], [known[references[i]] for i in batch]
            )
        return scores

    def _embeddings(self, texts: set[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Unit vectors (L, D) and weights (L,) of each text's tokens."""
        known = {text: self._cache[text] for text in texts if text in self._cache}
        new = sorted(texts - known.keys())
        ids = [self.token_ids(text) for text in new]
        for batch in _batches(
            [(len(i), 0) for i in ids], lambda n, length, _: n * length <= _TOKENS_AT_ONCE
        ):
            embedded = self._embed([ids[i] for i in batch])
            known |= {new[i]: e for i, e in zip(batch, embedded, strict=True)}
        self._remember(known)
        return known

    def _embed(self, ids: list[list[int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        padding = self._tokenizer.pad_token_id or 0
        empty = [not row for row in ids]  # an empty text of a tokenizer without special tokens
        ids = [row or [padding] for row in ids]
        longest = max(map(len, ids))
        padded = [row + [padding] * (longest - len(row)) for row in ids]
        tokens = torch.tensor(padded, device=self._device)
        lengths = torch.tensor([len(row) for row in ids], device=self._device)
        mask = (torch.arange(longest, device=self._device) < lengths[:, None]).long()
        with torch.inference_mode():
            states = self._model(tokens, attention_mask=mask)[0].float()
        states = states / states.norm(dim=-1, keepdim=True)
        marks = [self._tokenizer.sep_token_id, self._tokenizer.cls_token_id]
        known = tokens.new_tensor([mark for mark in marks if mark is not None])
        special = torch.isin(tokens, known) | torch.tensor(empty, device=self._device)[:, None]
        weight = (~special).float()
        return [
            (states[i, : len(row)].clone(), weight[i, : len(row)].clone())
            for i, row in enumerate(ids)
        ]

    def _remember(self, used: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        for text, embedding in used.items():
            if text not in self._cache:
                self._cached_bytes += embedding[0].nbytes
            self._cache[text] = embedding
            self._cache.move_to_end(text)
        while self._cached_bytes > _CACHE_BYTES:
            _, (states, _) = self._cache.popitem(last=False)
            self._cached_bytes -= states.nbytes


@lru_cache(maxsize=2)
def load_scorer(model: str, layer: int | None = None) -> BertScorer:
    """The scorer of a model, on a CUDA device where there is one.

    Args:
        model: a name that bert-score knows, such as `"roberta-large"`, or a local folder.
        layer: number of layers to run; may be left out for names that bert-score knows.

    Raises:
        MissingDependencyError: bert-score, torch or transformers is not installed.
        InputError: the model is not there, its layer is not given or does not exist, or
            bert-score would load something else under that name.
    """
    try:
        import torch
        from bert_score.utils import get_model, model2layers
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            error.name or "bert_score", extra="text,train", purpose="BERTScore"
        ) from error
    _refuse_misleading_name(model)
    layer = layer if layer is not None else model2layers.get(model)
    if layer is None:
        raise InputError(
            f"BERTScore needs a layer for {model!r}, which bert-score does not know by name. "
            "Give it with --bertscore-layer (17 for a copy of roberta-large)."
        )
    try:
        network = get_model(model, layer)
        tokenizer = AutoTokenizer.from_pretrained(model)
    except AssertionError as error:
        raise InputError(f"BERTScore model {model!r} has no layer {layer}: {error}") from error
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"BERTScore model {model!r} cannot be loaded: {reason}. Give a folder with the weights "
            "and the tokenizer of an encoder such as BERT or RoBERTa."
        ) from error
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    return BertScorer(network, tokenizer, signature=_signature(model, layer))


def _refuse_misleading_name(model: str) -> None:
    """Refuse a model that is absent, or that bert-score takes for another because of its name."""
    from transformers import AutoConfig

    if model.startswith("scibert"):
        raise InputError(
            f"BERTScore model {model!r}: bert-score would fetch it with a shell command. "
            "Download it yourself and give the folder's path."
        )
    try:
        kind = AutoConfig.from_pretrained(model).model_type
    except (OSError, ValueError) as error:
        raise InputError(
            f"BERTScore model {model!r} is neither a model folder nor to be had from the model "
            f"hub ({str(error).splitlines()[0]}). Fetch it where there is a network, for example "
            "with `hf download roberta-large --local-dir DIR`, and give "
            "--bertscore-model DIR --bertscore-layer 17."
        ) from error
    if "t5" in model and "t5" not in kind:
        raise InputError(
            f"BERTScore model {model!r} is of kind {kind!r}, but bert-score loads any name with "
            "'t5' in it as a T5 encoder with random weights. Give it by a path without 't5'."
        )


def _signature(model: str, layer: int) -> str:
    """Model, layer, settings and versions; a local folder goes by its weights, not its path."""
    weights = sorted(Path(model).glob("*.safetensors")) + sorted(Path(model).glob("*.bin"))
    name = f"weights-{digest_file(weights[0])[:12]}" if weights else model
    versions = ",".join(
        f"{package} {package_version(package)}" for package in ("bert-score", "transformers")
    )
    return f"{name}_L{layer}_no-idf_no-rescale_own-tokens({versions})"


def _batches(lengths: Sequence[tuple[int, int]], fits: Any) -> Iterator[list[int]]:
    """Indices of similar length, as many together as `fits(count, longest, longest)` allows."""
    batch: list[int] = []
    first = second = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        a, b = max(first, lengths[i][0]), max(second, lengths[i][1])
        if batch and not fits(len(batch) + 1, a, b):
            yield batch
            batch, (a, b) = [], lengths[i]
        batch.append(i)
        first, second = a, b
    if batch:
        yield batch


def _match(
    hypotheses: list[tuple[torch.Tensor, torch.Tensor]],
    references: list[tuple[torch.Tensor, torch.Tensor]],
) -> FloatArray:
    """(B, 3) precision, recall and F1 by greedy matching of each token to its most similar."""
    import torch

    h, h_weight, h_there = _pad(hypotheses)
    r, r_weight, r_there = _pad(references)
    with torch.inference_mode():
        similarity = torch.bmm(h, r.transpose(1, 2))
        similarity.masked_fill_(~(h_there[:, :, None] & r_there[:, None, :]), -torch.inf)
        precision = _weighted_mean(similarity.amax(2), h_weight)
        recall = _weighted_mean(similarity.amax(1), r_weight)
        empty = (h_weight.sum(1) == 0) | (r_weight.sum(1) == 0)
        scores = torch.stack([precision, recall, 2 * precision * recall / (precision + recall)])
        scores = scores.masked_fill(empty, 0.0).nan_to_num(nan=0.0)
    return np.asarray(scores.T.double().cpu().numpy())


def _pad(
    rows: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, L, D) vectors, (B, L) weights, and (B, L) whether there is a token."""
    from torch.nn.utils.rnn import pad_sequence

    vectors = pad_sequence([vector for vector, _ in rows], batch_first=True)
    weights = pad_sequence([weight for _, weight in rows], batch_first=True)
    there = pad_sequence([weight >= 0 for _, weight in rows], batch_first=True)
    return vectors, weights, there


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(B, L) → (B,); weightless places may hold infinities."""
    return values.where(weights > 0, 0.0).mul(weights).sum(1) / weights.sum(1)
