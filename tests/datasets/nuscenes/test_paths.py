"""Lines and rings as arrays, beside GEOS."""

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from odvla_bench.datasets.nuscenes.patches import Clipped
from odvla_bench.datasets.nuscenes.paths import Paths, blocks

number = st.integers(-90, 90).map(lambda tenths: tenths / 10)
lines = st.lists(
    st.lists(st.tuples(number, number), min_size=3, max_size=6, unique=True),
    min_size=1,
    max_size=4,
)
ORIGIN = shapely.Point(0, 0)


def clipped_of(shapes: list[shapely.Geometry]) -> Clipped:
    count = np.arange(len(shapes))
    if shapes[0].geom_type == "Polygon":
        return Clipped.of_polygons(count, count, np.array(shapes))
    return Clipped(count, count, Paths.of(np.array(shapes)), count, is_area=False)


@given(lines)
def test_lines_have_the_distances_and_middles_of_geos(xy: list[list[tuple[float, float]]]) -> None:
    shapes = [shapely.LineString(points) for points in xy]
    found = clipped_of(shapes)
    assert found.distance_m() == pytest.approx(shapely.distance(shapes, ORIGIN), abs=1e-9)
    expected = shapely.get_coordinates(shapely.centroid(shapes))
    assert found.centroids_m() == pytest.approx(expected, abs=1e-9)
    assert [shape.equals_exact(s, 0) for shape, s in zip(found.geometry, shapes, strict=True)]


@given(lines)
def test_polygons_with_holes_have_the_measures_of_geos(
    xy: list[list[tuple[float, float]]],
) -> None:
    hulls = [shapely.MultiPoint(points).convex_hull for points in xy]
    hulls = [hull for hull in hulls if hull.geom_type == "Polygon" and hull.area > 1]
    assume(hulls)
    halves = [hull.difference(shapely.affinity.scale(hull, 0.5, 0.5)) for hull in hulls]
    found = clipped_of([*hulls, *halves])
    shapes = np.array([*hulls, *halves])
    assert shapely.equals(found.geometry, shapes).all()
    assert found.area_m2 == pytest.approx(shapely.area(shapes))
    assert ((found.paths.area_m2() < 0) == found.is_hole).all()
    middles = shapely.get_coordinates(shapely.centroid(shapes))
    assert found.centroids_m() == pytest.approx(middles, abs=1e-9)
    # On an outline GEOS and we may differ on what is inside, not on the distance.
    assert found.distance_m() == pytest.approx(shapely.distance(shapes, ORIGIN), abs=1e-9)


def test_a_corner_next_to_the_axis_is_on_one_side_of_it() -> None:
    hole = shapely.Polygon([(0.225, 2e-16), (0.075, -2.05), (0.075, -5.8)])
    assert clipped_of([hole]).distance_m() == pytest.approx([hole.distance(ORIGIN)])


def test_a_part_of_what_was_found() -> None:
    ring = shapely.Point(0, 0).buffer(3).difference(shapely.Point(0, 0).buffer(1))
    found = clipped_of([shapely.box(0, 0, 1, 1), ring, shapely.box(5, 5, 6, 6)])
    some = found.take(np.array([2, 1]))
    assert some.element.tolist() == [2, 1]
    assert some.owner.tolist() == [0, 1, 1]
    assert some.geometry[1].equals(ring)
    assert found.take(np.array([False, True, False])).geometry[0].equals(ring)


def test_parts_are_sorted_by_patch_and_element() -> None:
    boxes = [shapely.box(x, 0, x + 1, 1) for x in range(4)]
    patch, element = np.array([0, 1]), np.array([7, 1])
    one = Clipped.of_polygons(patch, element, np.array(boxes[:2]))
    two = Clipped.of_polygons(patch, np.array([3, 0]), np.array(boxes[2:]))
    joined = Clipped.joined([one, two])
    assert list(zip(joined.patch.tolist(), joined.element.tolist(), strict=True)) == [
        *((0, 3), (0, 7)),
        *((1, 0), (1, 1)),
    ]
    assert shapely.bounds(joined.geometry)[:, 0].tolist() == [2, 0, 3, 1]


def test_flipped_paths_keep_their_points() -> None:
    paths = Paths(np.arange(5.0), -np.arange(5.0), np.array([2, 3]))
    flipped = paths.flipped(np.array([False, True]))
    assert flipped.x_m.tolist() == [0, 1, 4, 3, 2]
    assert flipped.y_m.tolist() == [0, -1, -4, -3, -2]


def test_blocks_cover_all_rows_once() -> None:
    size = np.array([5, 1, 30, 2, 2, 9])
    rows = np.concatenate([np.arange(6)[block] for block in blocks(size, 10)])
    assert rows.tolist() == list(range(6))
    assert [len(size[block]) for block in blocks(np.empty(0, np.int64), 10)] == [0]
