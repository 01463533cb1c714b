"""Question answering on NuScenes-QA: accuracy by type and hop, and what to compare it with.

An answer is right if it equals the annotated one, as the released scorer has it. H0 and H1 pool
the counts of all types, which is how published tables have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odvla_bench.errors import PredictionError
from odvla_bench.metrics.signature import format_signature
from odvla_bench.metrics.text.corpus import FloatArray
from odvla_bench.metrics.text.intervals import Statistic
from odvla_bench.metrics.text.tables import Resampling, ScoreTable, rows_of
from odvla_bench.registry import Registry

TYPES = ("exist", "count", "object", "status", "comparison")
"""The `template_type`s of NuScenes-QA."""

_OBJECTS = (
    "barrier,bicycle,bus,car,construction vehicle,motorcycle,pedestrian,traffic cone,trailer,truck"
)
_STATUSES = "moving,not standing,parked,standing,stopped,with rider,without rider"
ANSWERS = frozenset(
    [*map(str, range(11)), "yes", "no", *_OBJECTS.split(","), *_STATUSES.split(",")]
)
"""The 30 answers of NuScenes-QA."""

H0_SHARE = (0.32, 0.34)
"""Share of zero-hop questions in the validation split that published rows imply."""

_NUMBERS = "zero,one,two,three,four,five,six,seven,eight,nine,ten"
_REPLACED = {
    **{word: str(n) for n, word in enumerate(_NUMBERS.split(","))},
    **dict.fromkeys(("a", "an", "the"), ""),
}
_EDGES = ".,;:!?\"'`*()[]{}"


@dataclass(frozen=True)
class QaProfile:
    """How an answer is compared."""

    name: str
    normalise: bool
    """Compare `normalise_answer` of both, instead of the strings as they are."""


PROFILES: Registry[QaProfile] = Registry(
    "question-answering profile",
    {
        "nuscenesqa-strict": QaProfile("nuscenesqa-strict", normalise=False),
        "nuscenesqa-normalised": QaProfile("nuscenesqa-normalised", normalise=True),
    },
)


def normalise_answer(text: str) -> str:
    """An answer in the vocabulary's form, where only its form differs.

    Lower case, underscores as spaces, no punctuation around words, no articles, number words as
    digits, and a plural as its singular if that is in the vocabulary. Synonyms are not replaced.

    >>> normalise_answer("The Traffic_Cones.")
    'traffic cone'
    >>> normalise_answer("Two")
    '2'
    """
    words = [word.strip(_EDGES) for word in text.lower().replace("_", " ").split()]
    answer = " ".join(filter(None, (_REPLACED.get(word, word) for word in words)))
    for ending in ("s", "es"):
        singular = answer.removesuffix(ending)
        if answer not in ANSWERS and singular in ANSWERS:
            return singular
    return answer


def score_qa(
    profile: QaProfile,
    predictions: Sequence[str | None],
    answers: Sequence[str],
    types: Sequence[str],
    hops: Sequence[int],
    *,
    clusters: Sequence[object] | None = None,
    train: tuple[Sequence[str], Sequence[str]] | None = None,
    resampling: Resampling | None = None,
) -> ScoreTable:
    """Accuracy overall, by type, by type and hop, and by hop; a missing answer is wrong.

    Beside it stand the rate of answers outside the vocabulary, and the accuracy of always giving
    the commonest answer of each type.

    Args:
        profile: how answers are compared.
        predictions: N answers, None where there is none.
        answers: N annotated answers.
        types: N `template_type`s.
        hops: N `num_hop`s.
        clusters: N labels for the intervals, such as scene tokens.
        train: answers and types of the training split, from which the commonest answers are
            taken; by default those of the questions scored, which is the best such a rule can do.
        resampling: of the intervals.

    Raises:
        PredictionError: unequal lengths, or no question.
    """
    lengths = {len(predictions), len(answers), len(types), len(hops)}
    if len(lengths) != 1 or not len(answers):
        raise PredictionError(
            f"{len(predictions)} predictions, {len(answers)} answers, {len(types)} types and "
            f"{len(hops)} hops: give one of each for every question, and at least one question."
        )
    form = normalise_answer if profile.normalise else str
    given = [None if text is None else form(text) for text in predictions]
    commonest = _commonest_answers(*(train or (answers, types)))
    right = _equal(given, [form(answer) for answer in answers])
    baseline = _equal([commonest.get(kind) for kind in types], answers)
    outside = np.array([text is not None and text not in ANSWERS for text in given], np.float64)
    groups = _groups(types, hops)
    of_types = {name: mask for name, mask in groups.items() if name in {"overall", *types}}
    statistics = {
        "accuracy": _rates(groups, right),
        "majority_baseline": _rates(of_types, baseline),
        "out_of_vocabulary": _rates({"overall": groups["overall"]}, outside),
    }
    rows = [
        row._replace(group=row.metric, metric=metric)
        for metric, statistic in statistics.items()
        for row in rows_of("", [statistic], clusters, resampling or Resampling())
    ]
    counts = {
        "read": len(given),
        "scored": len(given),
        "missing": sum(text is None for text in given),
        "out_of_vocabulary": int(outside.sum()),
    }
    choices = {
        "profile": profile.name,
        "n": len(given),
        "compare": "normalised" if profile.normalise else "exact",
        "missing": "wrong",
        "baseline": "train" if train else "scored",
    }
    return ScoreTable(profile.name, format_signature(choices.items()), tuple(rows), counts)


def implied_h0_share(h0: float, h1: float, overall: float, *, step: float) -> tuple[float, float]:
    """The range of zero-hop shares that give `overall` from H0 and H1.

    Args:
        h0: accuracy on zero-hop questions.
        h1: accuracy on one-hop questions, in the same scale.
        overall: accuracy on both together, in the same scale.
        step: the last decimal place printed; each number may be off by half of it.

    Returns:
        Lowest and highest share; infinite where rounding leaves H0 and H1 equal.
    """
    half = step / 2
    gap = h0 - h1
    if abs(gap) <= 2 * half:
        return -np.inf, np.inf
    corners = [
        (overall + a - h1 - b) / (gap + c - b)
        for a in (-half, half)
        for b in (-half, half)
        for c in (-half, half)
        if abs(gap + c - b) > half / 1e6
    ]
    return min(corners), max(corners)


def column_warnings(
    h0: float,
    h1: float,
    overall: float,
    *,
    step: float = 0.1,
    share: tuple[float, float] = H0_SHARE,
) -> list[str]:
    """Why printed H0, H1 and overall accuracies cannot come from one split, if they cannot.

    Args:
        h0: accuracy on zero-hop questions, as printed.
        h1: accuracy on one-hop questions, as printed.
        overall: accuracy on all, as printed.
        step: the last decimal place printed.
        share: lowest and highest share of zero-hop questions in the split.

    >>> column_warnings(h0=25.7, h1=41.5, overall=26.2)[0][:56]
    'overall 26.2 from H0 25.7 and H1 41.5 needs 0.96 to 0.97'
    """
    low, high = implied_h0_share(h0, h1, overall, step=step)
    if high >= share[0] and low <= share[1]:
        return []
    return [
        f"overall {overall} from H0 {h0} and H1 {h1} needs {low:.2f} to {high:.2f} of the "
        f"questions to be zero-hop, but the split has {share[0]:.2f} to {share[1]:.2f}: the "
        "columns are not from one evaluation of it."
    ]


def _equal(given: Sequence[str | None], answers: Sequence[str]) -> FloatArray:
    return np.array([a == b for a, b in zip(given, answers, strict=True)], np.float64)


def _commonest_answers(answers: Sequence[str], types: Sequence[str]) -> dict[str, str]:
    """The commonest answer of each type, the alphabetically first on a tie."""
    counts: dict[str, Counter[str]] = {}
    for answer, kind in sorted(zip(answers, types, strict=True)):
        counts.setdefault(kind, Counter())[answer] += 1
    return {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}


def _groups(types: Sequence[str], hops: Sequence[int]) -> dict[str, FloatArray]:
    """Name → (N,) membership, in the order in which tables print them."""
    kind, hop = np.array(types), np.array(hops)
    known = [name for name in TYPES if name in set(types)]
    names = [*known, *sorted(set(types) - set(known))]
    levels = sorted(set(hop.tolist()))
    groups = {"overall": np.ones(len(kind), bool)}
    groups |= {f"H{level}": hop == level for level in levels}
    groups |= {name: kind == name for name in names}
    groups |= {f"{n} H{level}": (kind == n) & (hop == level) for n in names for level in levels}
    return {name: mask.astype(np.float64) for name, mask in groups.items() if mask.any()}


def _rates(groups: dict[str, FloatArray], hits: FloatArray) -> Statistic:
    """The statistic of the share of hits in each group."""
    members = np.stack(list(groups.values()), 1)
    return Statistic(tuple(groups), np.concatenate([members * hits[:, None], members], 1), _ratio)


def _ratio(sums: FloatArray) -> FloatArray:
    hits, members = np.split(sums, 2, axis=-1)
    return np.divide(hits, members, out=np.full_like(hits, np.nan), where=members > 0)
