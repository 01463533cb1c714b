import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from factories.maps import empty_map, opened_map, street_map
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odvla_bench.datasets.nuscenes.map_json import boundary_pieces, crossing_edges, read_map
from odvla_bench.datasets.nuscenes.maps import LAYERS, VectorMap, find_maps
from odvla_bench.datasets.nuscenes.patches import Clipped, Patches
from odvla_bench.errors import InputError, UnknownNameError
from odvla_bench.geometry import Pose


def patch(x: float, y: float, yaw: float, size: tuple[float, float]) -> Patches:
    return Patches(np.array([[x, y]]), np.array([yaw]), size)


def coordinates(found: Clipped) -> list[list[list[float]]]:
    return [shapely.get_coordinates(g).round(6).tolist() for g in found.geometry]


def test_absent_maps_are_normal(tmp_path: Path) -> None:
    maps = find_maps(tmp_path, tmp_path / "cache")
    assert not maps
    assert maps.get("boston-seaport") is None
    assert maps.fingerprint


def test_a_lidar_patch_has_x_right_and_y_forward(tmp_path: Path) -> None:
    street = opened_map(tmp_path, street_map())
    # The car drives west on the street, whose middle line runs along GLOBAL x at y = 50.
    west_lidar = Pose(np.array([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]]), np.array([[100.0, 52, 2]]))
    found = street.query(Patches.around(west_lidar, (30, 60)), ["road_divider", "traffic_light"])
    assert coordinates(found["road_divider"]) == [[[-2, 30], [-2, -30]]]
    assert coordinates(found["traffic_light"]) == [[[3, 18], [4, 18]]]


def test_layers_of_a_street(tmp_path: Path) -> None:
    street = opened_map(tmp_path, street_map())
    found = street.query(patch(100, 50, 0, (40, 40)))
    assert {name: len(f.patch) for name, f in found.items() if len(f.patch)} == {
        "road_divider": 1,
        "traffic_light": 1,
        "road_segment": 1,
        "lane": 2,
        "drivable_area": 1,
        "ped_crossing": 1,
        "ped_crossing_edge": 2,
        "stop_line": 1,
        "boundary": 2,
    }
    lines = street.layer("stop_line")
    assert lines.kind.tolist() == ["TRAFFIC_LIGHT"]
    assert lines.token.tolist() == ["stop"]


def test_the_boundary_keeps_the_road_on_its_right_and_away_from_the_edge(tmp_path: Path) -> None:
    found = opened_map(tmp_path, street_map()).query(patch(100, 50, 0, (40, 40)), ["boundary"])
    north, south = sorted(coordinates(found["boundary"]), key=lambda xy: -xy[0][1])
    assert north[0] == [-19.8, 5]
    assert north[-1] == [19.8, 5]
    assert south[0] == [19.8, -5]
    assert south[-1] == [-19.8, -5]


def test_holes_of_the_drivable_area_stay_holes(tmp_path: Path) -> None:
    found = opened_map(tmp_path, street_map()).query(patch(150, 50, 0, (10, 10)), ["drivable_area"])
    (area,) = found["drivable_area"].geometry
    assert shapely.area(area) == pytest.approx(100 - 4)


def test_what_the_devkit_passes_over_is_passed_over_and_listed(tmp_path: Path) -> None:
    content = street_map()
    content["road_divider"].append({"token": "no nodes", "line_token": "empty line"})
    content["line"].append({"token": "empty line", "node_tokens": []})
    bow_tie = [(0, 0), (10, 10), (10, 0), (0, 10)]
    content["walkway"].append({"token": "bow tie", "polygon_token": "bow tie"})
    for i, (x, y) in enumerate(bow_tie):
        content["node"].append({"token": f"bow {i}", "x": x, "y": y})
    content["polygon"].append(
        {"token": "bow tie", "exterior_node_tokens": [f"bow {i}" for i in range(4)], "holes": []}
    )
    street = opened_map(tmp_path, content)
    assert street.skipped == {"road_divider": ["no nodes"], "walkway": ["bow tie"]}
    assert len(street.layer("walkway").geometry) == 0


def test_an_invalid_crossing_still_has_edges(tmp_path: Path) -> None:
    content = street_map()
    content["polygon"][-2]["exterior_node_tokens"][:2] = content["polygon"][-2][
        "exterior_node_tokens"
    ][1::-1]
    street = opened_map(tmp_path, content)
    assert street.skipped == {"ped_crossing": ["zebra"]}
    assert street.layer("ped_crossing_edge").token.tolist() == ["zebra:1", "zebra:3"]


