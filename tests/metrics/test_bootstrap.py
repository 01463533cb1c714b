import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.errors import InputError
from odvla_bench.metrics.bootstrap import (
    bootstrap_interval,
    cluster_sums,
    paired_difference,
    resample_weights,
)


def mean(sums: np.ndarray) -> np.ndarray:
    """(B, 2) sums of value and count → (B, 1)."""
    return sums[:, :1] / sums[:, 1:]


def addends(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], -1)


def test_cluster_sums_by_hand() -> None:
    got = cluster_sums(np.array([[1.0, 10], [2, 20], [3, 30]]), np.array(["b", "a", "b"]))
    assert got.tolist() == [[2, 20], [4, 40]]


def test_one_label_for_each_sample() -> None:
    with pytest.raises(InputError, match="2 cluster labels for 3 samples"):
        cluster_sums(np.zeros((3, 1)), np.zeros(2))


@given(st.integers(1, 30), st.integers(1, 50), st.integers(0, 5))
def test_every_resample_draws_as_many_clusters(n: int, resamples: int, seed: int) -> None:
    weights = np.concatenate(list(resample_weights(n, resamples, seed)))
    assert weights.shape == (resamples, n)
    assert (weights.sum(1) == n).all()
    assert (weights >= 0).all()


def test_resamples_do_not_depend_on_how_many_come_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [together] = resample_weights(7, 100, 1)
    monkeypatch.setattr("odvla_bench.metrics.bootstrap._WEIGHTS_AT_ONCE", 21)
    few = list(resample_weights(7, 100, 1))
    assert [len(block) for block in few] == [3] * 33 + [1]
    np.testing.assert_array_equal(np.concatenate(few), together)


def test_re_weighted_sums_equal_scoring_the_resampled_samples() -> None:
    rng = np.random.default_rng(0)
    values, cluster = rng.normal(size=60), rng.integers(0, 6, 60)
    [weights] = resample_weights(6, 5, 3)
    sums = weights @ cluster_sums(addends(values), cluster)
    for row, drawn in zip(sums, weights.astype(int), strict=True):
        repeated = np.concatenate(
            [np.tile(values[cluster == c], times) for c, times in enumerate(drawn)]
        )
        assert row[0] / row[1] == pytest.approx(repeated.mean())


def test_the_interval_has_the_width_of_the_cluster_means() -> None:
    # 200 scenes of 30 equal samples: the error of the mean is that of 200 values, not of 6,000.
    rng = np.random.default_rng(1)
    scene = np.repeat(np.arange(200), 30)
    values = np.repeat(rng.normal(0, 1, 200), 30)
    interval = bootstrap_interval(addends(values), scene, mean, n_resamples=2000)
    half = (interval.high - interval.low).item() / 2
    assert half == pytest.approx(1.96 * values.std() / np.sqrt(200), rel=0.1)
    assert interval.value.item() == pytest.approx(values.mean())
    assert interval.n_clusters == 200


def test_a_wider_confidence_is_a_wider_interval() -> None:
    values, cluster = np.arange(50.0), np.arange(50) // 5
    narrow, wide = (
        bootstrap_interval(addends(values), cluster, mean, confidence=c) for c in (0.5, 0.99)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_pairing_removes_what_scenes_share() -> None:
    rng = np.random.default_rng(2)
    scene = np.repeat(np.arange(40), 5)
    hard = np.repeat(rng.normal(0, 5, 40), 5)
    noise = rng.normal(0, 0.1, 200)
    result = paired_difference(addends(hard + 0.2 + noise), addends(hard), scene, mean)
    assert 0.1 < result.low.item() < result.value.item() < result.high.item() < 0.3
    assert result.p_value.item() == pytest.approx(2 / 1001)


def test_no_difference_has_no_evidence() -> None:
    same = addends(np.arange(20.0))
    result = paired_difference(same, same, np.arange(20) // 2, mean)
    assert (result.low, result.high, result.p_value) == (0, 0, 1)


def test_only_sets_of_one_shape_are_paired() -> None:
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference(np.zeros((3, 2)), np.zeros((4, 2)), np.zeros(3), mean)


def test_a_number_without_denominator_is_nan() -> None:
    nothing = np.zeros((4, 2))
    with np.errstate(invalid="ignore"):
        interval = bootstrap_interval(nothing, np.arange(4), mean)
    assert np.isnan([interval.value, interval.low, interval.high]).all()
