import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely
from factories.maps import empty_map, street_map, write_map
from factories.nuscenes import HandScene, make_tree, tree_of
from hypothesis import assume, given
from hypothesis import strategies as st

from odvla_bench.datasets.build import build, find_sources
from odvla_bench.datasets.builders.base import BuildRequest, Context
from odvla_bench.datasets.builders.map_captions import BUILDER
from odvla_bench.datasets.builders.map_text import MAX_POINTS, TOLERANCE_M, outlines, points
from odvla_bench.datasets.nuscenes.paths import Paths
from odvla_bench.datasets.reader import open_build
from odvla_bench.provenance import default_cache_dir

LIDAR_AHEAD_M = 0.985793  # in Boston

# The LIDAR at (100, 52), looking along the street: its x is 52 - y, its y is x - 100.
STREET_TEXT = """\
Map up to 15.0 m to either side and 30.0 m ahead and behind, points (x right, y ahead) in metres.
Road dividers (1): [(2.0,-30.0),(2.0,30.0)].
Lane dividers: none.
Road boundaries (2): [(-3.0,-29.8),(-3.0,29.8)]; [(7.0,-29.8),(7.0,29.8)].
Pedestrian crossings (1): [(-1.0,-16.0),(-1.0,-13.0),(9.0,-13.0),(9.0,-16.0)].
Stop lines (1): (-0.5,-11.5) for a traffic light.
Traffic lights (1): (-3.5,-18.0).
Lane centres (2): (-0.5,0.0); (4.5,0.0).
Drivable area: 53%. The car is in a lane and on the drivable area."""

NOWHERE_TEXT = """\
Map up to 15.0 m to either side and 30.0 m ahead and behind, points (x right, y ahead) in metres.
Road dividers: none.
Lane dividers: none.
Road boundaries: none.
Pedestrian crossings: none.
Stop lines: none.
Traffic lights: none.
Lane centres: none.
Drivable area: 0%. The car is off the drivable area."""


