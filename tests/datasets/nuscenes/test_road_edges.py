from pathlib import Path

import numpy as np
import pytest
from factories.maps import opened_map, street_map

from odvla_bench.datasets.nuscenes.maps import VectorMap, find_maps
from odvla_bench.datasets.nuscenes.road_edges import boundary_polylines, drivable_masks
from odvla_bench.datasets.nuscenes.synthetic.maps import write_maps
from odvla_bench.geometry import Pose, rotation_from_quaternion


def pose(x: float, y: float, yaw: float) -> Pose:
    turn = rotation_from_quaternion(np.array([[np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]]))
    return Pose(turn, np.array([[x, y, 0.0]]))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> VectorMap:
    return opened_map(tmp_path_factory.mktemp("street"), street_map())


def test_curbs_are_resampled_lines_in_the_ego_frame(street: VectorMap) -> None:
    # Heading north: the street runs across, 2 m behind the middle; 50 m - 0.4 m of it are seen.
    curbs = boundary_polylines(street, pose(100, 52, np.pi / 2), points=3)
    assert curbs.keyframe.tolist() == [0, 0]
    south, north = curbs.xy_m[np.argsort(curbs.xy_m[:, 0, 0])].round(9).tolist()
    # The road lies on the right of a boundary: westwards on its south side, eastwards north.
    assert south == [[-7, -24.8], [-7, 0], [-7, 24.8]]
    assert north == [[3, 24.8], [3, 0], [3, -24.8]]


def test_away_from_any_road_there_is_nothing(street: VectorMap) -> None:
    assert boundary_polylines(street, pose(900, 900, 0)).xy_m.shape == (0, 20, 2)
    assert not drivable_masks(street, pose(900, 900, 0)).any()


def test_drivable_cells_rise_to_the_left_and_ahead(street: VectorMap) -> None:
    # Heading east at the street's right half; the island lies 20 m ahead, 1 to 3 m to the left.
    (mask,) = drivable_masks(street, pose(130, 48, 0))
    assert mask.shape == (1000, 1000)
    assert np.flatnonzero(mask[:, 500])[[0, -1]].tolist() == [440, 600]
    across = np.flatnonzero(~mask[440:601, 700]) + 440
    assert across.tolist() == list(range(510, 531))
    assert np.flatnonzero(~mask[520]).tolist() == list(range(690, 711))


def test_the_road_ends_at_the_maps_edge(street: VectorMap) -> None:
    (mask,) = drivable_masks(street, pose(190, 50, 0), size_m=40.0, cell_m=0.5)
    assert mask.shape == (80, 80)
    assert np.flatnonzero(mask[40]).tolist() == list(range(61))


@pytest.mark.devkit
def test_masks_are_the_devkits(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes")
    from nuscenes.map_expansion.map_api import NuScenesMap

    write_maps(tmp_path, 3, expansion=True)
    town = find_maps(tmp_path, tmp_path / "cache")["boston-seaport"]
    devkit = NuScenesMap(str(tmp_path), "boston-seaport")
    rng = np.random.default_rng(3)
    lanes = town.layer("lane").geometry
    for polygon in rng.choice(lanes, 12):
        x, y, yaw = polygon.centroid.x, polygon.centroid.y, rng.uniform(-3, 3)
        (mask,) = drivable_masks(town, pose(x, y, yaw))
        box = (x, y, 100.0, 100.0)
        theirs = devkit.get_map_mask(box, np.degrees(yaw), ["drivable_area"], (1000, 1000))[0]
        assert 0.05 < mask.mean() < 0.95
        assert np.array_equal(mask, theirs.astype(bool))
