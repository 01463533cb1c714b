"""Dense captioning on TOD3Cap: captions of detected boxes, counted by how well the boxes fit.

`tod3cap-released` is what the released scorer computes. Its overlap compares sizes only, so that a
box of the right size fits at any distance; each prediction takes the box of most similar size,
however many others do; and scores are scaled by the share of predictions kept, so that missed
objects cost nothing. `tod3cap-iou3d` uses the overlap in space, matches boxes one to one, and
scales by the share of objects found (recall), of predictions that fit (precision), and by F1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from odvla_bench.errors import PredictionError
from odvla_bench.geometry import box_corners
from odvla_bench.metrics.signature import format_signature
from odvla_bench.metrics.text.corpus import FloatArray, IntArray
from odvla_bench.metrics.text.intervals import Statistic
from odvla_bench.metrics.text.scoring import CAPTION_METRICS, TextOptions, TextScores, score_text
from odvla_bench.metrics.text.tables import (
    Resampling,
    ScoreRow,
    ScoreTable,
    rows_of,
)
from odvla_bench.registry import Registry

IGNORED_CAPTION = "The object is ignored."
"""The reference of an object without a caption in the released scorer."""

CLASS_RANGE_M = {
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), 50.0),
    **dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), 40.0),
    **dict.fromkeys(("traffic_cone", "barrier"), 30.0),
}
"""Largest distance from the ego car by detection class (nuScenes, detection_cvpr_2019), metres."""


@dataclass(frozen=True)
class DenseProfile:
    """How boxes are compared and which share scales the scores."""

    name: str
    overlap: str
    """`"size"` or `"3d"`."""
    one_to_one: bool
    """Match boxes one to one; otherwise every prediction takes its best box."""
    shares: tuple[str, ...]
    """Any of `"recall"`, `"precision"`, `"f1"`."""
    thresholds: tuple[float, ...] = (0.25, 0.5)
    """A pair counts above each of these overlaps."""


PROFILES: Registry[DenseProfile] = Registry(
    "dense-captioning profile",
    {
        profile.name: profile
        for profile in (
            DenseProfile("tod3cap-released", "size", one_to_one=False, shares=("precision",)),
            DenseProfile(
                "tod3cap-iou3d", "3d", one_to_one=True, shares=("recall", "precision", "f1")
            ),
        )
    },
)


class Boxes(NamedTuple):
    """Upright boxes of one keyframe, all in one frame whose z axis points up."""

    center_m: FloatArray
    """(K, 3) centres."""
    size_m: FloatArray
    """(K, 3) width, length, height, positive, in nuScenes' order."""
    yaw_rad: FloatArray
    """(K,) heading, counter-clockwise from +x."""


class Frame(NamedTuple):
    """One keyframe: what was predicted, and what is there."""

    predicted: Boxes
    captions: Sequence[str]
    """A caption for each predicted box."""
    truth: Boxes
    references: Sequence[str | None]
    """The annotated caption of each true box, None for an object that has none."""


class _Matches(NamedTuple):
    """Pairs of boxes of one keyframe, and how many boxes there were."""

    captions: list[str]
    references: list[str]
    predicted: int
    present: int


def size_iou(predicted: Boxes, truth: Boxes) -> FloatArray:
    """(P, T) overlap of the boxes' sizes, as if they had one centre and one heading."""
    a, b = predicted.size_m[:, None], truth.size_m[None]
    common = np.prod(np.minimum(a, b), -1)
    return common / (np.prod(a, -1) + np.prod(b, -1) - common)


def box_iou_3d(predicted: Boxes, truth: Boxes) -> FloatArray:
    """(P, T) intersection over union of the boxes' volumes."""
    a, b = (_footprints(boxes) for boxes in (predicted, truth))
    area = shapely.area(shapely.intersection(a[:, None], b[None]))
    top = [boxes.center_m[:, 2] + boxes.size_m[:, 2] / 2 for boxes in (predicted, truth)]
    bottom = [boxes.center_m[:, 2] - boxes.size_m[:, 2] / 2 for boxes in (predicted, truth)]
    height = np.minimum.outer(*top) - np.maximum.outer(*bottom)
    common = area * np.maximum(height, 0)
    volumes = np.add.outer(*(np.prod(boxes.size_m, -1) for boxes in (predicted, truth)))
    return common / (volumes - common)