def test_an_empty_map_has_every_layer_and_finds_nothing(tmp_path: Path) -> None:
    found = opened_map(tmp_path, empty_map()).query(patch(0, 0, 0, (100, 100)))
    assert set(found) == set(LAYERS)
    assert not any(len(f.patch) for f in found.values())


def test_no_patches(tmp_path: Path) -> None:
    none = Patches(np.zeros((0, 2)), np.zeros(0), (10, 10))
    assert all(len(f.patch) == 0 for f in opened_map(tmp_path, street_map()).query(none).values())


def test_unknown_layers_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="lane_divider"):
        opened_map(tmp_path, empty_map()).layer("lane_dividers")


def test_the_cache_follows_the_content(tmp_path: Path) -> None:
    fingerprints = [find_maps(tmp_path, tmp_path / "cache").fingerprint]
    for content, lanes in ((street_map(), 2), (empty_map(), 0)):
        assert len(opened_map(tmp_path, content).layer("lane").geometry) == lanes
        fingerprints.append(find_maps(tmp_path, tmp_path / "cache").fingerprint)
    assert len(set(fingerprints)) == 3


def without(layer: str) -> dict[str, Any]:
    content = street_map()
    del content[layer]
    return content


def changed(layer: str, **values: Any) -> dict[str, Any]:
    content = street_map()
    content[layer][0] = {**content[layer][0], **values}
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("[1, 2", "not a whole JSON file", id="truncated"),
        pytest.param("[" * 100_000, "not a whole JSON file", id="nested too deeply"),
        pytest.param('{"lane": ' * 100_000, "not a whole JSON file", id="objects too deep"),
        pytest.param([1], "no object", id="no object"),
        pytest.param("null", "no object", id="null"),
        pytest.param("", "not a whole JSON file", id="empty"),
        pytest.param("{} {}", "not a whole JSON file", id="two objects"),
        pytest.param("\ufeff{}", "not a whole JSON file", id="byte order mark"),
        pytest.param('{"lane": [], "lane": []}', "no layer 'node'", id="a layer twice"),
        pytest.param({**street_map(), "version": "1.2"}, "version 1.2; 1.3", id="old version"),
        pytest.param({**street_map(), "version": "new"}, "version new; 1.3", id="odd version"),
        pytest.param(without("lane"), "no layer 'lane'", id="layer missing"),
        pytest.param(changed("lane", token=None), "record 0 of layer 'lane'", id="no token"),
        pytest.param(changed("node", x="east"), "node n0 has no numbers", id="text in a node"),
        pytest.param(changed("node", y=float("nan")), "node n0 is not a place", id="NaN"),
        pytest.param(
            changed("lane", polygon_token="gone"), "lane north .*'gone'", id="polygon missing"
        ),
        pytest.param(changed("lane", polygon_token=[1]), "lane north .*1", id="token a list"),
        pytest.param(
            changed("road_divider", line_token="gone"), "road_divider middle", id="line missing"
        ),
        pytest.param(
            changed("line", node_tokens=["gone"]), "line middle .*'gone'", id="node missing"
        ),
        pytest.param(changed("line", node_tokens=[["n0"]]), "line middle", id="node a list"),
        pytest.param(changed("line", node_tokens=None), "line middle", id="no node list"),
        pytest.param(
            changed("polygon", holes=[1]), "polygon north .*`holes`", id="holes no objects"
        ),
        pytest.param(
            changed("drivable_area", polygon_tokens=None), "drivable_area", id="no polygon list"
        ),
        pytest.param(changed("lane", lane_type=3), "lane north .*'lane_type' is 3", id="odd kind"),
        pytest.param(
            changed("road_segment", is_intersection="no"),
            "road_segment segment .*'is_intersection' is 'no'",
            id="text for a yes or no",
        ),
    ],
)
def test_a_damaged_map_is_named(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "boston-seaport.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=rf"boston-seaport\.json: .*{says}"):
        read_map(path)


def test_of_equal_tokens_the_last_counts(tmp_path: Path) -> None:
    content = street_map()
    middle = content["line"][0]["node_tokens"]
    content["node"].append({"token": middle[0], "x": 20, "y": 50})
    (line,) = read_map_of(tmp_path, content)["road_divider"].geometry
    assert shapely.get_coordinates(line).tolist() == [[20, 50], [200, 50]]


def test_what_a_record_need_not_say_may_be_absent_or_null(tmp_path: Path) -> None:
    content = street_map()
    del content["lane"][0]["lane_type"]
    content["lane"][1]["lane_type"] = None
    del content["road_segment"][0]["is_intersection"]
    for polygon in content["polygon"]:
        if not polygon["holes"]:
            del polygon["holes"]
    layers = read_map_of(tmp_path, content)
    assert (layers["lane"].kind, layers["road_segment"].kind) == (["", ""], [""])
    assert shapely.get_num_interior_rings(layers["drivable_area"].geometry).tolist() == [1]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.sampled_from(["n0", "stop"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(layer=st.sampled_from([k for k in street_map() if k != "version"]), data=st.data())
def test_a_map_reads_or_is_refused_whatever_stands_in_it(
    layer: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = street_map()
    records = content[layer]
    if records and data.draw(st.booleans(), "damage a field"):
        record = records[data.draw(st.integers(0, len(records) - 1))]
        record[data.draw(st.sampled_from(sorted(record)))] = data.draw(JSON)
    else:
        content[layer] = data.draw(JSON)
    path = tmp_path_factory.getbasetemp() / "boston-seaport.json"
    path.write_text(json.dumps(content))
    said = ""
    try:
        layers = read_map(path)
    except InputError as error:
        layers, said = {}, str(error)
    assert layers or str(path) in said
    assert all(len(e.token) == len(e.kind) == len(e.geometry) for e in layers.values())


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "boston-seaport.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=r"boston-seaport\.json"):
        read_map(path)


def test_crossing_edges_are_the_two_longest(tmp_path: Path) -> None:
    crossings = read_map_of(tmp_path, street_map())["ped_crossing"]
    edges = crossing_edges(crossings)
    assert edges.token == ["zebra:1", "zebra:3"]
    assert shapely.length(edges.geometry).tolist() == [10, 10]


def read_map_of(root: Path, content: dict[str, Any]) -> Any:
    path = root / "map.json"
    path.write_text(json.dumps(content))
    return read_map(path)


def test_boundary_pieces_make_up_the_rings() -> None:
    ring = shapely.Point(0, 0).buffer(30, quad_segs=20).difference(shapely.Point(0, 0).buffer(9))
    lanes = [
        shapely.box(100, 0, 105, 10),
        shapely.box(105, 0, 110, 10),
        shapely.box(104, 2, 108, 9),
    ]
    pieces = boundary_pieces(np.array([ring]), np.array(lanes))
    assert shapely.get_num_coordinates(pieces.geometry).max() == 16
    assert sorted(set(zip(pieces.token, pieces.kind, strict=True))) == [
        ("ring 0", "outer"),
        ("ring 1", "hole"),
        ("ring 2", "outer"),
    ]
    assert shapely.length(pieces.geometry).sum() == pytest.approx(ring.length + 40)


def test_lanes_widen_the_road_where_they_reach_beyond_its_segments() -> None:
    segment, inside = shapely.box(0, 0, 100, 10), shapely.box(0, 2, 100, 10 + 1e-9)
    only = boundary_pieces(np.array([segment]), np.array([inside]))
    assert shapely.get_coordinates(only.geometry)[:, 1].max() == 10
    bay = shapely.box(40, 8, 60, 13)
    both = boundary_pieces(np.array([segment]), np.array([inside, bay]))
    assert shapely.length(both.geometry).sum() == pytest.approx(220 + 6)


# Odd angles: a line that runs exactly along a patch's edge belongs to no patch.
@settings(max_examples=25)
@given(
    x=st.floats(60, 140),
    y=st.floats(30, 70),
    yaw=st.integers(-31, 31).map(lambda tenths: tenths / 10 + 0.0371),
    size=st.floats(5, 60),
)
def test_four_quarters_hold_what_their_square_holds(
    x: float, y: float, yaw: float, size: float, street: VectorMap
) -> None:
    names = ["road_divider", "lane", "drivable_area", "ped_crossing_edge"]
    whole = street.query(patch(x, y, yaw, (size, size)), names)
    cos, sin, q = np.cos(yaw), np.sin(yaw), size / 4
    corners = np.array([[a * q, b * q] for a in (-1, 1) for b in (-1, 1)])
    centres = corners @ np.array([[cos, sin], [-sin, cos]]) + [x, y]
    quarters = street.query(Patches(centres, np.full(4, yaw), (size / 2, size / 2)), names)
    for name in names:
        measure = shapely.area if name in ("lane", "drivable_area") else shapely.length
        total = measure(whole[name].geometry).sum()
        assert measure(quarters[name].geometry).sum() == pytest.approx(total, abs=1e-6)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> VectorMap:
    return opened_map(tmp_path_factory.mktemp("street"), street_map())
