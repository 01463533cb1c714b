import dataclasses

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odvla_bench.geometry import box_corners
from odvla_bench.metrics.collision import overlap_depth_m, packed_hits, polygon_hits
from odvla_bench.metrics.footprint import footprint_probe, headings_rad, point_probe
from odvla_bench.metrics.obstacles import Obstacles
from odvla_bench.metrics.protocols import FootprintRule, PlanningProtocol, get_protocol

any_waypoint = st.one_of(
    st.floats(-60, 60, width=32),
    st.floats(-1e6, 1e6, width=32),
    st.integers(-240, 240).map(lambda k: k / 4),
)
paths = arrays(np.float32, (1, 6, 2), elements=any_waypoint)


def random_grids(seed: int, n: int, density: float) -> np.ndarray:
    return np.random.default_rng(seed).random((6, n, n)) < density


def naive_box(path: np.ndarray, grids: np.ndarray, sign_x: int, *, backward: bool) -> list[bool]:
    """Footprint collision cell by cell, from the formulas of the originals."""
    hits = []
    for (x, y), grid in zip(path.astype(float), grids, strict=True):
        hit = False
        for r in range(97, 105):
            for c in range(98, 102):
                row = 2 * y + r
                row = int(200 - row if backward else row)
                col = int(2 * sign_x * x + c)
                hit |= bool(grid[min(max(row, 0), 199), min(max(col, 0), 199)])
        hits.append(hit)
    return hits


@pytest.mark.parametrize(
    ("name", "sign_x", "backward"),
    [("uniad", 1, False), ("opendrivevla", -1, False), ("stp3", -1, False), ("vad", 1, True)],
)
@given(path=paths, seed=st.integers(0, 9), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=40)
def test_packed_windows_equal_cell_by_cell_lookup(
    name: str, sign_x: int, backward: bool, path: np.ndarray, seed: int, dtype: type
) -> None:
    grids = random_grids(seed, 200, 0.02)
    packed = np.packbits(grids, axis=-1)
    path = path.astype(dtype)
    probe = footprint_probe(path, np.zeros((1, 6), dtype), get_protocol(name))
    expected = naive_box(path[0], grids, sign_x, backward=backward)
    assert packed_hits(packed, np.arange(6), probe).tolist() == expected


@given(path=paths, seed=st.integers(0, 9))
@settings(max_examples=20)
def test_packed_lookup_of_turned_footprints_equals_indexing(path: np.ndarray, seed: int) -> None:
    protocol = get_protocol("bev-planner")
    grids = random_grids(seed, 1000, 0.0005)
    probe = footprint_probe(path, headings_rad(path, np.array([6]), protocol.footprint), protocol)
    cells = probe.cells(np.arange(6))
    expected = grids[np.arange(6)[:, None, None], cells.rows, cells.cols].any((1, 2))
    got = packed_hits(np.packbits(grids, axis=-1), np.arange(6), probe)
    assert np.array_equal(got, expected)


def test_a_wide_footprint_spans_more_than_two_bytes() -> None:
    wide = dataclasses.replace(get_protocol("uniad"), footprint=FootprintRule(0.5, "ignored", 4, 9))
    grids = np.zeros((6, 200, 200), bool)
    grids[0, 100, 91] = grids[1, 100, 108] = grids[2, 100, 90] = True
    probe = footprint_probe(np.zeros((1, 6, 2)), np.zeros((1, 6)), wide)
    hits = packed_hits(np.packbits(grids, axis=-1), np.arange(6), probe)
    assert hits.tolist() == [True, True, False, False, False, False]


def point_hits(name: str, dtype: type, x: float, filled: tuple[int, int]) -> bool:
    path = np.full((1, 6, 2), [x, 0.0], dtype)
    grids = np.zeros((6, 200, 200), bool)
    grids[:, filled[0], filled[1]] = True
    probe = point_probe(path, get_protocol(name))
    return bool(packed_hits(np.packbits(grids, axis=-1), np.arange(6), probe)[0])


def test_the_point_is_decided_in_the_dtype_of_the_input() -> None:
    # 1e-6 m below the border at x = 0.25: 49.75 + x rounds up to 50 in single precision only.
    x = 0.25 - 1e-6
    assert point_hits("uniad", np.float32, x, (99, 100))
    assert point_hits("uniad", np.float64, x, (99, 99))


