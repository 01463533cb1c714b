"""Planning metrics on 6,019 samples: collision checks, occupancy, and the whole evaluation.

python -m benchmarks.planning_metrics [--samples 6019] [--repeat 5]

Samples are synthetic and seeded: 35 annotated boxes a keyframe, spread evenly over 110 x 110 m,
in the proportions of nuScenes' categories; plans are the recorded drive with growing noise.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import cv2
import numpy as np
import shapely

from benchmarks.measure import Usage, cpu, here, markdown, seconds
from odvla_bench.geometry import box_corners
from odvla_bench.metrics.boxes import boxes_from_tracks
from odvla_bench.metrics.collision import packed_hits, polygon_hits
from odvla_bench.metrics.footprint import footprint_boxes, footprint_probe, headings_rad
from odvla_bench.metrics.obstacles import ObstacleBoxes, select_obstacles
from odvla_bench.metrics.occupancy import cell_polygons, rasterise_boxes
from odvla_bench.metrics.planning import score_planning
from odvla_bench.metrics.protocols import PROTOCOLS, get_protocol

N_SAMPLES = 6_019
N_SCENES = 150
N_OBJECTS = 35
SLOW_SAMPLES = 600
CATEGORIES = {
    "vehicle.car": (0.42, 1.95, 4.6),
    "vehicle.truck": (0.08, 2.5, 6.9),
    "vehicle.bus.rigid": (0.02, 2.9, 11.0),
    "vehicle.trailer": (0.02, 2.9, 12.0),
    "vehicle.construction": (0.01, 2.8, 6.5),
    "vehicle.motorcycle": (0.01, 0.8, 2.1),
    "vehicle.bicycle": (0.01, 0.6, 1.7),
    "human.pedestrian.adult": (0.20, 0.7, 0.7),
    "movable_object.barrier": (0.14, 2.5, 0.5),
    "movable_object.trafficcone": (0.09, 0.4, 0.4),
}
"""Share of the boxes, width and length in metres."""


@dataclass(frozen=True)
class Scenes:
    """Seeded plans and obstacles."""

    pred_m: np.ndarray
    gt_m: np.ndarray
    n_valid: np.ndarray
    scene: np.ndarray
    boxes: ObstacleBoxes

    def score(self, name: str) -> object:
        """Scores of the plans under one protocol, from boxes."""
        return score_planning(
            self.pred_m,
            self.gt_m,
            self.n_valid,
            protocol=name,
            boxes=self.boxes,
            scene=self.scene,
        )


def make_scenes(n: int) -> Scenes:
    """Samples that drive on arcs among objects that keep their speed."""
    rng = np.random.default_rng(0)
    t = np.arange(1, 7) * 0.5
    speed, turn = rng.uniform(0, 12, (n, 1)), rng.normal(0, 0.05, (n, 1))
    gt = np.stack([-np.sin(turn * t) * speed * t / 2, speed * t * np.cos(turn * t / 2)], -1)
    pred = gt + np.cumsum(rng.normal(0, 0.25, (n, 6, 2)), axis=1)
    scene = np.arange(n) * N_SCENES // n
    left = np.searchsorted(scene, scene, side="right") - np.arange(n) - 1
    m = n * N_OBJECTS
    names = np.array(list(CATEGORIES))
    share, width, length = np.array(list(CATEGORIES.values())).T
    kind = rng.choice(len(names), m, p=share / share.sum())
    yaw = rng.uniform(-np.pi, np.pi, m)
    moves = rng.uniform(0, 8, m) * (rng.random(m) < 0.4)
    way = (
        np.arange(7)[:, None]
        * 0.5
        * (moves[:, None, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)[:, None])
    )
    xy = rng.uniform(-55, 55, (m, 1, 2)) + way
    owner = np.repeat(np.arange(n), N_OBJECTS)
    alive = (rng.random((m, 7)) < 0.97) & (np.arange(7) <= left[owner, None])
    boxes = boxes_from_tracks(
        np.concatenate([xy, np.broadcast_to(yaw[:, None, None], (m, 7, 1))], -1),
        np.stack([width[kind], length[kind]], -1) * rng.uniform(0.9, 1.1, (m, 1)),
        alive,
        category=names[kind],
        visibility=rng.integers(1, 5, m),
        sample=owner,
    )
    return Scenes(pred.astype(np.float32), gt.astype(np.float32), np.minimum(left, 6), scene, boxes)


def naive_raster(path: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Footprint collisions step by step on unpacked grids, as the published loops do it."""
    rows, cols = (part.ravel() for part in np.mgrid[97:105, 98:102])
    hits = np.zeros(path.shape[:2], bool)
    for i, (waypoints, grids) in enumerate(zip(path, occupancy, strict=True)):
        cells = waypoints[:, None, ::-1] / np.float32(0.5) + np.stack([rows, cols], -1)
        index = np.clip(cells.astype(np.int32), 0, 199)
        for step in range(6):
            r, c = index[step].T
            inside = (r >= 0) & (r < 200) & (c >= 0) & (c < 200)
            hits[i, step] = np.any(grids[step, r[inside], c[inside]])
    return hits


