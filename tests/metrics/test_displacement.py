import numpy as np
import pytest

from odvla_bench.metrics.displacement import displacement_m, reduce_steps

YES, NO = True, False


def test_displacement_is_euclidean_and_double() -> None:
    pred = np.zeros((1, 6, 2), np.float32)
    gt = np.zeros((1, 6, 2), np.float32)
    gt[0, 3] = (3, 4)
    assert displacement_m(pred, gt).tolist() == [[0, 0, 0, 5, 0, 0]]
    assert displacement_m(pred, gt).dtype == np.float64


@pytest.mark.parametrize(
    ("reduction", "numerators", "denominators"),
    [
        pytest.param("at_horizon", [2, 4, 6], [1, 1, 1], id="own step"),
        pytest.param("cumulative", [1.5, 2.5, 3.5], [1, 1, 1], id="mean up to"),
        pytest.param("any_up_to", [2, 4, 6], [1, 1, 1], id="greatest up to"),
    ],
)
def test_reductions_of_a_complete_sample(
    reduction: str, numerators: list[float], denominators: list[float]
) -> None:
    values, all_steps = np.arange(1.0, 7)[None], np.ones((1, 6), bool)
    got = reduce_steps(values, all_steps, all_steps, reduction)[0]
    assert got[:, 0].tolist() == numerators
    assert got[:, 1].tolist() == denominators


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        # The step of 1 s does not count, that of 3 s does not exist.
        pytest.param("at_horizon", [(0, 0), (1, 1), (0, 0)], id="own step"),
        # Up to 2 s the counted steps are 0.5, 1.5 and 2 s, with flags 0, 0, 1.
        pytest.param("cumulative", [(0, 0), (1 / 3, 1), (0, 0)], id="mean up to"),
        # A step that exists but does not count leaves the sample in the table of its horizon.
        pytest.param("any_up_to", [(0, 1), (1, 1), (0, 0)], id="any up to"),
    ],
)
def test_reductions_with_steps_left_out(
    reduction: str, expected: list[tuple[float, float]]
) -> None:
    flags = np.array([[NO, YES, NO, YES, YES, YES]])
    counted = np.array([[YES, NO, YES, YES, YES, NO]])
    exists = np.array([[YES, YES, YES, YES, YES, NO]])
    got = reduce_steps(flags, counted, exists, reduction)[0]
    np.testing.assert_allclose(got, expected)


def test_a_nan_that_does_not_count_does_not_spread() -> None:
    values = np.full((1, 6), np.nan)
    none = np.zeros((1, 6), bool)
    assert reduce_steps(values, none, none, "cumulative").tolist() == [[[0, 0]] * 3]
