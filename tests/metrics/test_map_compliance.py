import numpy as np
import pytest

from odvla_bench.metrics import score_planning

Arrays = dict[str, np.ndarray]


def to_lidar(ego: np.ndarray) -> np.ndarray:
    """Displacements x forward, y left → x right, y forward."""
    return np.stack([-ego[..., 1], ego[..., 0]], -1)


@pytest.mark.golden
def test_curb_collisions_equal_the_original(fine: Arrays) -> None:
    n = len(fine["tag"])
    scores = score_planning(
        to_lidar(fine["pred_ego"]),
        to_lidar(fine["gt_ego"]),
        np.full(n, 6),
        protocol="bev-planner",
        boundary=fine["bevp_boundary"],
    )
    assert np.array_equal(scores.map_flags, fine["bevp_bnd__obj_box_col"] != 0)
    rates = fine["bevp_bnd__hsec_colmax_colmean_boxmax"][:, :, 2].mean(0)
    curb = scores.table()["curb_collision"]
    assert [curb[h] for h in ("1s", "2s", "3s")] == pytest.approx(rates)
    assert rates[2] > 0
    assert scores.not_available == ("collision", "point_collision")


@pytest.mark.golden
def test_leaving_the_drivable_area_equals_the_original(fine: Arrays) -> None:
    n = len(fine["tag"])
    scores = score_planning(
        to_lidar(fine["pred_ego"]).astype(float),
        to_lidar(fine["gt_ego"]).astype(float),
        np.full(n, 6),
        protocol="omnidrive",
        occupancy=fine["omni_occ"][:, 1:],
        drivable=fine["omni_drivable"],
    )
    expected = fine["omni__hsec_boxmax_boundary"]
    assert scores.map_flags is not None
    up_to = np.maximum.accumulate(scores.map_flags, axis=1)[:, [1, 3, 5]]
    assert np.array_equal(up_to, expected[..., 1] != 0)
    table = scores.table()
    for name, column in (("collision", 0), ("off_drivable", 1)):
        got = [table[name][h] for h in ("1s", "2s", "3s")]
        assert got == pytest.approx(expected[..., column].mean(0))
    assert 0 < table["off_drivable"]["3s"] < 1


def off(pred: np.ndarray, blocked: tuple[slice, slice]) -> list[bool]:
    mask = np.ones((1, 1000, 1000), bool)
    mask[0][blocked] = False
    scores = score_planning(
        pred, pred, np.array([6]), protocol="omnidrive", drivable=np.packbits(mask, axis=-1)
    )
    assert scores.map_flags is not None
    return scores.map_flags[0].tolist()


AHEAD = np.stack([np.zeros(6), np.arange(1, 7) * 5.0], -1)[None]


def test_steps_off_the_drivable_area_by_hand() -> None:
    # Blocked from 20 m ahead. The front is 3.53 m ahead of the waypoint: 20 m are reached at
    # step 4 (at 20 m), not at step 3 (at 15 m).
    blocked = (slice(0, 1000), slice(700, 1000))
    assert off(AHEAD, blocked) == [False, False, False, True, True, True]


def test_a_car_that_starts_off_the_drivable_area_is_not_counted() -> None:
    assert off(AHEAD, (slice(0, 1000), slice(0, 1000))) == [False] * 6


def test_a_car_beyond_the_mask_leaves_nothing() -> None:
    far = AHEAD * 100
    assert off(far, (slice(0, 1000), slice(990, 1000))) == [False] * 6


def test_without_its_mask_a_rate_is_not_available(fine: Arrays) -> None:
    pred = to_lidar(fine["pred_ego"])
    scores = score_planning(pred, pred, np.full(len(pred), 6), protocol="omnidrive")
    assert scores.table()["off_drivable"] is None
    assert "off_drivable" in scores.not_available
