"""Named ways to score captions: each a frozen set of choices, printed with its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from odvla_bench.errors import InputError, PredictionError
from odvla_bench.metrics.signature import format_signature
from odvla_bench.metrics.text.scoring import CAPTION_METRICS, TextOptions, score_text
from odvla_bench.metrics.text.tables import (
    Resampling,
    ScoreRow,
    ScoreTable,
    rows_of,
)
from odvla_bench.registry import Registry


@dataclass(frozen=True)
class CaptionProfile:
    """How free text is scored against references."""

    name: str
    tokenizer: str
    metrics: tuple[str, ...] = CAPTION_METRICS


@dataclass(frozen=True)
class NuxProfile:
    """How a narration with its reasoning (Nu-X) is read and scored."""

    name: str
    tokenizer: str
    hintad: bool
    """Read parts as Hint-AD's scorer: up to the first period, in the prediction and in the
    reference, and without the rows where any of the four parts is not found. Otherwise a part
    runs up to the next tag, references are taken as they are, and a prediction without both tags
    scores as empty."""
    metrics: tuple[str, ...] = CAPTION_METRICS


class NuxParts(NamedTuple):
    """A narration and its reasoning."""

    narration: str
    reasoning: str


PROFILES: Registry[CaptionProfile | NuxProfile] = Registry(
    "caption profile",
    {
        profile.name: profile
        for profile in (
            CaptionProfile("nucaption-ptb", tokenizer="ptb"),
            CaptionProfile("nucaption-word-lower", tokenizer="word-lower", metrics=("bleu",)),
            NuxProfile("nux-hintad-raw", tokenizer="none", hintad=True),
            NuxProfile("nux-ptb", tokenizer="ptb", hintad=False),
        )
    },
)

_HINTAD = (re.compile(r"Narration: (.*?)\."), re.compile(r"Reasoning: (.*?)\."))
_TAGS = re.compile(r"Narration:(.*?)Reasoning:(.*)", re.DOTALL)


@dataclass(frozen=True)
class ScoreOptions:
    """What a run of a profile may choose: nothing that is part of the profile."""

    bertscore: bool = False
    """Add BERTScore to the profile's metrics."""
    text: TextOptions = field(default_factory=TextOptions)
    resampling: Resampling = field(default_factory=Resampling)


def no_bertscore(what: str) -> InputError:
    """The error for BERTScore asked of a task or profile that it does not apply to."""
    return InputError(f"{what} scores no captions, so that --bertscore adds nothing: leave it out.")


def score_captions(
    profile: CaptionProfile,
    predictions: Sequence[str | None],
    references: Sequence[Sequence[str]],
    *,
    clusters: Sequence[object] | None = None,
    options: ScoreOptions | None = None,
) -> ScoreTable:
    """Scores of captions; a missing prediction scores as an empty one.

    Args:
        profile: how to score.
        predictions: N strings, None where there is none.
        references: N non-empty sequences of strings.
        clusters: N labels for the intervals, such as scene tokens.
        options: BERTScore, how to run, intervals.

    Raises:
        PredictionError: the corpus cannot be scored.
        JavaError: a Java program failed or is missing.
    """
    texts = ["" if text is None else text for text in predictions]
    rows, choices = _score("caption", texts, references, profile, clusters, options)
    counts = {"read": len(texts), "scored": len(texts), "missing": _missing(predictions)}
    own = {"profile": profile.name, "missing": "empty"}
    signature = format_signature([*own.items(), *choices.items()])
    return ScoreTable(profile.name, signature, tuple(rows), counts)


def score_nux(
    profile: NuxProfile,
    predictions: Sequence[str | None],
    references: Sequence[NuxParts],
    *,
    clusters: Sequence[object] | None = None,
    options: ScoreOptions | None = None,
) -> ScoreTable:
    """Scores of narration, reasoning, and both joined by a space, each a group of its own.

    Args:
        profile: how to read and score.
        predictions: N answers, None where there is none.
        references: N annotated narrations and reasonings, without tags and final periods.
        clusters: N labels for the intervals, such as scene tokens.
        options: BERTScore, how to run, intervals.

    Raises:
        PredictionError: unequal lengths, or no row left to score.
        JavaError: a Java program failed or is missing.
    """
    if len(predictions) != len(references):
        raise PredictionError(f"{len(predictions)} predictions for {len(references)} references.")
    read = _read_hintad if profile.hintad else _read_tags
    pairs = [read(text, truth) for text, truth in zip(predictions, references, strict=True)]
    kept = [i for i, (parts, _) in enumerate(pairs) if parts is not None or not profile.hintad]
    if not kept:
        raise PredictionError(
            "No prediction has the form 'Narration: …. Reasoning: ….', and "
            f"{profile.name} scores only those that have."
        )
    answers = [pairs[i][0] or NuxParts("", "") for i in kept]
    truths = [pairs[i][1] for i in kept]
    labels = None if clusters is None else [clusters[i] for i in kept]
    rows: list[ScoreRow] = []
    for group in ("narration", "reasoning", "joined"):
        texts, targets = ([_part(parts, group) for parts in side] for side in (answers, truths))
        found, choices = _score(group, texts, [[t] for t in targets], profile, labels, options)
        rows += found
    malformed = sum(parts is None for parts, _ in pairs)
    missing = _missing(predictions)
    counts = {
        "read": len(pairs),
        "scored": len(kept),
        "missing": missing,
        "malformed": malformed - missing,
    }
    malformed_as = "dropped" if profile.hintad else "empty"
    own = {"profile": profile.name, "join": "space", "malformed": malformed_as}
    signature = format_signature([*own.items(), *choices.items()])
    return ScoreTable(profile.name, signature, tuple(rows), counts)


def hintad_text(parts: NuxParts) -> str:
    """An annotation as Hint-AD writes it for training and scoring."""
    return f"Narration: {parts.narration}. Reasoning: {parts.reasoning}."


def _read_hintad(text: str | None, truth: NuxParts) -> tuple[NuxParts | None, NuxParts]:
    """Prediction and reference cut at their first periods; None if any part is not found."""
    target = _search(hintad_text(truth))
    answer = None if text is None or target is None else _search(text)
    return answer, target or truth


def _search(text: str) -> NuxParts | None:
    found = [pattern.search(text) for pattern in _HINTAD]
    parts = [match.group(1) for match in found if match]
    return NuxParts(*parts) if len(parts) == len(found) else None


def _read_tags(text: str | None, truth: NuxParts) -> tuple[NuxParts | None, NuxParts]:
    """What stands behind each tag, less the period that the format adds; None without both."""
    match = None if text is None else _TAGS.search(text)
    parts = match and NuxParts(*(part.strip().removesuffix(".") for part in match.groups()))
    return parts, truth


def _part(parts: NuxParts, group: str) -> str:
    return " ".join(parts) if group == "joined" else str(getattr(parts, group))


def _score(
    group: str,
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    profile: CaptionProfile | NuxProfile,
    clusters: Sequence[object] | None,
    options: ScoreOptions | None,
) -> tuple[list[ScoreRow], Mapping[str, object]]:
    """The rows of one group, and the scorers' choices."""
    options = options or ScoreOptions()
    metrics = (*profile.metrics, "bertscore") if options.bertscore else profile.metrics
    scores = score_text(
        texts, references, metrics=metrics, tokenizer=profile.tokenizer, options=options.text
    )
    return rows_of(group, scores.statistics, clusters, options.resampling), scores.choices


def _missing(predictions: Sequence[str | None]) -> int:
    return sum(text is None for text in predictions)