def raster_rows(scenes: Scenes, repeat: int) -> list[tuple[str, ...]]:
    """(a) UniAD's collision of prediction and recorded drive, occupancy given."""
    protocol = get_protocol("uniad")
    n, slow = len(scenes.pred_m), min(SLOW_SAMPLES, len(scenes.pred_m))
    occupancy = rasterise_boxes(scenes.boxes, n, protocol=protocol)
    grids = occupancy.reshape(-1, 200, 25)
    each = np.arange(len(grids))

    def ours() -> np.ndarray:
        straight = np.zeros(scenes.pred_m.shape[:2], np.float32)
        paths = (scenes.pred_m, scenes.gt_m)
        return np.stack(
            [packed_hits(grids, each, footprint_probe(p, straight, protocol)) for p in paths]
        )

    unpacked = np.unpackbits(occupancy[:slow], axis=-1)
    loop = here(
        lambda: [naive_raster(p[:slow], unpacked) for p in (scenes.pred_m, scenes.gt_m)],
        repeat=repeat,
    )
    loop = [Usage(run.cpu_s * n / slow) for run in loop]
    fast = here(ours, repeat=repeat)
    same = np.array_equal(
        ours().reshape(2, n, 6)[0, :slow], naive_raster(scenes.pred_m[:slow], unpacked)
    )
    return [
        (f"raster collisions, loop ({slow} samples, scaled)", seconds(loop), "1", ""),
        ("raster collisions, packed window", seconds(fast), ratio(loop, fast), verdict(same=same)),
    ]


def shapely_loop(centres: np.ndarray, scenes: Scenes, limit: int) -> np.ndarray:
    """Footprint against the polygons of its frame, one vectorised call a frame."""
    rule = get_protocol("exact")
    obstacles = select_obstacles(scenes.boxes, rule.obstacles)
    keep = np.flatnonzero(obstacles.frame < limit)
    keep = keep[np.argsort(obstacles.frame[keep], kind="stable")]
    xy_yaw, wl, frame = obstacles.xy_yaw[keep], obstacles.wl[keep], obstacles.frame[keep]
    others = shapely.polygons(box_corners(xy_yaw[:, :2], xy_yaw[:, 2], wl[:, 1], wl[:, 0]))
    size = np.full(limit, rule.footprint.length_m), np.full(limit, rule.footprint.width_m)
    cars = shapely.polygons(box_corners(centres[:limit, :2], centres[:limit, 2], *size))
    bounds = np.searchsorted(frame, np.arange(limit + 1))
    spans = zip(cars, bounds, bounds[1:], strict=False)
    return np.array([shapely.intersects(car, others[i:j]).any() for car, i, j in spans])


