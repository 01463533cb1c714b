"""NuScenes-QA accuracy on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.errors import PredictionError
from odvla_bench.metrics.qa import (
    ANSWERS,
    PROFILES,
    column_warnings,
    implied_h0_share,
    normalise_answer,
    score_qa,
)
from odvla_bench.metrics.text.tables import Resampling

NO_INTERVALS = Resampling(resamples=0)
QUESTIONS = [  # prediction, answer, type, hop
    ("yes", "yes", "exist", 0),
    ("Yes.", "yes", "exist", 0),
    ("no", "yes", "exist", 1),
    (None, "no", "exist", 1),
    ("two", "2", "count", 0),
    ("3", "3", "count", 1),
    ("cars", "car", "object", 1),
    ("a lorry", "truck", "object", 1),
]
PREDICTIONS, TRUE, TYPES, HOPS = zip(*QUESTIONS, strict=True)


@pytest.mark.parametrize(
    ("profile", "expected", "outside"),
    [
        # Strict: rows 0 and 5 are right; "Yes.", "two", "cars" and "a lorry" are no answers.
        (
            "nuscenesqa-strict",
            {"overall": 2 / 8, "H0": 1 / 3, "H1": 1 / 5, "exist": 1 / 4, "exist H0": 1 / 2,
             "exist H1": 0.0, "count": 1 / 2, "count H0": 0.0, "count H1": 1.0, "object": 0.0},
            4 / 8,
        ),
        # Normalised: rows 0, 1, 4, 5 and 6 are right; "lorry" is no answer.
        (
            "nuscenesqa-normalised",
            {"overall": 5 / 8, "H0": 1.0, "H1": 2 / 5, "exist": 2 / 4, "exist H0": 1.0,
             "exist H1": 0.0, "count": 1.0, "count H0": 1.0, "count H1": 1.0, "object": 1 / 2},
            1 / 8,
        ),
    ],
)  # fmt: skip
def test_accuracy_by_type_and_hop(profile: str, expected: dict[str, float], outside: float) -> None:
    table = score_qa(PROFILES.get(profile), PREDICTIONS, TRUE, TYPES, HOPS, resampling=NO_INTERVALS)
    for group, accuracy in expected.items():
        assert table.value(group, "accuracy") == pytest.approx(accuracy), group
    assert table.value("overall", "out_of_vocabulary") == outside
    assert table.counts["missing"] == 1
    # Commonest answers: exist "yes" (3 of 4), count "2" (1 of 2, by the alphabet), object "car".
    assert table.value("overall", "majority_baseline") == pytest.approx((3 + 1 + 1) / 8)
    assert table.value("exist", "majority_baseline") == pytest.approx(3 / 4)


def test_baseline_from_the_training_split() -> None:
    train = (["no", "no", "yes", "5"], ["exist", "exist", "exist", "count"])
    table = score_qa(
        PROFILES.get("nuscenesqa-strict"), PREDICTIONS, TRUE, TYPES, HOPS,
        train=train, resampling=NO_INTERVALS,
    )  # fmt: skip
    assert table.value("overall", "majority_baseline") == pytest.approx(1 / 8)
    assert "baseline:train" in table.signature


def test_intervals_come_from_scenes() -> None:
    scenes = ["a"] * 4 + ["b"] * 4
    table = score_qa(PROFILES.get("nuscenesqa-strict"), PREDICTIONS, TRUE, TYPES, HOPS,
                     clusters=scenes)  # fmt: skip
    rows = {(row.group, row.metric): row for row in table.rows}
    assert rows["overall", "accuracy"].interval == (0.25, 0.25)
    # Resamples without scene b have no count question, and say nothing about its accuracy.
    assert rows["count", "accuracy"].interval == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        (" The traffic_cones ", "traffic cone"),
        ("a Bus", "bus"),
        ("buses", "bus"),
        ("ZERO", "0"),
        ("ten", "10"),
        ("not standing", "not standing"),
        ("(with rider)", "with rider"),
        ("-1", "-1"),
        ("3.5", "3.5"),
        ("yes, two cars", "yes 2 cars"),
        ("", ""),
    ],
)
def test_normalised_answers(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


@given(st.sampled_from(sorted(ANSWERS)), st.sampled_from(["{}", " {}.", "The {}", "{}!\n"]))
def test_normalising_keeps_every_answer(answer: str, form: str) -> None:
    assert normalise_answer(form.format(answer.upper())) == answer


def test_the_vocabulary_has_thirty_answers() -> None:
    assert len(ANSWERS) == 30


@pytest.mark.parametrize(
    ("h0", "h1", "overall", "share", "count"),
    [
        (25.7, 41.5, 26.2, 0.968, 1),  # (26.2 - 41.5) / (25.7 - 41.5)
        (15.1, 4.8, 9.6, 0.466, 1),  # (9.6 - 4.8) / (15.1 - 4.8)
        (60.0, 51.0, 54.0, 1 / 3, 0),
        (50.0, 50.0, 50.0, None, 0),
    ],
)
def test_columns_that_cannot_come_from_one_split(
    h0: float, h1: float, overall: float, share: float | None, count: int
) -> None:
    low, high = implied_h0_share(h0, h1, overall, step=0.1)
    if share is not None:
        assert low < share < high
    assert len(column_warnings(h0, h1, overall)) == count


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.32, 0.34))
def test_rounding_never_makes_true_columns_suspect(h0: float, h1: float, share: float) -> None:
    overall = share * h0 + (1 - share) * h1
    assert not column_warnings(round(h0, 1), round(h1, 1), round(overall, 1), step=0.1001)


@pytest.mark.parametrize("sizes", [(1, 2, 2, 2), (2, 2, 2, 1), (0, 0, 0, 0)])
def test_columns_must_be_of_one_length(sizes: tuple[int, int, int, int]) -> None:
    columns = [["a"] * size for size in sizes[:3]]
    with pytest.raises(PredictionError, match="one of each"):
        score_qa(PROFILES.get("nuscenesqa-strict"), *columns, [0] * sizes[3])  # type: ignore[arg-type]


def test_a_group_that_no_resample_has_gives_no_number() -> None:
    table = score_qa(PROFILES.get("nuscenesqa-strict"), ["a"], ["a"], ["x"], [0])
    assert not any(np.isnan(row.value) for row in table.rows)
