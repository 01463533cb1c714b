"""Map patches beside nuscenes-devkit, and the map captions of all keyframes.

    python -m benchmarks.maps [--root TREE] [--repeat 5]

Without --root a synthetic tree is written first: 850 scenes with few agents, towns of 15 x 15
streets, whose map files are as large as the real ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import shapely

from benchmarks.measure import Usage, cpu, here, in_own_process, markdown, peak, seconds
from odvla_bench.datasets.nuscenes.maps import VectorMap, find_maps
from odvla_bench.datasets.nuscenes.patches import Patches
from odvla_bench.datasets.nuscenes.road_edges import boundary_polylines, drivable_masks
from odvla_bench.geometry import Pose

LOCATION = "boston-seaport"
VERSION = "v1.0-trainval"
VECTOR_LAYERS = ("road_divider", "lane_divider", "ped_crossing_edge", "boundary")
POLYGON_LAYERS = ("road_segment", "lane", "ped_crossing", "walkway", "stop_line")
BATCH = 2048

DEVKIT_LOAD = """
import sys
from nuscenes.map_expansion.map_api import NuScenesMap
NuScenesMap(sys.argv[1], sys.argv[2])
"""
FIRST_LOAD = """
import sys, tempfile
from pathlib import Path
from odvla_bench.datasets.nuscenes.maps import LAYERS, find_maps
with tempfile.TemporaryDirectory() as cache:
    vector_map = find_maps(Path(sys.argv[1]), Path(cache))[sys.argv[2]]
    for name in LAYERS:
        vector_map.layer(name).tree
"""
RELOAD = """
import sys
from pathlib import Path
from odvla_bench.datasets.nuscenes.maps import LAYERS, find_maps
vector_map = find_maps(Path(sys.argv[1]), Path(sys.argv[3]))[sys.argv[2]]
for name in LAYERS:
    vector_map.layer(name).tree
"""
CAPTIONS = """
import shutil, sys
from pathlib import Path
from odvla_bench.datasets.build import build, find_sources
from odvla_bench.datasets.builders.base import BuildRequest
root, version, cache, out = sys.argv[1:]
shutil.rmtree(out, ignore_errors=True)
maps = next(s for s in find_sources(Path(root)) if s.name == "map_captions").found
files = tuple((f"map_captions.{key}", path) for key, path in maps.items())
request = BuildRequest(Path(root), version, Path(cache), files=files)
build(request, Path(out), sources=("map_captions",))
"""
BARE_WRITE = """
import json, sys, tempfile
from pathlib import Path
import pyarrow.parquet as pq
for path in Path(sys.argv[1]).glob("maps/expansion/*.json"):
    json.loads(path.read_text())
with tempfile.TemporaryDirectory() as out:
    for name in ("alignment", "map_elements"):
        pq.write_table(
            pq.read_table(Path(sys.argv[2]) / name), Path(out) / name,
            compression="zstd", compression_level=3,
        )
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        root = options.root or write_tree(Path(work) / "nuscenes")
        print(run(root, Path(work), options.repeat))


def write_tree(root: Path) -> Path:
    from odvla_bench.datasets.nuscenes.synthetic import (
        AgentOptions,
        SyntheticConfig,
        write_nuscenes,
    )

    few = AgentOptions(per_keyframe=0.5)
    config = SyntheticConfig(VERSION, 850, agents=few, sweeps=False, can_bus=False, blocks=15)
    write_nuscenes(root, config)
    return root