def exact_rows(scenes: Scenes, repeat: int) -> list[tuple[str, ...]]:
    """(b) Oriented boxes against oriented boxes, of the prediction."""
    protocol = get_protocol("exact")
    rule = protocol.footprint
    n_frames, slow = scenes.pred_m.shape[0] * 6, min(SLOW_SAMPLES, len(scenes.pred_m)) * 6
    heading = headings_rad(scenes.pred_m, scenes.n_valid, rule)
    centres = footprint_boxes(scenes.pred_m, heading, rule).reshape(-1, 3)
    obstacles = select_obstacles(scenes.boxes, protocol.obstacles)
    loop = here(lambda: shapely_loop(centres, scenes, slow), repeat=repeat)
    loop = [Usage(run.cpu_s * n_frames / slow) for run in loop]
    fast = here(lambda: polygon_hits(obstacles, centres, rule, touching=False), repeat=repeat)
    same = np.array_equal(
        polygon_hits(obstacles, centres, rule, touching=False)[:slow],
        shapely_loop(centres, scenes, slow),
    )
    return [
        (f"exact collisions, shapely loop ({slow // 6} samples, scaled)", seconds(loop), "1", ""),
        ("exact collisions, separating axes", seconds(fast), ratio(loop, fast), verdict(same=same)),
    ]


def plain_occupancy(scenes: Scenes, limit: int) -> np.ndarray:
    """One float64 grid a frame, every polygon drawn, as UniAD does it; the first `limit` frames."""
    protocol = get_protocol("uniad")
    assert protocol.raster is not None
    obstacles = select_obstacles(scenes.boxes, protocol.obstacles)
    obstacles = obstacles.at(np.flatnonzero(obstacles.frame < limit))
    grids = np.zeros((limit, 200, 200))
    polygons = cell_polygons(scenes.boxes, obstacles, protocol.raster)
    for frame, polygon in zip(obstacles.frame.tolist(), polygons, strict=True):
        cv2.fillPoly(grids[frame], [polygon], 1.0)
    return grids


def occupancy_rows(n: int, repeat: int) -> list[tuple[str, ...]]:
    """(c) UniAD's occupancy of as many frames as 7 a sample, drawn and packed."""
    scenes = make_scenes(-(-n * 7 // 6))
    count = len(scenes.pred_m)
    runs = here(lambda: rasterise_boxes(scenes.boxes, count, protocol="uniad"), repeat=repeat)
    slow = min(SLOW_SAMPLES, count) * 6
    ours = rasterise_boxes(scenes.boxes, count, protocol="uniad").reshape(-1, 200, 25)[:slow]
    same = np.array_equal(ours, np.packbits(plain_occupancy(scenes, slow) != 0, axis=-1))
    name = f"occupancy, {count * 6:,} frames, drawn and packed"
    return [(name, seconds(runs), "", verdict(same=same) + f" on {slow:,} frames")]


def whole_rows(scenes: Scenes, repeat: int) -> list[tuple[str, ...]]:
    """(d) Every protocol from boxes; the boxes' index of tracks is made anew in each run."""
    totals: list[Usage] = []
    parts: dict[str, list[Usage]] = {name: [] for name in PROTOCOLS}
    for _ in range(repeat):
        scenes.boxes.__dict__.pop("tracks", None)
        start = time.process_time()
        for name, runs in parts.items():
            runs += here(lambda name=name: scenes.score(name), repeat=1)
        totals.append(Usage(time.process_time() - start))
    rows = [("whole evaluation from boxes, all protocols", seconds(totals), "", "")]
    return rows + [(f"– {name}", seconds(runs), "", "") for name, runs in parts.items()]


def ratio(slow: list[Usage], fast: list[Usage]) -> str:
    """How many times less CPU the second side takes."""
    return f"{cpu(slow) / cpu(fast):.0f} times"


def verdict(*, same: bool) -> str:
    """Whether both sides gave the same result."""
    return "identical" if same else "DIFFERENT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=N_SAMPLES)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    scenes = make_scenes(arguments.samples)
    print(f"{len(scenes.boxes.sample):,} boxes of {arguments.samples:,} samples, steps 0 to 6\n")
    rows = [
        *raster_rows(scenes, arguments.repeat),
        *exact_rows(scenes, arguments.repeat),
        *occupancy_rows(arguments.samples, arguments.repeat),
        *whole_rows(scenes, arguments.repeat),
    ]
    print(markdown(("what", "CPU s, median [least-most]", "ratio", "result"), rows))


if __name__ == "__main__":
    main()
