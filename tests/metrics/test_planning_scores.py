import dataclasses
from typing import Any

import numpy as np
import pytest

from odvla_bench.errors import InputError
from odvla_bench.metrics import PlanningScores, boxes_from_tracks, compare_scores, score_planning
from odvla_bench.metrics.scores import ratios


def scores_of(
    pred: np.ndarray, protocol: str = "exact", *, scene: bool = True, **inputs: Any
) -> PlanningScores:
    n = len(pred)
    return score_planning(
        pred,
        np.zeros_like(pred),
        np.full(n, 6),
        protocol=protocol,
        scene=np.arange(n) // 4 if scene else None,
        **inputs,
    )


def plans(seed: int, scale: float = 1.0, n: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (n, 6, 2))


def cars(n: int) -> Any:
    """A parked car 3 m to the right of every second sample."""
    return boxes_from_tracks(
        np.broadcast_to([2.5, 0.0, np.pi / 2], (n // 2, 7, 3)),
        np.tile([2.0, 4.0], (n // 2, 1)),
        np.ones((n // 2, 7), bool),
        category=["vehicle.car"] * (n // 2),
        visibility=np.full(n // 2, 4),
        sample=np.arange(0, n, 2),
    )


@pytest.mark.parametrize("protocol", ["exact", "uniad", "vad", "bev-planner"])
def test_the_table_is_the_ratio_of_summed_addends(protocol: str) -> None:
    scores = scores_of(plans(0), protocol, boxes=cars(40))
    values = iter(ratios(scores.additive().sum(0).reshape(1, -1))[0])
    table = scores.table()
    nested = [table, *(table[rule.name] for rule in scores.protocol.tables[1:])]
    for part in nested:
        for name, row in part.items():
            if row is not None and name not in {r.name for r in scores.protocol.tables}:
                assert list(row.values()) == [next(values) for _ in row]
    assert next(values, None) is None


def test_values_are_plain_floats_and_fractions() -> None:
    table = scores_of(plans(0), boxes=cars(40)).table()
    assert {type(value) for value in table["collision"].values()} == {float}
    assert 0 < table["collision"]["3s"] < 1
    assert list(table["l2_m"]) == ["1s", "2s", "3s", "avg"]
    assert table["l2_m"]["avg"] == pytest.approx(sum(list(table["l2_m"].values())[:3]) / 3)


def test_intervals_hold_the_value_and_follow_the_seed() -> None:
    scores = scores_of(plans(0), boxes=cars(40))
    table, intervals = scores.table(), scores.intervals(seed=1)
    for metric in ("l2_m", "collision"):
        for column, (low, high) in intervals[metric].items():
            assert low < table[metric][column] < high
    assert intervals["any_up_to"].keys() == {"l2_m", "collision"}
    assert scores.intervals(seed=1) == intervals
    assert scores.intervals(seed=2) != intervals


def test_intervals_need_scenes() -> None:
    with pytest.raises(InputError, match="pass scene="):
        scores_of(plans(0), scene=False).intervals()


def test_a_better_plan_is_better_beyond_chance() -> None:
    good, bad = (scores_of(plans(0, scale), boxes=cars(40)) for scale in (1.0, 1.5))
    difference = compare_scores(good, bad)
    l2 = difference["l2_m"]["avg"]
    assert l2["difference"] == pytest.approx(
        good.table()["l2_m"]["avg"] - bad.table()["l2_m"]["avg"]
    )
    assert l2["low"] <= l2["difference"] <= l2["high"] < 0
    assert l2["p_value"] < 0.01


def test_a_plan_does_not_differ_from_itself() -> None:
    scores = scores_of(plans(0), boxes=cars(40))
    row = compare_scores(scores, scores)["collision"]["3s"]
    assert row == {"difference": 0, "low": 0, "high": 0, "p_value": 1}


def test_only_like_scores_are_compared() -> None:
    first = scores_of(plans(0), boxes=cars(40))
    for second in (
        scores_of(plans(0), "uniad", boxes=cars(40)),
        scores_of(plans(0)),
        dataclasses.replace(first, n_valid=first.n_valid - 1),
    ):
        with pytest.raises(InputError, match="same samples"):
            compare_scores(first, second)


def test_step_means_and_counts() -> None:
    pred = np.zeros((2, 6, 2))
    pred[0, 5] = (3, 4)
    scores = scores_of(pred, "uniad")
    means = scores.step_means()
    assert means["l2_m"] is not None
    assert means["l2_m"].tolist() == [0, 0, 0, 0, 0, 2.5]
    assert means["collision"] is None
    assert scores.counts() == {
        "samples": 2,
        "scored_samples": 2,
        "l2_steps": 12,
        "missing_steps": 0,
    }
