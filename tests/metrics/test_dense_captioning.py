"""Dense captioning on boxes worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.errors import PredictionError
from odvla_bench.metrics.dense_captioning import (
    PROFILES,
    Boxes,
    Frame,
    box_iou_3d,
    clean_caption,
    kept_by_detection_rules,
    score_dense_captions,
    size_iou,
)
from odvla_bench.metrics.text.tables import Resampling, ScoreTable

NO_INTERVALS = Resampling(resamples=0)
CAR = (2.0, 4.0, 2.0)  # width, length, height


def boxes(*rows: tuple[float, float, float, float], size: tuple[float, ...] = CAR) -> Boxes:
    """Boxes of one size from rows of x, y, z, yaw."""
    array = np.array(rows, float).reshape(-1, 4)
    return Boxes(array[:, :3], np.tile(size, (len(array), 1)), array[:, 3])


def score(name: str, *frames: Frame, metrics: tuple[str, ...] = ("rouge_l",)) -> ScoreTable:
    return score_dense_captions(
        PROFILES.get(name), frames, metrics=metrics, resampling=NO_INTERVALS
    )


@pytest.mark.parametrize(
    ("first", "second", "size", "expected"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0), CAR, 1.0),
        ((0, 0, 0, 0), (1, 0, 0, 0), CAR, 12 / 20),  # 3 · 2 · 2 of 16 + 16
        ((0, 0, 0, 0), (0, 1, 0, 0), CAR, 8 / 24),  # 4 · 1 · 2
        ((0, 0, 0, 0), (0, 0, 1, 0), CAR, 8 / 24),  # 4 · 2 · 1
        ((0, 0, 0, 0), (0, 0, 0, np.pi / 2), CAR, 8 / 24),  # a square of 2 · 2, height 2
        ((0, 0, 0, 0), (0, 0, 0, np.pi), CAR, 1.0),
        # A unit square and the same at 45°: an octagon of area 2(√2 - 1).
        ((0, 0, 0, 0), (0, 0, 0, np.pi / 4), (1, 1, 1), 2**-0.5),
        ((0, 0, 0, 0), (40, 0, 0, 0), CAR, 0.0),
        ((0, 0, 0, 0), (0, 0, 5, 0), CAR, 0.0),
    ],
    ids=["same", "along", "across", "above", "turned", "about", "octagon", "far", "over"],
)
def test_overlap_in_space(
    first: tuple[float, ...],
    second: tuple[float, ...],
    size: tuple[float, ...],
    expected: float,
) -> None:
    iou = box_iou_3d(boxes(first, size=size), boxes(second, size=size))  # type: ignore[arg-type]
    assert iou.shape == (1, 1)
    assert iou[0, 0] == pytest.approx(expected, abs=1e-12)


ROW = st.tuples(*[st.floats(-3, 3)] * 2, st.floats(-1, 1), st.floats(-3, 3))


@given(st.lists(ROW, max_size=3), st.lists(ROW, max_size=3), ROW)
def test_overlap_is_symmetric_bounded_and_moves_with_the_boxes(
    a: list[tuple[float, ...]], b: list[tuple[float, ...]], shift: tuple[float, ...]
) -> None:
    iou = box_iou_3d(boxes(*a), boxes(*b))  # type: ignore[arg-type]
    assert iou.shape == (len(a), len(b))
    np.testing.assert_allclose(iou.T, box_iou_3d(boxes(*b), boxes(*a)), atol=1e-9)  # type: ignore[arg-type]
    assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()
    moved = [boxes(*rows) for rows in (a, b)]  # type: ignore[arg-type]
    moved = [m._replace(center_m=m.center_m + np.array(shift[:3])) for m in moved]
    np.testing.assert_allclose(box_iou_3d(*moved), iou, atol=1e-7)


def test_overlap_of_sizes_ignores_where_boxes_are() -> None:
    iou = size_iou(boxes((0, 0, 0, 0)), boxes((40, 0, 0, 1), (0, 0, 0, 0)))
    assert iou.tolist() == [[1.0, 1.0]]
    small = boxes((0, 0, 0, 0), size=(1.0, 4.0, 4.0))
    assert size_iou(boxes((0, 0, 0, 0)), small)[0, 0] == pytest.approx(8 / 24)


def test_the_released_scorer_takes_a_box_of_the_same_size_40_m_away() -> None:
    frame = Frame(boxes((0, 0, 0, 0)), ["a red car ."], boxes((40, 0, 0, 0)), ["a red car"])
    released = score("tod3cap-released", frame)
    assert released.value("precision above 0.25", "ROUGE_L") == 1.0
    assert released.value("precision above 0.5", "ROUGE_L") == 1.0
    true = score("tod3cap-iou3d", frame)
    assert {row.value for row in true.rows} == {0.0}
    assert true.counts["matched above 0.25"] == 0


def test_the_released_scorer_scales_by_predictions_and_forgives_duplicates_and_misses() -> None:
    truth = Boxes(np.zeros((2, 3)), np.array([CAR, (1, 1, 1)], float), np.zeros(2))
    predicted = Boxes(
        np.zeros((4, 3)), np.array([CAR, CAR, (9, 9, 9), (2, 4, 1)], float), np.zeros(4)
    )
    frame = Frame(predicted, ["a car"] * 4, truth, ["a car", "a cone"])
    nothing_there = Frame(boxes((0, 0, 0, 0)), ["a car"], boxes(), [])
    table = score("tod3cap-released", frame, nothing_there)
    # Overlaps of size: 1, 1, 16/729 and 8/16, each with the car; 0.5 is not above 0.5.
    assert table.value("precision above 0.25", "ROUGE_L") == pytest.approx(3 / 4)
    assert table.value("precision above 0.5", "ROUGE_L") == pytest.approx(2 / 4)
    assert table.counts["predicted"] == 4


def test_the_released_scorer_gives_a_text_to_objects_without_caption() -> None:
    frame = Frame(boxes((0, 0, 0, 0)), ["The object is ignored."], boxes((0, 0, 0, 0)), [None])
    assert score("tod3cap-released", frame).value("precision above 0.5", "ROUGE_L") == 1.0
    true = score("tod3cap-iou3d", frame)
    assert {row.value for row in true.rows} == {0.0}
    assert (true.counts["predicted"], true.counts["present"]) == (0, 0)


def test_boxes_in_space_match_one_to_one() -> None:
    frame = Frame(
        boxes((0.5, 0, 0, 0), (0, 0, 0, 0), (30, 0, 0, 0)),
        ["wrong words", "a car", "a car"],
        boxes((0, 0, 0, 0), (60, 0, 0, 0)),
        ["a car", "a bus"],
    )
    table = score("tod3cap-iou3d", frame)
    # The exact box takes the car although the first overlaps it by 14/18; one pair is matched.
    assert table.value("recall above 0.5", "ROUGE_L") == pytest.approx(1 / 2)
    assert table.value("precision above 0.5", "ROUGE_L") == pytest.approx(1 / 3)
    assert table.value("f1 above 0.5", "ROUGE_L") == pytest.approx(2 / 5)
    assert "overlap:3d" in table.signature
    assert table.counts["matched above 0.5"] == 1


def test_thresholds_are_strict() -> None:
    frame = Frame(boxes((1, 0, 0, 0)), ["a car"], boxes((0, 0, 0, 0)), ["a car"])
    exact = replace(PROFILES.get("tod3cap-iou3d"), thresholds=(0.59, 0.6000000001))
    table = score_dense_captions(exact, [frame], metrics=["rouge_l"], resampling=NO_INTERVALS)
    assert table.value("recall above 0.59", "ROUGE_L") == 1.0
    assert table.value("recall above 0.6000000001", "ROUGE_L") == 0.0


def test_intervals_come_from_scenes() -> None:
    good = Frame(boxes((0, 0, 0, 0)), ["a car"], boxes((0, 0, 0, 0)), ["a car"])
    bad = good._replace(predicted=boxes((30, 0, 0, 0)))
    table = score_dense_captions(
        PROFILES.get("tod3cap-iou3d"),
        [good, bad],
        metrics=["rouge_l", "bleu"],
        clusters=["a", "b"],
    )
    row = next(r for r in table.rows if (r.group, r.metric) == ("recall above 0.5", "ROUGE_L"))
    assert row.value == 0.5
    assert row.interval == (0.0, 1.0)
    blue = next(r for r in table.rows if (r.group, r.metric) == ("recall above 0.5", "Bleu_1"))
    assert blue.interval is not None
    assert blue.interval.high == pytest.approx(1.0, abs=1e-6)


def test_captions_lose_lonely_commas_and_periods_only() -> None:
    assert clean_caption("A car , parked.  Here .") == "A car parked. Here"


def test_detection_rules() -> None:
    kept = kept_by_detection_rules(
        ["car", "car", "barrier", "bicycle", "bicycle", "car"],
        np.array([49.9, 50.0, 30.5, 10.0, 10.0, 5.0]),
        point_count=np.array([1, 1, 1, 1, 1, 0]),
        in_bike_rack=np.array([False, False, False, True, False, True]),
    )
    assert kept.tolist() == [True, False, False, False, True, False]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(boxes((0, 0, 0, 0)), [], boxes(), []), "predicted boxes have shapes"),
        (Frame(boxes(), [], boxes((0, 0, 0, 0), size=(0, 1, 1)), ["a"]), "true box has a size"),
        (Frame(boxes((np.nan, 0, 0, 0)), ["a"], boxes(), []), "not finite"),
    ],
)
def test_frames_that_cannot_be_scored(frame: Frame, message: str) -> None:
    with pytest.raises(PredictionError, match=f"Keyframe 0: a? ?.*{message}"):
        score("tod3cap-released", frame)