def request_of(root: Path) -> BuildRequest:
    found = {source.name: source.found for source in find_sources(root)}
    files = tuple((f"map_captions.{key}", p) for key, p in found["map_captions"].items())
    return BuildRequest(root, "v1.0-mini", default_cache_dir(), files=files)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes on the street of `street_map`, off any map, and in no split of this version."""
    root = tmp_path_factory.mktemp("street")
    drive = [(100 - LIDAR_AHEAD_M, 52.0, 0.0), (900.0, 900.0, 0.0)]
    scenes = [
        HandScene(drive, name="scene-0103", location="boston-seaport"),
        HandScene(drive, name="scene-0916", location="singapore-queenstown"),
        HandScene(drive, name="scene-0001", location="boston-seaport"),
    ]
    tree_of(root, scenes)
    write_map(root, street_map(), "boston-seaport")
    return root


@pytest.fixture(scope="module")
def street_build(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build")
    build(request_of(root), out, sources=("planning", "map_captions"))
    return out


def test_captions_worked_out_by_hand(street_build: Path) -> None:
    rows = open_build(street_build).table("alignment")
    assert rows["answer"].to_pylist() == [STREET_TEXT, NOWHERE_TEXT]
    first = rows.slice(0, 1).to_pylist()[0]
    assert first["row_id"] == f"map_captions:{first['sample_token']}"
    assert first["messages"] == [
        {"role": "user", "content": "<map>\nDescribe the map around the car."},
        {"role": "assistant", "content": STREET_TEXT},
    ]
    assert first["references"] == [STREET_TEXT]
    assert (first["task"], first["split"], first["scene_name"]) == (
        "map_caption",
        "mini_val",
        "scene-0103",
    )


def test_built_again_it_is_the_same(root: Path, street_build: Path, tmp_path: Path) -> None:
    sources = ("planning", "map_captions")
    again = build(replace(request_of(root), cache_dir=tmp_path), tmp_path / "b", sources=sources)
    assert again["fingerprint"] == open_build(street_build).fingerprint


def test_vectors_of_the_caption(street_build: Path) -> None:
    elements = open_build(street_build).table("map_elements").to_pylist()
    # Keyframes 0 and 1 are scene-0001's, keyframe 3 is off the map.
    assert {row["sample_id"] for row in elements} == {2}
    layers = Counter(row["layer"] for row in elements)
    assert layers == {
        **{"road_divider": 1, "boundary": 2, "ped_crossing": 1, "stop_line": 1},
        **{"traffic_light": 1, "lane": 2, "drivable_area": 1},
    }
    lane = next(row for row in elements if row["layer"] == "lane")
    assert (lane["element_token"], lane["kind"], lane["closed"]) == ("north", "CAR", True)
    ring = shapely.Polygon(zip(lane["x_m"], lane["y_m"], strict=True))
    assert ring.area == pytest.approx(5 * 60, abs=1e-3)
    assert ring.bounds == pytest.approx((-3, -30, 2, 30), abs=1e-4)
    divider = next(row for row in elements if row["layer"] == "road_divider")
    assert not divider["closed"]
    assert divider["x_m"] == pytest.approx([2, 2], abs=1e-5)


def test_keyframes_without_map_or_split_are_in_the_ledger(street_build: Path) -> None:
    opened = open_build(street_build)
    ledger = opened.dropped().to_pylist()
    reasons = Counter(row["reason"] for row in ledger if row["source"] == "map_captions")
    assert reasons == {"no_map": 2, "no_split": 2}
    account = opened.manifest["sources"]["map_captions"]["alignment"]
    assert (account["read"], account["kept"]) == (6, 2)
    assert account["dropped"] == {"no_map": 2, "no_split": 2}


def test_a_keyframe_without_lidar_is_in_the_ledger(tmp_path: Path) -> None:
    root = tree_of(tmp_path, [HandScene([(0, 52, 0), (130, 52, 0)], location="boston-seaport")])
    write_map(root, street_map(), "boston-seaport")
    path = root / "v1.0-mini" / "sample_data.json"
    records = json.loads(path.read_text())
    lidar = [r for r in records if r["is_key_frame"] and "LIDAR_TOP" in r["filename"]]
    path.write_text(json.dumps([r for r in records if r is not lidar[0]]))
    context = Context(request_of(root))
    (unit,) = BUILDER.plan(context)
    rows = BUILDER.build(context, unit)
    assert not rows.unaccounted()
    assert [(d.record, d.reason) for d in rows.dropped] == [(lidar[0]["sample_token"], "no_lidar")]
    assert rows.tables["alignment"].num_rows == 1
    # The keyframe that is left sees the island in the pavement.
    areas = [e for e in rows.tables["map_elements"].to_pylist() if e["layer"] == "drivable_area"]
    assert [(area["kind"], len(area["x_m"])) for area in areas] == [("", 5), ("hole", 5)]


def test_without_maps_there_is_nothing_to_build(tmp_path: Path) -> None:
    root = tree_of(tmp_path, [HandScene([(0, 0, 0)])])
    assert BUILDER.plan(Context(request_of(root))) == []


def test_maps_change_the_fingerprint(tmp_path: Path) -> None:
    root = tree_of(tmp_path, [HandScene([(0, 0, 0)])])
    before = Context(request_of(root)).fingerprint(["map_captions"])
    write_map(root, empty_map(), "boston-seaport")
    assert Context(request_of(root)).fingerprint(["map_captions"]) != before


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    root = make_tree(tmp_path_factory.mktemp("town"), 2, maps=True, blocks=3)
    context = Context(request_of(root))
    (unit, *_) = BUILDER.plan(context)
    return dict(BUILDER.build(context, unit).tables)


def test_texts_are_bounded_and_say_what_the_vectors_say(town: dict[str, pa.Table]) -> None:
    rows, elements = town["alignment"].to_pylist(), town["map_elements"].to_pylist()
    assert len(rows) > 30
    counts = Counter((row["sample_id"], row["layer"]) for row in elements)
    for row in rows:
        text = row["answer"]
        assert len(text) < 2500
        assert not re.search(r"-0\.0\b", text)
        for title, layer in (("Lane dividers", "lane_divider"), ("Road boundaries", "boundary")):
            said = re.search(rf"{title} \((\d+)", text)
            assert int(said[1] if said else 0) == counts[row["sample_id"], layer]
        for x, y in re.findall(r"\((-?\d+\.\d),(-?\d+\.\d)\)", text):
            assert abs(float(x)) <= 15
            assert abs(float(y)) <= 30


def test_rings_run_clockwise_from_their_leftmost_point(town: dict[str, pa.Table]) -> None:
    rings = [row for row in town["map_elements"].to_pylist() if row["closed"]]
    assert len(rings) > 100
    for row in rings:
        ring = shapely.LinearRing(zip(row["x_m"], row["y_m"], strict=True))
        assert not ring.is_ccw
        assert row["x_m"][0] == min(row["x_m"])


def test_elements_are_sorted_by_keyframe_and_inside_the_area(town: dict[str, pa.Table]) -> None:
    elements = town["map_elements"]
    ids = elements["sample_id"].to_numpy()
    assert (np.diff(ids) >= 0).all()
    for name, limit in (("x_m", 15), ("y_m", 30)):
        assert np.abs(elements[name].combine_chunks().flatten()).max() <= limit + 1e-5


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        pytest.param("LINESTRING (3 9, 1 -4)", "[(1.0,-4.0),(3.0,9.0)]", id="runs ahead"),
        pytest.param("LINESTRING (4 2, -4 2)", "[(-4.0,2.0),(4.0,2.0)]", id="runs right"),
        pytest.param("LINESTRING (0 0, 1 0.1, 2 0)", "[(0.0,0.0),(2.0,0.0)]", id="thinned"),
        pytest.param("LINESTRING (-0.04 0, 0 1)", "[(0.0,0.0),(0.0,1.0)]", id="no minus zero"),
        pytest.param(
            "POLYGON ((2 0, 2 3, 0 3, 0 0, 2 0))",
            "[(0.0,0.0),(0.0,3.0),(2.0,3.0),(2.0,0.0)]",
            id="ring",
        ),
    ],
)
def test_outlines(shape: str, text: str) -> None:
    assert outlines_of(shapely.from_wkt(shape)) == [text]


def outlines_of(*shapes: shapely.Geometry) -> list[str]:
    are_rings = shapes[0].geom_type == "Polygon"
    paths = [shape.exterior if are_rings else shape for shape in shapes]
    return outlines(Paths.of(np.array(paths)), are_rings=are_rings).to_pylist()


def points_of(text: str) -> list[tuple[float, float]]:
    found = re.findall(r"\(([^,]*),([^)]*)\)", text)
    return [(float(x), float(y)) for x, y in found]


def test_a_wiggly_line_is_resampled_end_to_end() -> None:
    xy = np.column_stack([np.resize([0, 5], 12), np.arange(12)])
    (text,) = outlines_of(shapely.LineString(xy))
    found = points_of(text)
    assert len(found) == MAX_POINTS
    assert (found[0], found[-1]) == ((0.0, 0.0), (5.0, 11.0))


# Whole metres: a text with one decimal says exactly where they are.
corners = st.lists(
    st.tuples(st.integers(-90, 90), st.integers(-3, 3)), min_size=3, max_size=5, unique=True
)


@given(corners)
def test_thinned_lines_stay_near_the_line_and_never_cross_themselves(
    xy: list[tuple[int, int]],
) -> None:
    line = shapely.LineString(xy)
    thin = shapely.LineString(points_of(*outlines_of(line)))
    assert thin.hausdorff_distance(line) <= TOLERANCE_M
    assert thin.is_simple or not line.is_simple


@given(corners)
def test_thinned_outlines_stay_near_the_outline_and_never_cross_themselves(
    xy: list[tuple[int, int]],
) -> None:
    middle = np.mean(xy, axis=0)
    around = shapely.Polygon(sorted(xy, key=lambda p: np.arctan2(*(np.array(p) - middle))))
    assume(around.is_valid)
    thin = shapely.LinearRing(points_of(*outlines_of(around)))
    assert thin.hausdorff_distance(around.exterior) <= TOLERANCE_M
    assert thin.is_simple


@given(st.lists(st.tuples(*[st.floats(-100, 100)] * 2), max_size=5))
def test_points_read_back_to_a_twentieth(xy: list[tuple[float, float]]) -> None:
    texts = points(np.array(xy).reshape(-1, 2)).to_pylist()
    back = [tuple(map(float, text.strip("()").split(","))) for text in texts]
    assert np.allclose(back, xy, rtol=0, atol=0.05 + 1e-9)
    assert not any(re.search(r"-0\.0\b", text) for text in texts)