def kept_by_detection_rules(
    names: Sequence[str],
    ego_distance_m: FloatArray,
    point_count: IntArray | None = None,
    in_bike_rack: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which boxes nuScenes' detection evaluation keeps, and TOD3Cap's released scorer with it.

    Args:
        names: K detection classes, keys of `CLASS_RANGE_M`.
        ego_distance_m: (K,) distance of the centre from the ego car in the x-y plane.
        point_count: (K,) LIDAR and RADAR points inside, for true boxes; those without are dropped.
        in_bike_rack: (K,) whether the centre lies in a bicycle rack; bicycles and motorcycles
            there are dropped.
    """
    limit = np.array([CLASS_RANGE_M[name] for name in names])
    kept = np.asarray(ego_distance_m) < limit
    if point_count is not None:
        kept &= np.asarray(point_count) > 0
    if in_bike_rack is not None:
        kept &= ~(np.isin(names, ("bicycle", "motorcycle")) & in_bike_rack)
    return kept


def score_dense_captions(
    profile: DenseProfile,
    frames: Sequence[Frame],
    *,
    clusters: Sequence[object] | None = None,
    metrics: Sequence[str] = CAPTION_METRICS,
    options: TextOptions | None = None,
    resampling: Resampling | None = None,
    boxes: str = "as-given",
) -> ScoreTable:
    """Caption scores above each overlap, scaled by a share of the boxes.

    Texts are split on white space without tokens that are only `,` or `.`; case stays. The scores,
    and CIDEr's document frequencies with them, are of the pairs above the overlap alone.

    Args:
        profile: how to compare and to scale.
        frames: F keyframes, filtered as the evaluation asks (`kept_by_detection_rules`).
        clusters: F labels for the intervals, such as scene tokens.
        metrics: as for `score_text`.
        options: as for `score_text`.
        resampling: of the intervals.
        boxes: how the keyframes were filtered, for the signature.

    Raises:
        PredictionError: boxes and captions do not go together, or a size is not positive.
        JavaError: METEOR failed, or Java is missing.
    """
    for number, frame in enumerate(frames):
        _check(number, frame)
    rows: list[ScoreRow] = []
    counts: dict[str, int] = {"frames": len(frames)}
    scored: Mapping[str, object] = {}
    for threshold in profile.thresholds:
        matches = [_match(frame, profile, threshold) for frame in frames]
        matched = sum(len(m.captions) for m in matches)
        counts |= {
            "predicted": sum(m.predicted for m in matches),
            "present": sum(m.present for m in matches),
            f"matched above {threshold}": matched,
        }
        if not matched:
            rows += _zero_rows(profile, threshold, metrics)
            continue
        scores = _score_pairs(matches, metrics, options)
        scored = {key: value for key, value in scores.choices.items() if key != "n"}
        for share in profile.shares:
            scaled = [_scaled(s, matches, share) for s in scores.statistics]
            group = f"{share} above {threshold}"
            rows += rows_of(group, scaled, clusters, resampling or Resampling())
    own = {
        "profile": profile.name,
        "boxes": boxes,
        "overlap": profile.overlap,
        "match": "one-to-one" if profile.one_to_one else "best",
        "without-caption": "dropped" if profile.one_to_one else "ignored-text",
    }
    signature = format_signature([*own.items(), *scored.items()])
    return ScoreTable(profile.name, signature, tuple(rows), counts)


def clean_caption(text: str) -> str:
    """A caption's white-space tokens without those that are only a comma or a period."""
    return " ".join(token for token in text.split() if token not in {",", "."})


def _match(frame: Frame, profile: DenseProfile, threshold: float) -> _Matches:
    """The pairs of a keyframe that overlap by more than `threshold`."""
    overlap = size_iou if profile.overlap == "size" else box_iou_3d
    iou = overlap(frame.predicted, frame.truth)
    if not profile.one_to_one:
        return _match_best(frame, iou, threshold)
    pairs = _one_to_one(iou, threshold)
    ignored = sum(frame.references[t] is None for _, t in pairs)
    found = [(p, reference) for p, t in pairs if (reference := frame.references[t]) is not None]
    return _Matches(
        [clean_caption(frame.captions[p]) for p, _ in found],
        [clean_caption(reference) for _, reference in found],
        len(frame.captions) - ignored,
        sum(reference is not None for reference in frame.references),
    )


def _match_best(frame: Frame, iou: FloatArray, threshold: float) -> _Matches:
    """Each prediction with its best box, the first on a tie; none where there is no box."""
    if not iou.size:
        return _Matches([], [], 0, len(frame.references))
    best = iou.argmax(1)
    kept = np.flatnonzero(iou.max(1) > threshold).tolist()
    references = [frame.references[t] for t in best[kept]]
    return _Matches(
        [clean_caption(frame.captions[p]) for p in kept],
        [clean_caption(IGNORED_CAPTION if text is None else text) for text in references],
        len(frame.captions),
        len(frame.references),
    )


def _one_to_one(iou: FloatArray, threshold: float) -> list[tuple[int, int]]:
    """Pairs of prediction and box, the largest overlap first, each used once."""
    rows, columns = np.nonzero(iou > threshold)
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for k in np.argsort(-iou[rows, columns], kind="stable"):
        p, t = int(rows[k]), int(columns[k])
        if p not in used[0] and t not in used[1]:
            pairs.append((p, t))
            used[0].add(p)
            used[1].add(t)
    return pairs


def _score_pairs(
    matches: Sequence[_Matches], metrics: Sequence[str], options: TextOptions | None
) -> TextScores:
    captions = [text for m in matches for text in m.captions]
    references = [[text] for m in matches for text in m.references]
    return score_text(captions, references, metrics=metrics, tokenizer="none", options=options)


def _scaled(statistic: Statistic, matches: Sequence[_Matches], share: str) -> Statistic:
    """The statistic of F keyframes whose scores are those of the pairs times a share of boxes."""
    pairs = np.array([len(m.captions) for m in matches])
    predicted = np.array([m.predicted for m in matches])
    present = np.array([m.present for m in matches])
    total = {"recall": present, "precision": predicted, "f1": (present + predicted) / 2}[share]
    sums = np.zeros((len(matches), statistic.values.shape[1]))
    np.add.at(sums, np.repeat(np.arange(len(matches)), pairs), statistic.values)

    def finish(values: FloatArray) -> FloatArray:
        count, boxes = values[..., -2:-1], values[..., -1:]
        scale = np.divide(count, boxes, out=np.zeros_like(count), where=boxes > 0)
        with np.errstate(invalid="ignore"):
            scores = statistic.finish(values[..., :-2])
        return np.where(count > 0, scores * scale, 0.0)

    return Statistic(statistic.names, np.column_stack([sums, pairs, total]), finish)


def _zero_rows(profile: DenseProfile, threshold: float, metrics: Sequence[str]) -> list[ScoreRow]:
    """The rows of a threshold above which there is no pair."""
    names = {
        "bleu": [f"Bleu_{n}" for n in range(1, 5)],
        "meteor": ["METEOR"],
        "rouge_l": ["ROUGE_L"],
        "cider": ["CIDEr"],
        "bertscore": [f"BERTScore_{part}" for part in ("P", "R", "F1")],
    }
    return [
        ScoreRow(f"{share} above {threshold}", name, 0.0, None)
        for share in profile.shares
        for metric in names
        if metric in metrics
        for name in names[metric]
    ]


def _footprints(boxes: Boxes) -> npt.NDArray[np.object_]:
    """(K,) the boxes seen from above, as polygons."""
    corners = box_corners(
        boxes.center_m[:, :2], boxes.yaw_rad, boxes.size_m[:, 1], boxes.size_m[:, 0]
    )
    return np.asarray(shapely.polygons(corners), dtype=object)


def _check(number: int, frame: Frame) -> None:
    """Refuse a keyframe whose boxes and captions do not go together."""
    sides = ((frame.predicted, frame.captions), (frame.truth, frame.references))
    for what, (boxes, texts) in zip(("predicted", "true"), sides, strict=True):
        shapes = (boxes.center_m.shape, boxes.size_m.shape, boxes.yaw_rad.shape)
        if shapes != ((len(texts), 3), (len(texts), 3), (len(texts),)):
            raise PredictionError(
                f"Keyframe {number}: {what} boxes have shapes {shapes} for {len(texts)} captions. "
                "Give (K, 3) centres, (K, 3) sizes, (K,) headings and K captions."
            )
        numbers = np.column_stack([boxes.center_m, boxes.size_m, boxes.yaw_rad])
        if not np.isfinite(numbers).all() or (boxes.size_m <= 0).any():
            raise PredictionError(
                f"Keyframe {number}: a {what} box has a size that is not positive, or a number "
                "that is not finite. Drop the box, or mend it."
            )