def run(root: Path, work: Path, repeat: int) -> str:
    """The table of all rows."""
    place, cache = str(root), str(work / "cache")
    # A child inherits the peak memory of its parent, so all that is measured in processes of
    # their own comes before anything large is opened here.
    theirs = in_own_process(DEVKIT_LOAD, place, LOCATION, repeat=repeat)
    first = in_own_process(FIRST_LOAD, place, LOCATION, repeat=repeat)
    in_own_process(RELOAD, place, LOCATION, cache, repeat=1)
    again = in_own_process(RELOAD, place, LOCATION, cache, repeat=repeat)
    captions = _caption_row(place, cache, work / "captions", repeat)
    from nuscenes.map_expansion.map_api import NuScenesMap

    devkit, vector_map = NuScenesMap(place, LOCATION), find_maps(root, Path(cache))[LOCATION]
    rows = [
        _row("open one map, first time (vs devkit)", theirs, first),
        _row("open it again, from the cache (vs devkit)", theirs, again),
        *(_patch_row(devkit, vector_map, size, repeat) for size in ((60.0, 30.0), (102.4, 102.4))),
        _polygon_row(devkit, vector_map, repeat),
        _mask_row(devkit, vector_map, repeat),
        _curb_row(devkit, vector_map, repeat),
        captions,
    ]
    header = ("what", "reference, CPU s", "MB", "odvla_bench, CPU s", "MB", "ratio")
    return markdown(header, rows)


def _row(what: str, theirs: list[Usage], ours: list[Usage]) -> list[str]:
    memory = ["" if np.isnan(peak(runs)) else f"{peak(runs):,.0f}" for runs in (theirs, ours)]
    ratio = f"{cpu(theirs) / cpu(ours):,.1f}×"
    return [what, seconds(theirs), memory[0], seconds(ours), memory[1], ratio]


def random_patches(
    vector_map: VectorMap, size_m: tuple[float, float], seed: int, count: int = BATCH
) -> Patches:
    """Patches around points of lanes and junctions, turned at random."""
    rng = np.random.default_rng(seed)
    near = shapely.get_coordinates(vector_map.layer("lane_connector").geometry)
    centre = near[rng.integers(len(near), size=count)]
    return Patches(centre, rng.uniform(-np.pi, np.pi, count), size_m)


def _compare(
    what: str,
    ours: Callable[[Patches], object],
    theirs: Callable[[Patches, int], object],
    patches: Callable[[int], Patches],
    *,
    repeat: int,
    per_run: int,
) -> list[str]:
    """One row: a batch at once, and a few of its patches one by one, scaled up to the batch."""
    seeds: Iterator[int] = iter(range(2 * repeat + 1))
    ours(patches(next(seeds)))  # builds the search trees
    fast = here(lambda: ours(patches(next(seeds))), repeat=repeat)

    def one_by_one() -> None:
        batch = patches(next(seeds))
        for i in range(per_run):
            theirs(batch, i)

    count = len(patches(0).centre_m)
    slow = [Usage(u.cpu_s * count / per_run) for u in here(one_by_one, repeat=repeat)]
    return _row(f"{what}, {count:,} patches (vs devkit, from {per_run})", slow, fast)


def _patch_row(
    devkit: object, vector_map: VectorMap, size: tuple[float, float], repeat: int
) -> list[str]:
    return _compare(
        f"dividers, crossings, boundary, {size[0]:g} m x {size[1]:g} m",
        lambda patches: vector_map.query(patches, VECTOR_LAYERS),
        lambda patches, i: vectors_with_devkit(devkit, patches, i),
        lambda seed: random_patches(vector_map, size, seed),
        repeat=repeat,
        per_run=8,
    )


def _polygon_row(devkit: object, vector_map: VectorMap, repeat: int) -> list[str]:
    return _compare(
        "five polygon layers, 60 m x 30 m",
        lambda patches: vector_map.query(patches, POLYGON_LAYERS),
        lambda patches, i: devkit.get_map_geom(*_box(patches, i), list(POLYGON_LAYERS)),
        lambda seed: random_patches(vector_map, (60.0, 30.0), seed),
        repeat=repeat,
        per_run=8,
    )


def _mask_row(devkit: object, vector_map: VectorMap, repeat: int) -> list[str]:
    return _compare(
        "drivable-area raster, 1000 x 1000",
        lambda patches: drivable_masks(vector_map, _poses(patches)),
        lambda patches, i: devkit.get_map_mask(*_box(patches, i), ["drivable_area"], (1000, 1000)),
        lambda seed: random_patches(vector_map, (100.0, 100.0), seed, 64),
        repeat=repeat,
        per_run=8,
    )