def test_the_point_of_vad_lies_25_m_off() -> None:
    assert point_hits("vad", np.float32, 0.0, (49, 49))
    assert not point_hits("vad", np.float32, 0.0, (99, 99))


boxes = st.tuples(
    st.floats(-4, 4), st.floats(-4, 4), st.floats(-7, 7), st.floats(0.2, 4), st.floats(0.2, 8)
)


def rectangle(box: tuple[float, ...]) -> shapely.Polygon:
    x, y, yaw, width, length = box
    corners = box_corners(np.array([x, y]), np.array(yaw), np.array(length), np.array(width))
    return shapely.Polygon(corners)


def depth(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    one, other = np.array([a]), np.array([b])
    return overlap_depth_m(one[:, :3], one[:, 3:], other[:, :3], other[:, 3:]).item()


@given(boxes, boxes)
def test_overlap_agrees_with_polygons(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    overlap, one, other = depth(a, b), rectangle(a), rectangle(b)
    if overlap < -1e-9:
        assert not one.intersects(other)
        assert one.distance(other) >= -overlap - 1e-9
    if overlap > 1e-6:
        assert one.intersection(other).area > 0


@given(boxes, boxes)
def test_overlap_is_symmetric(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert depth(a, b) == pytest.approx(depth(b, a), abs=1e-9)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((0, 0, 0, 2, 4), 2.0, id="same"),
        pytest.param((4, 0, 0, 2, 4), 0.0, id="touching"),
        pytest.param((4.5, 0, 0, 2, 4), -0.5, id="apart"),
        pytest.param((0, 1.75, 0, 2, 4), 0.25, id="beside"),
        pytest.param((2.5, 0, np.pi / 2, 2, 4), 0.5, id="across"),
        pytest.param((2 + np.sqrt(2), 0, np.pi / 4, 2, 2), 0.0, id="corner touches side"),
    ],
)
def test_overlap_by_hand(box: tuple[float, ...], expected: float) -> None:
    assert depth((0, 0, 0, 2, 4), box) == pytest.approx(expected, abs=1e-12)


def one_obstacle(x: float, y: float, yaw: float, width: float, length: float) -> Obstacles:
    return Obstacles(
        np.array([0]), np.array([0]), np.array([[x, y, yaw]]), np.array([[width, length]])
    )


@pytest.mark.parametrize(
    ("ahead", "touching", "expected"),
    [
        (3.0, True, True),
        (3.0, False, False),
        (3.0 - 1e-6, False, True),
        (3.0 + 1e-6, True, False),
    ],
)
def test_touching_collides_only_where_the_protocol_says_so(
    ahead: float, touching: bool, expected: bool
) -> None:
    car = np.array([[0.0, 0, 0], [0, 0, 0]])
    rule = FootprintRule(0.0, "ignored", length_m=4, width_m=2)
    hits = polygon_hits(one_obstacle(ahead, 0, 0, 2, 2), car, rule, touching=touching)
    assert hits.tolist() == [expected, False]


def test_polygons_against_shapely_on_many_random_boxes() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    frame = rng.integers(0, 500, n)
    obstacles = Obstacles(
        np.arange(n),
        frame,
        np.column_stack([rng.uniform(-9, 9, (n, 2)), rng.uniform(-4, 4, n)]),
        rng.uniform(0.4, 6, (n, 2)),
    )
    cars = np.column_stack([rng.uniform(-5, 5, (500, 2)), rng.uniform(-4, 4, 500)])
    protocol: PlanningProtocol = get_protocol("exact")
    hits = polygon_hits(obstacles, cars, protocol.footprint, touching=False)
    size = protocol.footprint.width_m, protocol.footprint.length_m
    expected = np.zeros(500, bool)
    for i in range(n):
        car = rectangle((*cars[frame[i]], *size))
        other = rectangle((*obstacles.xy_yaw[i], *obstacles.wl[i]))
        expected[frame[i]] |= car.intersects(other)
    assert 100 < expected.sum() < 490
    assert np.array_equal(hits, expected)
