import dataclasses
from typing import Any

import numpy as np
import pytest

from odvla_bench.errors import InputError
from odvla_bench.metrics.obstacles import ObstacleBoxes, select_obstacles
from odvla_bench.metrics.protocols import ObstacleRule, get_protocol

CAR, CHILD, CONE = 0, 1, 2
NAMES = ("vehicle.car", "human.pedestrian.child", "movable_object.trafficcone")


def make(rows: list[tuple[int, int, int]], **columns: Any) -> ObstacleBoxes:
    """Boxes from (sample, step, instance) rows, 10 m ahead and a metre further each step."""
    sample, step, instance = np.array(rows, int).reshape(-1, 3).T
    n = len(rows)
    defaults = {
        "xy_yaw": np.column_stack([np.zeros(n), 10.0 + step, np.zeros(n)]),
        "wl": np.full((n, 2), 2.0),
        "category": np.zeros(n, int),
        "category_names": NAMES,
        "visibility": np.full(n, 4),
        "n_points": np.ones(n, int),
    }
    return ObstacleBoxes(sample=sample, step=step, instance=instance, **{**defaults, **columns})


def chosen(boxes: ObstacleBoxes, rule: ObstacleRule) -> list[int]:
    return sorted(select_obstacles(boxes, rule).row.tolist())


EVERY = ObstacleRule(("*",))


def test_only_future_steps_are_obstacles() -> None:
    boxes = make([(0, -1, 1), (0, 0, 1), (0, 1, 1), (1, 6, 1)])
    got = select_obstacles(boxes, EVERY)
    assert got.row.tolist() == [2, 3]
    assert got.frame.tolist() == [0, 11]


def test_classes_and_points_decide() -> None:
    boxes = make(
        [(0, 1, k) for k in range(4)],
        category=np.array([CAR, CHILD, CONE, CAR]),
        n_points=np.array([1, 1, 1, 0]),
    )
    assert chosen(boxes, EVERY) == [0, 1, 2, 3]
    assert chosen(boxes, get_protocol("exact").obstacles) == [0, 1, 3]
    assert chosen(boxes, get_protocol("sparsedrive").obstacles) == [0, 1, 2]


UNBROKEN = ObstacleRule(("*",), presence="unbroken")


def test_unbroken_stops_at_the_first_gap_and_needs_the_present() -> None:
    there_now = [(0, 0, 1), (0, 1, 1), (0, 3, 1)]
    later_only = [(0, 1, 2), (0, 2, 2)]
    assert chosen(make(there_now + later_only), UNBROKEN) == [1]


def test_unbroken_keeps_the_size_and_the_points_of_the_present() -> None:
    sizes = np.array([[1.0, 2.0], [3.0, 4.0]])
    boxes = make([(0, 0, 1), (0, 1, 1)], wl=sizes, n_points=np.array([1, 0]))
    rule = dataclasses.replace(UNBROKEN, min_points=1)
    assert select_obstacles(boxes, rule).wl.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("x", "y", "inside"), [(14.9, 29.9, True), (15.0, 0.0, False), (0.0, -30.0, False)]
)
def test_the_range_at_t0_is_open(x: float, y: float, inside: bool) -> None:
    boxes = make([(0, 0, 1), (0, 1, 1)], xy_yaw=np.array([[x, y, 0], [99.0, 99, 0]]))
    assert chosen(boxes, get_protocol("vad").obstacles) == ([1] if inside else [])


def test_summed_displacements_are_single_precision() -> None:
    steps = [(0, k, 1) for k in range(7)]
    xy_yaw = np.column_stack([np.arange(7) * 0.1, np.arange(7) * 0.3 + 10, np.full(7, 1.25)])
    got = select_obstacles(make(steps, xy_yaw=xy_yaw), get_protocol("vad").obstacles)
    assert got.xy_yaw.dtype == np.float32
    np.testing.assert_allclose(got.xy_yaw, xy_yaw[1:], atol=2e-6)


@pytest.mark.parametrize(
    ("past", "visibility", "known"),
    [
        pytest.param([(0, 0, 1)], [4, 1], True, id="seen now"),
        pytest.param([(0, -2, 1)], [2, 1], True, id="seen a second ago"),
        pytest.param([(0, 0, 1)], [1, 4], False, id="hidden now"),
        pytest.param([(0, 0, 2)], [4, 4], False, id="another object"),
        pytest.param([(1, 0, 1)], [4, 4], False, id="another sample"),
    ],
)
def test_registration(past: list[tuple[int, int, int]], visibility: list[int], known: bool) -> None:
    boxes = make([*past, (0, 3, 1)], visibility=np.array(visibility))
    assert (1 in chosen(boxes, get_protocol("stp3").obstacles)) is known


def test_no_boxes_are_no_obstacles() -> None:
    for name in ("exact", "vad", "stp3"):
        assert chosen(make([]), get_protocol(name).obstacles) == []


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        pytest.param([(0, 7, 1)], {}, r"step, row 0: 7 lies outside -2 to 6", id="step"),
        pytest.param([(0, 1, 1)], {"wl": np.ones((1, 3))}, r"wl has shape \(1, 3\)", id="shape"),
        pytest.param(
            [(0, 1, 1)], {"xy_yaw": np.array([[0, np.nan, 0]])}, "row 0.*not finite", id="nan"
        ),
        pytest.param([(0, 1, 1)], {"category": np.array([3])}, "category, row 0", id="category"),
        pytest.param(
            [(0, 1, 1)], {"n_points": np.array([0.5])}, "must hold whole numbers", id="dtype"
        ),
        pytest.param(
            [(0, 1, 1)], {"own_ego_xy_yaw": np.zeros((1, 3))}, "give both", id="half a warp"
        ),
    ],
)
def test_bad_columns_are_refused(
    rows: list[tuple[int, int, int]], columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(rows, **columns)


def test_an_object_twice_at_a_step_is_refused() -> None:
    boxes = make([(0, 0, 5), (0, 1, 5), (0, 1, 5)])
    with pytest.raises(InputError, match="Box row 2: object 5 of sample 0 has two boxes at step 1"):
        select_obstacles(boxes, UNBROKEN)


def test_samples_must_exist() -> None:
    with pytest.raises(InputError, match="sample, row 0: 4 lies outside 0 to 2"):
        make([(4, 1, 1)]).check_samples(3)
