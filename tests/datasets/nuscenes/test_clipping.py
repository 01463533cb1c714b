"""Clipping beside GEOS."""

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from odvla_bench.datasets.nuscenes.clipping import Pieces, clip_lines, end_to_end, rings_of
from odvla_bench.datasets.nuscenes.paths import Paths

HALF_M = (3.0, 2.0)
WINDOW = shapely.box(-3, -2, 3, 2)

# Whole numbers meet the window's border in every way; others in none that is special.
whole_numbers = st.integers(-5, 5).map(float)
numbers = whole_numbers | st.floats(-6, 6, width=32)
points = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=9, unique=True)


def clip_rings(outlines: Paths) -> Pieces:
    pieces = clip_lines(outlines, HALF_M)
    missed = np.setdiff1d(np.arange(len(outlines)), pieces.owner)
    around = missed[outlines.take(missed).encloses_origin()]
    return rings_of(pieces, around, HALF_M)


def outlines_of(polygons: list[shapely.Polygon]) -> Paths:
    paths = Paths.of(np.array([polygon.exterior for polygon in polygons]))
    return paths.flipped(paths.area_m2() < 0)


def polygon_of(xy: list[tuple[float, float]]) -> shapely.Polygon:
    """A polygon without crossings through the points, sorted around their middle."""
    middle = np.mean(xy, axis=0) + [0.01, 0.003]
    return shapely.Polygon(sorted(xy, key=lambda p: np.arctan2(*(np.array(p) - middle))))


@settings(max_examples=300)
@given(st.lists(points, min_size=1, max_size=3))
def test_lines_are_cut_as_geos_cuts_them(lines: list[list[tuple[float, float]]]) -> None:
    shapes = np.array([shapely.LineString(xy) for xy in lines])
    found = clip_lines(Paths.of(shapes), HALF_M)
    assert (np.diff(found.owner) >= 0).all()
    pieces = found.paths.lines()
    for row, shape in enumerate(shapes):
        # GEOS leaves out what runs along the border too.
        expected = shapely.clip_by_rect(shape, -3, -2, 3, 2)
        here = shapely.multilinestrings(pieces[found.owner == row])
        assert here.length == pytest.approx(expected.length)
        assert expected.difference(here.buffer(1e-9)).length < 1e-6
        assert here.difference(expected.buffer(1e-9)).length < 1e-6
        assert here.is_empty or WINDOW.covers(shapely.box(*here.bounds))


@settings(max_examples=300)
@given(st.lists(points, min_size=1, max_size=3))
def test_polygons_are_cut_as_geos_cuts_them(outlines: list[list[tuple[float, float]]]) -> None:
    polygons = [polygon_of(xy) for xy in outlines if len(xy) > 2]
    polygons = [polygon for polygon in polygons if polygon.is_valid and polygon.area > 1e-6]
    assume(polygons)
    found = clip_rings(outlines_of(polygons))
    assert (found.paths.area_m2() > 0).all()
    assert found.paths.is_closed.all()
    parts = shapely.polygons(found.paths.rings())
    for row in set(range(len(polygons))) - set(found.odd.tolist()):
        expected = polygons[row].intersection(WINDOW)
        # A part that touches itself on the border is no valid polygon, but covers the same.
        here = shapely.union_all([part.buffer(0) for part in parts[found.owner == row]])
        assert shapely.area(parts[found.owner == row]).sum() == pytest.approx(expected.area)
        assert here.symmetric_difference(expected).area < 1e-6


def test_a_polygon_around_the_window_is_the_window() -> None:
    polygons = [shapely.box(-9, -9, 9, 9), shapely.box(4, -9, 9, 9), shapely.box(-3, -2, 3, 2)]
    found = clip_rings(outlines_of(polygons))
    assert found.owner.tolist() == [0, 2]
    for ring in found.paths.rings():
        assert shapely.Polygon(ring).equals(WINDOW)


def test_a_comb_falls_into_its_teeth() -> None:
    teeth = [(x + dx, y) for x in (-2, 0, 2) for dx, y in ((0, 5), (0, -1), (0.5, -1), (0.5, 5))]
    comb = shapely.Polygon([*teeth, (2.5, 6), (-2, 6)])
    found = clip_rings(outlines_of([comb]))
    boxes = sorted(shapely.bounds(found.paths.rings()).tolist())
    assert boxes == [[-2, -1, -1.5, 2], [0, -1, 0.5, 2], [2, -1, 2.5, 2]]


def test_an_outline_without_order_on_the_border_is_left_to_others() -> None:
    crossed = shapely.Polygon([(-1, 3), (0, -4), (2, 2), (3, -3)])
    found = clip_rings(outlines_of([crossed, shapely.box(0, 0, 1, 1)]))
    assert found.odd.tolist() == [0]
    assert found.owner.tolist() == [1]


def test_pieces_that_meet_become_one() -> None:
    lines = [[(0, 0), (1, 0)], [(1, 0), (2, 0), (2, 1)], [(5, 5), (6, 6)], [(6, 6), (7, 7)]]
    pieces = Paths.of(np.array([shapely.LineString(xy) for xy in lines]))
    joined, first = end_to_end(pieces, np.array([0, 0, 1, 2]))
    assert first.tolist() == [0, 2, 3]
    assert [shape.coords[:] for shape in joined.lines()] == [
        [(0, 0), (1, 0), (2, 0), (2, 1)],
        [(5, 5), (6, 6)],
        [(6, 6), (7, 7)],
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            [[(0, 0), (1, 0)], [(5, 5), (6, 6)], [(0, 9), (0, 0)]],
            [[(5, 5), (6, 6)], [(0, 9), (0, 0), (1, 0)]],
            id="over the end",
        ),
        pytest.param(
            [[(0, 0), (1, 0)], [(1, 0), (1, 1)], [(1, 1), (0, 0)]],
            [[(0, 0), (1, 0), (1, 1), (0, 0)]],
            id="in a circle",
        ),
        pytest.param([[(0, 0), (1, 0), (0, 0)]], [[(0, 0), (1, 0), (0, 0)]], id="closed already"),
    ],
)
def test_pieces_of_a_closed_line(
    lines: list[list[tuple[int, int]]], expected: list[list[tuple[int, int]]]
) -> None:
    pieces = Paths.of(np.array([shapely.LineString(xy) for xy in lines]))
    joined, _ = end_to_end(pieces, np.zeros(len(lines), np.int64))
    assert [shape.coords[:] for shape in joined.lines()] == expected


def test_nothing_is_cut_to_nothing() -> None:
    none = Paths(np.empty(0), np.empty(0), np.empty(0, np.int64))
    assert len(clip_lines(none, HALF_M).paths) == 0
    assert len(clip_rings(none).paths) == 0
