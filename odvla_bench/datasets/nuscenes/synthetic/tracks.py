"""Tracks of road users that may surround a drive: driving, stopping, parked, walking, standing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.catalogue import CATEGORIES
from odvla_bench.datasets.nuscenes.synthetic.driving import path_at, timetable
from odvla_bench.datasets.nuscenes.synthetic.ego import EgoDrive
from odvla_bench.datasets.nuscenes.synthetic.records import BoolArray, IntArray
from odvla_bench.datasets.nuscenes.synthetic.town import (
    CROSSING_HALF_M,
    HEADINGS,
    KERB_M,
    LANES,
    ROAD_HALF_M,
    WALK_M,
    Town,
    random_path,
)
from odvla_bench.geometry import FloatArray

KIND = np.array([category.kind for category in CATEGORIES])
_SIZE_M = np.array([category.size_m for category in CATEGORIES])
_CAR = next(i for i, c in enumerate(CATEGORIES) if c.name == "vehicle.car")
_BARRIER = next(i for i, c in enumerate(CATEGORIES) if c.name == "movable_object.barrier")
_DRIVEN_SHARE = {"vehicle": 0.3, "cycle": 0.35, "human": 0.65, "object": 0.0}
_WEIGHT = np.array([category.weight for category in CATEGORIES], np.float64)


class Tracks(NamedTuple):
    """M tracks over the K keyframes."""

    category: IntArray
    active: BoolArray
    """(M,) driven, ridden or walking, if only at times; else parked, riderless, standing."""
    xy_m: FloatArray
    """(M, K, 2) GLOBAL."""
    yaw_rad: FloatArray
    """(M, K) GLOBAL."""
    present: BoolArray
    """(M, K)."""
    size_m: FloatArray
    """(M, 3) width, length, height."""

    def at(self, index: BoolArray | IntArray) -> Tracks:
        """The tracks at `index`."""
        columns: list[Any] = [column[index] for column in self]
        return Tracks(*columns)


def candidates(drive: EgoDrive, time_s: FloatArray, rng: np.random.Generator, count: int) -> Tracks:
    """Tracks by category share, in no order but that the ego's lane mates come first."""
    category = rng.choice(len(CATEGORIES), count, p=_WEIGHT / _WEIGHT.sum())
    category[:2] = _CAR
    chance = np.array([_DRIVEN_SHARE[kind] for kind in KIND[category]])
    active = rng.random(count) < chance
    active[:2] = True
    xy, yaw, present = _beside_road(drive, time_s, rng, category, active)
    for m in np.flatnonzero(active & np.isin(KIND[category], ("vehicle", "cycle"))):
        if m < 2:
            motion = _lane_mate(drive, time_s, rng, ahead=m == 0)
        else:
            motion = _on_road(drive, time_s, rng)
        xy[m], yaw[m], present[m] = motion
    size = _SIZE_M[category] * rng.normal(1, 0.07, (count, 3)).clip(0.75, 1.3)
    return Tracks(category, active, xy, yaw, present, np.round(size, 3))


_Motion = tuple[FloatArray, FloatArray, BoolArray]


def _lane_mate(
    drive: EgoDrive, time_s: FloatArray, rng: np.random.Generator, *, ahead: bool
) -> _Motion:
    """A car that drives the ego's own way, some seconds and metres ahead or behind."""
    lag_s, gap_m = rng.uniform(0.5, 2.5), rng.uniform(7, 12)
    sign = 1 if ahead else -1
    s = drive.timetable.at(time_s + sign * lag_s) + sign * gap_m
    xy, heading = path_at(drive.path, s)
    on_path = (s > 1) & (s < drive.path.length_m - 1) & (rng.random() < 0.6)
    return drive.streets.to_global(xy), drive.streets.yaw_at(xy, heading), on_path


def _on_road(drive: EgoDrive, time_s: FloatArray, rng: np.random.Generator) -> _Motion:
    """A vehicle on its own way that passes the ego's surroundings at some time."""
    streets = drive.streets
    when_s = rng.uniform(time_s[0], time_s[-1])
    near, _ = drive.plan_at(np.array([when_s]))
    node = _nearest_node(streets, near[0] + rng.normal(0, 25, 2))
    heading = int(rng.integers(4))
    back = HEADINGS[heading].astype(int)
    origin = (node[0] - int(back[0]), node[1] - int(back[1]))
    origin = origin if streets.has_node(*origin) else node
    lane = int(rng.integers(LANES))
    path = random_path(streets, rng, node=origin, heading=heading, lane=lane, length_m=300)
    times = timetable(
        path,
        rng,
        cruise_mps=rng.uniform(4, 12),
        stop_chance=0.35,
        anchor_m=min(rng.uniform(20, 160), path.length_m / 2),
    )
    s = times.at(time_s - when_s)
    xy, direction = path_at(path, s)
    on_path = (s > times.s_m[0] + 0.5) & (s < times.s_m[-1] - 0.5)
    return streets.to_global(xy), streets.yaw_at(xy, direction), on_path


