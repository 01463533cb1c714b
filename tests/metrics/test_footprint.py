import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odvla_bench.metrics.footprint import (
    footprint_boxes,
    footprint_probe,
    headings_rad,
    point_probe,
    template_cells,
)
from odvla_bench.metrics.protocols import FootprintRule, get_protocol

AHEAD = 0.0
RIGHT = -np.pi / 2
LEFT = np.pi / 2


def heading(points: list[tuple[float, float]], rule: str, n_valid: int = 6) -> list[float]:
    path = np.array([points], float)
    footprint = FootprintRule(0.5, rule)
    return headings_rad(path, np.array([n_valid]), footprint)[0].tolist()


STRAIGHT = [(0, 2.0 * k) for k in range(1, 7)]
RIGHTWARD = [(2.0 * k, 0) for k in range(1, 7)]
STOPS = [(-1, 0), (-2, 0), (-2, 0.1), (-2, 0.2), (-2, 0.3), (-2, 0.4)]


@pytest.mark.parametrize(
    ("points", "rule", "n_valid", "expected"),
    [
        pytest.param(RIGHTWARD, "ignored", 6, [AHEAD] * 6, id="ignored"),
        pytest.param(STRAIGHT, "central_held", 6, [AHEAD] * 6, id="straight"),
        pytest.param(RIGHTWARD, "central_held", 6, [RIGHT] * 6, id="to the right"),
        pytest.param([(0, 0.01)] * 6, "central_held", 6, [AHEAD] * 6, id="parked"),
        # The difference of step 3 spans (0, 0.2): too short, so step 2's is kept to the end.
        pytest.param(
            STOPS,
            "central_held",
            6,
            [LEFT, *[np.arctan2(1, 0.1)] * 5],
            id="stopped, heading kept",
        ),
        # Step 2 is the last: its difference is backward and knows nothing of step 3.
        pytest.param(
            [(0, 1), (0, 2), (9, 2), (9, 2), (9, 2), (9, 2)],
            "central_held",
            2,
            [AHEAD] * 6,
            id="later waypoints have no influence",
        ),
        # Exactly 0.5 m turns the car, the next shorter differences keep it.
        pytest.param(
            [(0.25, 0), (0.5, 0), (0.5, 0), (0.5, 0), (0.5, 0), (0.5, 0)],
            "central_held",
            6,
            [RIGHT] * 6,
            id="half a metre is enough",
        ),
        pytest.param([(0.4, 0)] * 6, "central_held", 6, [AHEAD] * 6, id="less is not"),
        pytest.param(
            [(1, 0), (1.9, 0), (1.9, 1), (0, 1), (0, 1), (0, 1)],
            "last_displacement",
            6,
            [RIGHT, AHEAD, AHEAD, LEFT, AHEAD, AHEAD],
            id="last displacement, ahead under 1 m",
        ),
        pytest.param([(5, 5)] * 6, "central", 6, [AHEAD] * 6, id="central, hardly moves"),
        pytest.param(
            [(0, 1), (1, 1), (0, 1), (1, 1), (1, 2), (1, 3)],
            "central",
            6,
            [np.arctan2(-1, 1), RIGHT, RIGHT, np.arctan2(-1, 1), AHEAD, AHEAD],
            id="central, coinciding neighbours point right",
        ),
    ],
)
def test_headings(
    points: list[tuple[float, float]], rule: str, n_valid: int, expected: list[float]
) -> None:
    assert heading(points, rule, n_valid)[:n_valid] == pytest.approx(expected[:n_valid])


def test_the_rectangle_lies_ahead_of_the_waypoint_along_its_heading() -> None:
    rule = FootprintRule(0.5, "central_held")
    path = np.zeros((1, 6, 2))
    turned = footprint_boxes(path, np.full((1, 6), RIGHT), rule)
    np.testing.assert_allclose(turned[0, 0], [0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(
        footprint_boxes(path, np.zeros((1, 6)), rule)[0, 0], [0, 0.5, np.pi / 2], atol=1e-12
    )


@pytest.mark.parametrize(
    ("name", "lengthwise", "sideways"),
    [("uniad", (97, 104), (98, 101)), ("bev-planner", (494, 534), (491, 508))],
)
def test_cells_of_the_footprint_at_the_origin(
    name: str, lengthwise: tuple[int, int], sideways: tuple[int, int]
) -> None:
    protocol = get_protocol(name)
    assert protocol.raster is not None
    cells = template_cells(protocol.footprint, protocol.raster)
    assert [(part[0], part[-1]) for part in cells] == [lengthwise, sideways]


@pytest.mark.parametrize(
    ("name", "x", "y", "rows", "cols"),
    [
        pytest.param("uniad", 0.0, 0.0, (97, 104), (98, 101), id="origin"),
        pytest.param("uniad", -0.1, 0.4, (97, 104), (97, 100), id="uniad truncates to the left"),
        pytest.param("opendrivevla", -0.1, 0.4, (97, 104), (98, 101), id="opendrivevla does not"),
        pytest.param("vad", 0.0, 0.0, (96, 103), (98, 101), id="vad counts rows from far ahead"),
        pytest.param("uniad", 0.0, 60.0, (199, 199), (98, 101), id="beyond the grid is squashed"),
        pytest.param("uniad", 1e30, -1e30, (0, 0), (199, 199), id="far outside"),
    ],
)
def test_cells_of_a_moved_footprint(
    name: str, x: float, y: float, rows: tuple[int, int], cols: tuple[int, int]
) -> None:
    path = np.broadcast_to(np.array([x, y]), (1, 6, 2))
    cells = footprint_probe(path, np.zeros((1, 6)), get_protocol(name)).cells(np.array([2]))
    assert (cells.rows.min(), cells.rows.max()) == rows
    assert (cells.cols.min(), cells.cols.max()) == cols


@pytest.mark.parametrize(
    ("name", "x", "y", "expected"),
    [
        ("uniad", 0.0, 0.0, (99, 99)),
        ("opendrivevla", 0.6, 0.0, (99, 98)),
        ("vad", 0.0, 0.0, (49, 49)),
        ("uniad", -50.0, 0.0, (99, 0)),
        ("uniad", 51.0, 0.0, None),
    ],
)
def test_the_cell_under_the_waypoint(
    name: str, x: float, y: float, expected: tuple[int, int] | None
) -> None:
    path = np.broadcast_to(np.array([x, y]), (1, 6, 2))
    cells = point_probe(path, get_protocol(name)).cells(np.array([0]))
    assert cells.inside is not None
    assert cells.inside.item() is (expected is not None)
    if expected:
        assert (cells.rows.item(), cells.cols.item()) == expected


coordinates = arrays(float, (1, 6, 2), elements=st.floats(-200, 200, allow_subnormal=False))


@pytest.mark.parametrize("name", ["uniad", "opendrivevla", "vad", "bev-planner"])
@given(path=coordinates)
def test_every_cell_lies_within_reach_of_the_centre(name: str, path: np.ndarray) -> None:
    protocol = get_protocol(name)
    turns = headings_rad(path, np.array([6]), protocol.footprint)
    probe = footprint_probe(path, turns, protocol)
    cells = probe.cells(np.arange(6))
    rows, cols = np.broadcast_arrays(cells.rows, cells.cols)
    centre = probe.centre[:, :, None, None]
    assert (np.hypot(rows - centre[:, 0], cols - centre[:, 1]) <= probe.reach).all()
