"""Lines of few points."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.datasets.nuscenes.paths import Paths
from odvla_bench.datasets.nuscenes.thinning import in_normal_form, resampled, thinned

number = st.integers(-300, 300).map(lambda tenths: tenths / 10)
lines = st.lists(
    st.lists(st.tuples(number, number), min_size=2, max_size=9, unique=True),
    min_size=1,
    max_size=4,
)


def paths_of(*shapes: shapely.Geometry) -> Paths:
    return Paths.of(np.array(shapes))


@given(lines, st.sampled_from([0.25, 3.0]))
def test_lines_are_thinned_as_geos_thins_them(
    xy: list[list[tuple[float, float]]], tolerance_m: float
) -> None:
    shapes = [shapely.LineString(points) for points in xy]
    found = thinned(paths_of(*shapes), tolerance_m).lines()
    for shape, thin in zip(shapes, found, strict=True):
        plain = shapely.simplify(shape, tolerance_m, preserve_topology=False)
        careful = shapely.simplify(shape, tolerance_m)
        assert thin.equals_exact(plain if plain.is_simple else careful, 0)
        assert thin.hausdorff_distance(shape) <= tolerance_m + 1e-9


def test_a_ring_that_would_vanish_keeps_three_corners() -> None:
    sliver = shapely.Polygon([(0, 0), (10, 0), (10, 0.1), (5, 0.1)]).exterior
    thin = thinned(paths_of(sliver), 0.25)
    assert thin.size.tolist() == [5]
    assert thin.is_closed.all()


@given(lines)
def test_the_normal_form_is_one_of_the_line_and_of_its_reverse(
    xy: list[list[tuple[float, float]]],
) -> None:
    shapes = [shapely.LineString(points) for points in xy]
    found = in_normal_form(paths_of(*shapes))
    again = in_normal_form(paths_of(*(shape.reverse() for shape in shapes)))
    assert np.array_equal(found.x_m, again.x_m)
    assert np.array_equal(found.y_m, again.y_m)
    for shape, line in zip(shapes, found.lines(), strict=True):
        assert line.equals(shape)
        (_, first_y), (_, last_y) = line.coords[0], line.coords[-1]
        assert first_y <= last_y


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("back", [False, True])
def test_a_ring_starts_at_its_least_point_and_runs_clockwise(turn: int, back: bool) -> None:  # noqa: FBT001
    corners = np.roll([(0.0, 1.0), (0.0, 4.0), (2.0, 3.0), (1.0, 0.0)], turn, axis=0)
    ring = shapely.LinearRing(corners[:: -1 if back else 1])
    line = shapely.LineString([(5, 5), (4, 9)])
    found = in_normal_form(paths_of(line, ring, line)).lines()
    assert found[1].coords[:] == [(0, 1), (0, 4), (2, 3), (1, 0), (0, 1)]
    assert found[0].equals_exact(line, 0)
    assert found[2].equals_exact(line, 0)


def test_only_long_lines_are_resampled() -> None:
    long = shapely.LineString([(0, 0), (1, 0), (1, 3), (2, 3)])
    short = shapely.LineString([(7, 7), (8, 8)])
    found = resampled(paths_of(short, long, short), 3)
    assert found.size.tolist() == [2, 3, 2]
    assert found.lines()[1].coords[:] == [(0, 0), (1, 1.5), (2, 3)]
