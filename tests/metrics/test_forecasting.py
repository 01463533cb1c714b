from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odvla_bench.errors import InputError
from odvla_bench.metrics.forecasting import (
    hold_last,
    motion_intervals,
    motion_table,
    score_motion,
)

STRAIGHT = np.stack([np.zeros(6), np.arange(1.0, 7.0)], -1)
ALL = np.ones((1, 6), bool)


def shifted(*metres):
    """Straight motion, each step off to the right by so much."""
    return STRAIGHT + np.stack([np.array(metres), np.zeros(6)], -1)


def test_values_by_hand():
    scores = score_motion(shifted(0, 1, 1, 2, 2, 3)[None, None], STRAIGHT[None], ALL)
    # Means of 0 1, of 0 1 1 2 and of all; the steps at 1, 2 and 3 s; more than 2 m is a miss.
    assert scores.mean("min_ade_m").tolist() == [0.5, 1.0, 1.5]
    assert scores.mean("min_fde_m").tolist() == [1.0, 2.0, 3.0]
    assert scores.mean("missed").tolist() == [0.0, 0.0, 1.0]


def test_the_best_of_several_counts_for_each_metric():
    pred = np.stack([shifted(0, 0, 0, 0, 0, 5), shifted(1, 1, 1, 1, 1, 1)])
    scores = score_motion(pred[None], STRAIGHT[None], ALL)
    assert scores.mean("min_ade_m").tolist() == [0.0, 0.0, pytest.approx(5 / 6)]
    assert scores.mean("min_fde_m").tolist() == [0.0, 0.0, 1.0]


def test_a_row_counts_where_its_future_reaches_the_horizon():
    valid = np.array([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])
    truth = np.where(valid[..., None], STRAIGHT, np.nan)
    pred = np.stack([shifted(*[1] * 6), shifted(*[3] * 6), shifted(*[9] * 6)])
    scores = score_motion(pred[:, None], truth, valid)
    assert scores.counted.tolist() == [[True] * 3, [True, True, False], [False] * 3]
    assert scores.mean("min_ade_m").tolist() == [2.0, 2.0, 1.0]
    assert scores.mean("missed").tolist() == [0.5, 0.5, 0.0]


def test_categories_are_told_apart():
    pred = np.stack([shifted(*[1] * 6), shifted(*[3] * 6)])[:, None]
    scores = score_motion(pred, np.stack([STRAIGHT] * 2), np.ones((2, 6), bool))
    table = motion_table(scores, ["vehicle.car", "human.pedestrian.adult"])
    assert list(table) == ["all", "human.pedestrian.adult", "vehicle.car"]
    assert table["all"]["min_fde_m"] == [2.0] * 3
    assert table["vehicle.car"]["min_fde_m"] == [1.0] * 3
    assert table["vehicle.car"]["rows"] == [1, 1, 1]


def test_no_row_at_a_horizon_is_not_a_zero():
    scores = score_motion(STRAIGHT[None, None], STRAIGHT[None], np.zeros((1, 6), bool))
    assert np.isnan(scores.mean("min_fde_m")).all()


@given(arrays(np.float64, (3, 2, 6, 2), elements=st.floats(-50, 50)))
def test_more_answers_are_never_worse(pred):
    truth, valid = np.stack([STRAIGHT] * 3), np.ones((3, 6), bool)
    both, first = score_motion(pred, truth, valid), score_motion(pred[:, :1], truth, valid)
    assert (both.min_ade_m <= first.min_ade_m).all()
    assert (both.min_fde_m <= first.min_fde_m).all()


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (np.zeros((1, 6, 2)), "expected"),
        (np.full((1, 1, 6, 2), np.nan), "row 0 is not finite"),
    ],
)
def test_bad_shapes_and_values_are_named(pred, message):
    with pytest.raises(InputError, match=message):
        score_motion(pred, STRAIGHT[None], ALL)


def test_an_answer_that_ends_early_holds_its_last_position():
    xy = np.full((2, 6, 2), np.nan)
    xy[0, :2] = [[1, 2], [3, 4]]
    held = hold_last(xy)
    assert held[0].tolist() == [[1, 2]] + [[3, 4]] * 5
    assert not held[1].any()


def test_intervals_are_of_scenes_and_hold_the_means():
    error_m = np.array([1.0, 1.0, 3.0, 5.0])
    pred = np.stack([shifted(*[e] * 6) for e in error_m])[:, None]
    scores = score_motion(pred, np.stack([STRAIGHT] * 4), np.ones((4, 6), bool))
    category, scene = ["car", "car", "car", "bus"], ["a", "a", "b", "b"]
    found = motion_intervals(scores, category, scene, seed=1)
    assert list(found) == ["all", "bus", "car"]
    # Scene a has the mean 1, scene b the mean 4; both drawn alike give the two ends.
    assert found["all"]["min_fde_m"] == [[1.0, 4.0]] * 3
    assert found["car"]["min_fde_m"] == [[1.0, 3.0]] * 3
    assert found["bus"]["min_fde_m"] == [[5.0, 5.0]] * 3, "only resamples with a bus count"
    assert found == motion_intervals(scores, category, scene, seed=1)
    one_scene = motion_intervals(scores, category, ["a"] * 4)
    assert one_scene["all"]["min_ade_m"] == [[2.5, 2.5]] * 3