def _nearest_node(streets: Town, plan_m: FloatArray) -> tuple[int, int]:
    i = int(np.argmin(np.abs(streets.streets_x_m - plan_m[0])))
    return i, int(np.argmin(np.abs(streets.streets_y_m - plan_m[1])))


def _beside_road(
    drive: EgoDrive,
    time_s: FloatArray,
    rng: np.random.Generator,
    category: IntArray,
    active: BoolArray,
) -> _Motion:
    """Parked, standing and walking ones along the streets that the ego drives by."""
    streets, count = drive.streets, len(category)
    when_s = rng.uniform(time_s[0] - 3, time_s[-1] + 5, count)
    near = drive.plan_at(when_s)[0] + rng.normal(0, 14, (count, 2))
    center, axis = _street_point(streets, near, rng)
    side = rng.choice([-1.0, 1.0], (count, 1))
    outwards = np.stack([-axis[:, 1], axis[:, 0]], -1) * side
    lateral_m = _lateral_m(rng, category)
    human = KIND[category] == "human"
    heading = axis * side * streets.lane_side
    in_lot = (KIND[category] == "vehicle") & (lateral_m > WALK_M)
    heading[in_lot] = outwards[in_lot]
    crossing = active & human & (rng.random(count) < 0.15)
    heading[crossing] = -outwards[crossing]
    heading[human & ~crossing & (rng.random(count) < 0.5)] *= -1
    pace_mps = np.where(active & human, rng.normal(1.2, 0.25, count).clip(0.5, 2), 0.0)
    walked_m = pace_mps[:, None] * _strolls(time_s[None] - when_s[:, None], rng)
    place = center + outwards * lateral_m[:, None]
    plan = place[:, None] + walked_m[..., None] * heading[:, None]
    turned_rad = rng.normal(0, np.where(KIND[category] == "object", 0.4, 0.03))
    yaw = streets.yaw_at(plan, heading[:, None]) + turned_rad[:, None]
    return streets.to_global(plan), yaw, np.ones(plan.shape[:2], bool)


def _lateral_m(rng: np.random.Generator, category: IntArray) -> FloatArray:
    """(N,) distances from the street's centre: kerb, car park, walkway, edge of the lanes."""
    count, kind = len(category), KIND[category]
    kerb_m, lot_m = (ROAD_HALF_M + KERB_M) / 2, rng.uniform(17, 32, count)
    return np.select(
        [kind == "vehicle", kind == "human", category == _BARRIER],
        [
            np.where(rng.random(count) < 0.65, kerb_m, lot_m),
            rng.uniform(KERB_M + 0.5, WALK_M, count),
            rng.choice([ROAD_HALF_M - 0.3, KERB_M + 0.4], count),
        ],
        rng.uniform(ROAD_HALF_M, WALK_M, count),
    )


def _street_point(
    streets: Town, near_m: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Points of street centres next to (N, 2) plan points, off crossings, and the street axes."""
    gap_x = near_m[:, 0, None] - streets.streets_x_m
    gap_y = near_m[:, 1, None] - streets.streets_y_m
    i, j = np.abs(gap_x).argmin(1), np.abs(gap_y).argmin(1)
    rows = np.arange(len(near_m))
    along_y = np.abs(gap_x[rows, i]) < np.abs(gap_y[rows, j])
    to_cross = np.where(along_y, gap_y[rows, j], gap_x[rows, i])
    clear = np.maximum(np.abs(to_cross), CROSSING_HALF_M + 4 + rng.uniform(0, 14, len(rows)))
    crossed, last = np.where(along_y, j, i), np.where(along_y, gap_y.shape[1], gap_x.shape[1]) - 1
    sign = np.select([crossed == 0, crossed == last], [1, -1], np.where(to_cross < 0, -1, 1))
    along = sign * clear  # at the town's edge the street goes on inwards only
    node = np.stack([streets.streets_x_m[i], streets.streets_y_m[j]], -1)
    axis = np.where(along_y[:, None], HEADINGS[1], HEADINGS[0])
    return node + axis * along[:, None], axis


def _strolls(time_s: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(N, K) seconds walked by (N, K) times: a third of the walkers stand for a while."""
    pause_start = rng.uniform(-8, 8, (len(time_s), 1))
    pause_s = np.where(rng.random((len(time_s), 1)) < 0.33, rng.uniform(2, 6, (len(time_s), 1)), 0)
    return time_s - np.clip(time_s - pause_start, 0, pause_s)
