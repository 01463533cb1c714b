from typing import Any

import numpy as np
import pytest

from odvla_bench.errors import InputError, PredictionError
from odvla_bench.metrics import boxes_from_tracks, score_planning


def score(**changes: Any) -> Any:
    inputs = {
        "pred_m": np.zeros((3, 6, 2)),
        "gt_m": np.zeros((3, 6, 2)),
        "n_valid": np.full(3, 6),
        "protocol": "uniad",
        **changes,
    }
    return score_planning(inputs.pop("pred_m"), inputs.pop("gt_m"), inputs.pop("n_valid"), **inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_not_finite_are_named_by_row(value: float) -> None:
    pred = np.zeros((3, 6, 2))
    pred[1, 4, 0] = pred[2, 0, 1] = value
    with pytest.raises(PredictionError, match="2 of 3 predictions are not finite") as error:
        score(pred_m=pred)
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "row 1, step 5",
        "row 2, step 1",
    ]


def test_many_bad_rows_are_counted_not_listed() -> None:
    with pytest.raises(PredictionError) as error:
        score(pred_m=np.full((3, 6, 2), np.nan))
    assert len(error.value.problems) == 11
    assert error.value.problems[-1] == "and 8 more"


@pytest.mark.parametrize(
    "pred",
    [
        pytest.param(np.zeros((3, 5, 2)), id="five steps"),
        pytest.param(np.zeros((2, 6, 2)), id="a sample short"),
        pytest.param(np.zeros((3, 6, 2), int), id="whole numbers"),
    ],
)
def test_predictions_of_another_shape_or_type(pred: np.ndarray) -> None:
    with pytest.raises(PredictionError, match=r"of shape \(3, 6, 2\)"):
        score(pred_m=pred)


GRID = np.zeros((3, 6, 200, 25), np.uint8)
BOXES = boxes_from_tracks(
    np.zeros((1, 7, 3)),
    np.ones((1, 2)),
    np.ones((1, 7), bool),
    category=["vehicle.car"],
    visibility=np.array([4]),
    sample=np.array([7]),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"gt_m": np.zeros((3, 6, 3))}, "Recorded waypoints", id="recorded"),
        pytest.param({"gt_m": np.full((3, 6, 2), np.nan)}, "row 0, step 1", id="recorded nan"),
        pytest.param({"n_valid": np.array([6, 7, 0])}, "from 0 to 6", id="too many steps"),
        pytest.param({"n_valid": np.full(3, 6.0)}, "whole numbers", id="steps in floats"),
        pytest.param({"scene": np.zeros(2)}, "scene has shape", id="scene"),
        pytest.param({"n_past": np.zeros(4)}, "n_past has shape", id="past"),
        pytest.param({"occupancy": GRID[:, :5]}, r"shape \(3, 6, 200, 25\)", id="grid"),
        pytest.param({"occupancy": GRID.astype(bool)}, "needs uint8", id="grid type"),
        pytest.param({"occupancy": GRID, "boxes": BOXES}, "either occupancy or boxes", id="both"),
        pytest.param({"occupancy": GRID, "protocol": "exact"}, "pass boxes=", id="polygons"),
        pytest.param({"boxes": BOXES}, "sample, row 0: 7", id="a box of no sample"),
        pytest.param(
            {"protocol": "omnidrive", "drivable": GRID[:, 0]}, "drivable is uint8", id="mask"
        ),
    ],
)
def test_inputs_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(**changes)


def test_recorded_steps_that_do_not_exist_are_not_read() -> None:
    gt = np.zeros((3, 6, 2))
    gt[:, 2:] = np.nan
    for protocol in ("uniad", "vad", "exact"):
        scores = score(gt_m=gt, n_valid=np.full(3, 2), protocol=protocol)
        assert not np.isnan(scores.l2_m[scores.scored]).any()


def test_no_samples_give_no_numbers() -> None:
    scores = score(
        pred_m=np.zeros((0, 6, 2)),
        gt_m=np.zeros((0, 6, 2)),
        n_valid=np.zeros(0, int),
        occupancy=np.zeros((0, 6, 200, 25), np.uint8),
    )
    assert np.isnan(scores.table()["collision"]["avg"])