def _curb_row(devkit: object, vector_map: VectorMap, repeat: int) -> list[str]:
    return _compare(
        "curb lines of 20 points, 102.4 m x 50 m",
        lambda patches: boundary_polylines(vector_map, _poses(patches)),
        lambda patches, i: [resampled(line) for line in contours_with_devkit(devkit, patches, i)],
        lambda seed: random_patches(vector_map, (102.4, 50.0), seed),
        repeat=repeat,
        per_run=8,
    )


def _caption_row(place: str, cache: str, made: Path, repeat: int) -> list[str]:
    """All captions and vectors, beside parsing the maps and writing the finished tables."""
    in_own_process(CAPTIONS, place, VERSION, cache, str(made), repeat=1)
    ours = in_own_process(CAPTIONS, place, VERSION, cache, str(made), repeat=repeat)
    tables = json.loads((made / "manifest.json").read_text())["tables"]
    rows = {
        name: sum(split["rows"] for split in tables[name].values())
        for name in ("alignment", "map_elements")
    }
    bare = in_own_process(BARE_WRITE, place, str(made), repeat=repeat)
    what = f"{rows['alignment']:,} captions, {rows['map_elements']:,} vectors"
    return _row(f"{what} (vs parsing the maps + bare pyarrow write)", bare, ours)


def vectors_with_devkit(devkit: object, patches: Patches, i: int) -> None:
    """What vector-map code does for one sample: lines, crossings' edges, contours."""
    box, angle = _box(patches, i)
    devkit.get_map_geom(box, angle, ["road_divider", "lane_divider"])
    window = devkit.explorer.get_patch_coord(box, angle)
    for record in devkit.ped_crossing:
        ring = np.array(devkit.extract_polygon(record["polygon_token"]).exterior.coords)
        for edge in np.argsort(np.square(np.diff(ring, axis=0)).sum(1))[-2:]:
            shapely.LineString(ring[edge : edge + 2]).intersection(window)
    contours_with_devkit(devkit, patches, i)


def contours_with_devkit(devkit: object, patches: Patches, i: int) -> list[object]:
    """Rings of the union of the clipped roads, drawn in by 0.2 m, pieces joined."""
    geometry = devkit.get_map_geom(*_box(patches, i), ["road_segment", "lane"])
    union = shapely.union_all([shape for _, shapes in geometry for shape in shapes])
    half = [size / 2 - 0.2 for size in patches.size_m]
    inner = shapely.box(-half[0], -half[1], half[0], half[1])
    rings = shapely.get_rings(shapely.get_parts(union))
    lines = shapely.get_parts([shapely.line_merge(ring.intersection(inner)) for ring in rings])
    return [line for line in lines if not line.is_empty]


def resampled(line: object, points: int = 20) -> np.ndarray:
    """(points, 2), equally far apart."""
    at = np.linspace(0, line.length, points)
    return np.array([list(line.interpolate(distance).coords) for distance in at]).reshape(-1, 2)


def _box(patches: Patches, i: int) -> tuple[tuple[float, ...], float]:
    """A patch as the devkit wants it: (x, y, height, width) and degrees."""
    wide, high = patches.size_m
    x, y = patches.centre_m[i].tolist()
    return (x, y, high, wide), float(np.degrees(patches.yaw_rad[i]))


def _poses(patches: Patches) -> Pose:
    cos, sin = np.cos(patches.yaw_rad), np.sin(patches.yaw_rad)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    rows = ((cos, -sin, zero), (sin, cos, zero), (zero, zero, one))
    rotation = np.stack([np.stack(row, -1) for row in rows], -2)
    return Pose(rotation, np.column_stack([patches.centre_m, zero]))


if __name__ == "__main__":
    main()
