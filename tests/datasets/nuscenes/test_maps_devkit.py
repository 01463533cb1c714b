"""Patches of synthetic towns as nuscenes-devkit and its users' vector-map code cut them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from odvla_bench.datasets.nuscenes.maps import VectorMap, find_maps
from odvla_bench.datasets.nuscenes.patches import Patches
from odvla_bench.datasets.nuscenes.synthetic.maps import write_maps

pytest.importorskip("nuscenes")
from nuscenes.map_expansion.map_api import NuScenesMap

pytestmark = pytest.mark.devkit

LINES = ["lane_divider", "road_divider"]
POLYGONS = [
    *("drivable_area", "road_segment", "lane", "ped_crossing", "walkway", "stop_line"),
    "carpark_area",
]
SIZES = [(60.0, 30.0), (30.0, 60.0), (102.4, 102.4)]
TOWN = "singapore-queenstown"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("town")
    write_maps(root, 3, expansion=True)
    return root


@pytest.fixture(scope="module")
def devkit(root: Path) -> Any:
    return NuScenesMap(str(root), TOWN)


@pytest.fixture(scope="module")
def ours(root: Path) -> VectorMap:
    return find_maps(root, root / "cache")[TOWN]


def random_patches(town: VectorMap, size: tuple[float, float], count: int) -> Patches:
    rng = np.random.default_rng(int(size[0]))
    near = shapely.get_coordinates(town.layer("lane_connector").geometry)
    centre = near[rng.integers(len(near), size=count)] + rng.normal(0, 20, (count, 2))
    return Patches(centre, rng.uniform(-np.pi, np.pi, count), size)


def boxes(patches: Patches) -> list[tuple[tuple[float, float, float, float], float]]:
    """The patches as the devkit wants them: (x, y, height, width) and degrees."""
    wide, high = patches.size_m
    return [
        ((x, y, high, wide), float(np.degrees(yaw)))
        for (x, y), yaw in zip(patches.centre_m.tolist(), patches.yaw_rad, strict=True)
    ]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layers_are_cut_as_the_devkit_cuts_them(
    devkit: Any, ours: VectorMap, size: tuple[float, float]
) -> None:
    patches = random_patches(ours, size, 12)
    found = ours.query(patches, LINES + POLYGONS)
    seen = 0
    for i, (box, angle) in enumerate(boxes(patches)):
        for name, theirs in devkit.get_map_geom(box, angle, LINES + POLYGONS):
            here = found[name].patch == i
            shapes = found[name].geometry[here]
            assert len(np.unique(found[name].element[here])) == len(theirs), name
            assert len(shapes) == len(shapely.get_parts(theirs)), name
            for measure in (shapely.length, shapely.area):
                expected = measure(np.array(theirs, object)).sum()
                assert measure(shapes).sum() == pytest.approx(expected, abs=1e-6), name
            # The same place, not only the same size: with the tolerance on either side.
            union = shapely.union_all(shapes).buffer(1e-6)
            assert shapely.union_all(theirs).difference(union).is_empty, name
            seen += len(theirs)
    assert seen > 100


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_boundaries_are_those_of_the_union_of_clipped_roads(
    devkit: Any, ours: VectorMap, size: tuple[float, float]
) -> None:
    patches = random_patches(ours, size, 12)
    found = ours.query(patches, ["boundary"])["boundary"]
    seen = 0
    for i, (box, angle) in enumerate(boxes(patches)):
        theirs = contours(devkit.get_map_geom(box, angle, ["road_segment", "lane"]), size)
        lines = found.geometry[found.patch == i]
        assert len(lines) == len(theirs)
        expected = sum(line.length for line in theirs)
        assert shapely.length(lines).sum() == pytest.approx(expected, abs=1e-6)
        near = shapely.union_all(lines).buffer(1e-6)
        assert shapely.union_all(theirs).difference(near).is_empty
        seen += len(theirs)
    assert seen > 10


def contours(geometry: list[tuple[str, list[Any]]], size: tuple[float, float]) -> list[Any]:
    """What the field calls contours: rings of the union, drawn in by 0.2 m, pieces joined."""
    union = shapely.union_all([shape for _, shapes in geometry for shape in shapes])
    inner = shapely.box(*(0.2 - s / 2 for s in size), *(s / 2 - 0.2 for s in size))
    merged = [shapely.line_merge(ring.intersection(inner)) for ring in rings(union)]
    return [line for line in shapely.get_parts(merged) if not line.is_empty]


def rings(union: Any) -> list[Any]:
    return list(shapely.get_rings(shapely.get_parts(union)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crossing_edges_are_those_of_the_two_longest_edges_rule(
    devkit: Any, ours: VectorMap, size: tuple[float, float]
) -> None:
    patches = random_patches(ours, size, 12)
    found = ours.query(patches, ["ped_crossing_edge"])["ped_crossing_edge"]
    for i, (box, angle) in enumerate(boxes(patches)):
        window = devkit.explorer.get_patch_coord(box, angle)
        lengths = []
        for record in devkit.ped_crossing:
            ring = np.array(devkit.extract_polygon(record["polygon_token"]).exterior.coords)
            edges = sorted(
                zip(ring[:-1].tolist(), ring[1:].tolist(), strict=True),
                key=lambda ends: np.hypot(*np.subtract(*ends)),
            )[-2:]
            cut = [shapely.LineString(edge).intersection(window) for edge in edges]
            lengths += [line.length for line in cut if not line.is_empty]
        mine = shapely.length(found.geometry[found.patch == i])
        assert np.sort(mine) == pytest.approx(np.sort(lengths), abs=1e-6)


def test_lights_and_connectors_are_the_records_in_the_patch(devkit: Any, ours: VectorMap) -> None:
    patches = random_patches(ours, (100.0, 100.0), 6)
    patches = Patches(patches.centre_m, np.zeros(6), patches.size_m)
    names = ["traffic_light", "lane_connector"]
    found = ours.query(patches, names)
    for i, (x, y) in enumerate(patches.centre_m.tolist()):
        theirs = devkit.get_records_in_patch((x - 50, y - 50, x + 50, y + 50), names)
        for name in names:
            element = found[name].element[found[name].patch == i]
            assert set(ours.layer(name).token[element]) == set(theirs[name]), name
