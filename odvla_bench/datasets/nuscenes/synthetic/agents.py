"""Road users around the ego car: tracks that drive, stop, park, walk and stand, as boxes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.datasets.nuscenes.synthetic.catalogue import CATEGORIES
from odvla_bench.datasets.nuscenes.synthetic.ego import EgoDrive
from odvla_bench.datasets.nuscenes.synthetic.records import BoolArray, Boxes, IntArray
from odvla_bench.datasets.nuscenes.synthetic.town import (
    CROSSING_HALF_M,
    HEADINGS,
    KERB_M,
    LANES,
    ROAD_HALF_M,
    WALK_M,
    Town,
    path_at,
    random_path,
    timetable,
)
from odvla_bench.geometry import FloatArray

EGO_SIZE_M = (1.85, 4.084)
"""Width and length of the recording car, a Renault Zoe."""
EGO_CENTER_AHEAD_M = 1.39
"""From the rear axle, EGO's origin, to the middle of the car."""

_KIND = np.array([category.kind for category in CATEGORIES])
_WEIGHT = np.array([category.weight for category in CATEGORIES], np.float64)
_SIZE_M = np.array([category.size_m for category in CATEGORIES])
_CAR = next(i for i, c in enumerate(CATEGORIES) if c.name == "vehicle.car")
_BARRIER = next(i for i, c in enumerate(CATEGORIES) if c.name == "movable_object.barrier")
_DRIVEN_SHARE = {"vehicle": 0.3, "cycle": 0.35, "human": 0.65, "object": 0.0}
_MEAN_TRACK_KEYFRAMES = 16
_CLEARANCE_M = 0.4


class AgentOptions(NamedTuple):
    """How many road users there are, and how their tracks break."""

    per_keyframe: float = 34.2
    """Mean boxes a keyframe."""
    cut_share: float = 0.3
    """Share of tracks that appear or vanish in the middle of the view."""
    gap_share: float = 0.0
    """Share of tracks that lack a box or two between their first and last."""


class _Tracks(NamedTuple):
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

    def at(self, index: BoolArray | IntArray) -> _Tracks:
        """The tracks at `index`."""
        columns: list[Any] = [column[index] for column in self]
        return _Tracks(*columns)


def populate(
    drive: EgoDrive, time_s: FloatArray, rng: np.random.Generator, options: AgentOptions
) -> Boxes:
    """The boxes around a drive, none of which touches the ego car at a keyframe.

    Args:
        drive: the ego car's motion.
        time_s: (K,) keyframe times on the drive's clock.
        rng: decides everything.
        options: how many, and how tracks break.
    """
    target = options.per_keyframe * len(time_s) * rng.lognormal(-0.08, 0.4)
    count = int(1.9 * target / _MEAN_TRACK_KEYFRAMES) + 12
    tracks = _candidates(drive, time_s, rng, count)
    ego_xy, ego_yaw = drive.center_at(time_s, EGO_CENTER_AHEAD_M)
    present = _seen(tracks, ego_xy, rng, options.cut_share)
    tracks = tracks._replace(present=present)
    ego_half = np.array([EGO_SIZE_M]) / 2 + _CLEARANCE_M
    hit = _touch(
        ego_xy, ego_yaw, ego_half[:, None], tracks.xy_m, tracks.yaw_rad, _half(tracks.size_m)
    )
    tracks = tracks.at(present.any(1) & ~(hit & present).any(1))
    tracks = tracks.at(_compatible(tracks, target))
    tracks = tracks._replace(present=_with_gaps(tracks.present, rng, options.gap_share))
    return _boxes(tracks, ego_xy, time_s, rng)


def _candidates(
    drive: EgoDrive, time_s: FloatArray, rng: np.random.Generator, count: int
) -> _Tracks:
    """Tracks by category share, in no order but that the ego's lane mates come first."""
    category = rng.choice(len(CATEGORIES), count, p=_WEIGHT / _WEIGHT.sum())
    category[:2] = _CAR
    chance = np.array([_DRIVEN_SHARE[kind] for kind in _KIND[category]])
    active = rng.random(count) < chance
    active[:2] = True
    xy, yaw, present = _beside_road(drive, time_s, rng, category, active)
    for m in np.flatnonzero(active & np.isin(_KIND[category], ("vehicle", "cycle"))):
        if m < 2:
            motion = _lane_mate(drive, time_s, rng, ahead=m == 0)
        else:
            motion = _on_road(drive, time_s, rng)
        xy[m], yaw[m], present[m] = motion
    size = _SIZE_M[category] * rng.normal(1, 0.07, (count, 3)).clip(0.75, 1.3)
    return _Tracks(category, active, xy, yaw, present, np.round(size, 3))


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
    if not streets.has_node(origin[0] + int(back[0]), origin[1] + int(back[1])):
        heading = (heading + 2) % 4
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
    side = rng.choice([-1.0, 1.0], count)
    left = np.stack([-axis[:, 1], axis[:, 0]], -1)
    with_traffic = side * streets.lane_side
    kind = _KIND[category]
    lateral = np.select(
        [kind == "vehicle", kind == "human", category == _BARRIER],
        [
            np.where(
                rng.random(count) < 0.65, (ROAD_HALF_M + KERB_M) / 2, rng.uniform(17, 32, count)
            ),
            rng.uniform(KERB_M + 0.5, WALK_M, count),
            rng.choice([ROAD_HALF_M - 0.3, KERB_M + 0.4], count),
        ],
        rng.uniform(ROAD_HALF_M, WALK_M, count),
    )
    heading = axis * with_traffic[:, None]
    in_lot = (kind == "vehicle") & (lateral > WALK_M)
    heading[in_lot] = left[in_lot] * side[in_lot, None]
    walking = active & (kind == "human")
    crossing = walking & (rng.random(count) < 0.15)
    heading[crossing] = -left[crossing] * side[crossing, None]
    back = walking & ~crossing & (rng.random(count) < 0.5)
    heading[back] *= -1
    walked = walking[:, None] * rng.normal(1.2, 0.25, (count, 1)).clip(0.5, 2)
    walked = walked * _strolls(time_s[None] - when_s[:, None], rng)
    plan = (center + left * (side * lateral)[:, None])[:, None] + walked[..., None] * heading[
        :, None
    ]
    turned = np.where(kind == "object", rng.normal(0, 0.4, count), rng.normal(0, 0.03, count))
    yaw = streets.yaw_at(plan, heading[:, None]) + turned[:, None]
    return streets.to_global(plan), yaw, np.ones(plan.shape[:2], bool)


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
    along = np.where(to_cross < 0, -clear, clear)
    node = np.stack([streets.streets_x_m[i], streets.streets_y_m[j]], -1)
    axis = np.where(along_y[:, None], HEADINGS[1], HEADINGS[0])
    return node + axis * along[:, None], axis


def _strolls(time_s: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(N, K) seconds walked by (N, K) times: a third of the walkers stand for a while."""
    pause_start = rng.uniform(-8, 8, (len(time_s), 1))
    pause_s = np.where(rng.random((len(time_s), 1)) < 0.33, rng.uniform(2, 6, (len(time_s), 1)), 0)
    return time_s - np.clip(time_s - pause_start, 0, pause_s)


def _seen(
    tracks: _Tracks, ego_xy_m: FloatArray, rng: np.random.Generator, cut_share: float
) -> BoolArray:
    """(M, K) the longest run of keyframes in which each track is near enough, some cut short."""
    count, frames = tracks.present.shape
    reach_m = rng.uniform(30, 80, (count, 1))
    near = np.linalg.norm(tracks.xy_m - ego_xy_m, axis=-1) < reach_m
    start, stop = _longest_run(tracks.present & near)
    length = stop - start
    cut = rng.random(count) < cut_share
    lost = (rng.uniform(0.2, 0.8, count) * length * cut).astype(int)
    early = rng.random(count) < 0.5
    start, stop = start + np.where(early, lost, 0), stop - np.where(early, 0, lost)
    frame = np.arange(frames)
    return (frame >= start[:, None]) & (frame < stop[:, None])


def _longest_run(mask: BoolArray) -> tuple[IntArray, IntArray]:
    """First and one past the last index of each row's longest run of True."""
    run = np.zeros(mask.shape, np.int64)
    run[:, 0] = mask[:, 0]
    for k in range(1, mask.shape[1]):
        run[:, k] = (run[:, k - 1] + 1) * mask[:, k]
    stop = run.argmax(1) + 1
    return stop - run.max(1), stop


def _half(size_m: FloatArray) -> FloatArray:
    """(M, 3) sizes → (M, 1, 2) half width and half length."""
    return size_m[:, None, :2] / 2


def _touch(
    a_xy: FloatArray,
    a_yaw: FloatArray,
    a_half: FloatArray,
    b_xy: FloatArray,
    b_yaw: FloatArray,
    b_half: FloatArray,
) -> BoolArray:
    """Whether boxes may overlap: no gap between them along an axis of a (so errs towards True).

    Args:
        a_xy: (..., 2) centres; all arrays broadcast.
        a_yaw: (...) headings.
        a_half: (..., 2) half width, half length.
        b_xy: the other boxes' centres.
        b_yaw: their headings.
        b_half: their half sizes.
    """
    c, s = np.cos(a_yaw), np.sin(a_yaw)
    dx, dy = b_xy[..., 0] - a_xy[..., 0], b_xy[..., 1] - a_xy[..., 1]
    turn_c, turn_s = np.abs(np.cos(b_yaw - a_yaw)), np.abs(np.sin(b_yaw - a_yaw))
    along = turn_c * b_half[..., 1] + turn_s * b_half[..., 0] + a_half[..., 1]
    across = turn_s * b_half[..., 1] + turn_c * b_half[..., 0] + a_half[..., 0]
    return (np.abs(c * dx + s * dy) < along) & (np.abs(c * dy - s * dx) < across)


def _compatible(tracks: _Tracks, target: float) -> IntArray:
    """Indices of tracks, in order, that touch no earlier one, until `target` boxes are reached."""
    xy, yaw = tracks.xy_m.astype(np.float32), tracks.yaw_rad.astype(np.float32)
    half = _half(tracks.size_m).astype(np.float32)
    kept: list[int] = []
    total = 0
    for m, length in enumerate(tracks.present.sum(1)):
        if total + length / 2 > target:
            break
        both = tracks.present[kept] & tracks.present[m]
        if not (_touch(xy[m], yaw[m], half[m], xy[kept], yaw[kept], half[kept]) & both).any():
            kept.append(m)
            total += int(length)
    return np.array(kept, np.int64)


def _with_gaps(present: BoolArray, rng: np.random.Generator, share: float) -> BoolArray:
    """The same presence, with one or two keyframes missing inside a share of the tracks."""
    present = present.copy()
    for m in np.flatnonzero((rng.random(len(present)) < share) & (present.sum(1) >= 4)):
        frames = np.flatnonzero(present[m])
        first = int(rng.integers(1, len(frames) - 2))
        present[m, frames[first : first + int(rng.integers(1, 3))]] = False
    return present


def _boxes(
    tracks: _Tracks, ego_xy_m: FloatArray, time_s: FloatArray, rng: np.random.Generator
) -> Boxes:
    """The annotations of tracks: labels and counts follow distance, class and speed."""
    distance = np.linalg.norm(tracks.xy_m - ego_xy_m, axis=-1)
    visibility = _visibility(distance, rng)
    width, length, height = np.moveaxis(tracks.size_m, -1, 0)[..., None]
    shown = np.array([0.0, 0.15, 0.45, 0.7, 1.0])[visibility]
    face = 4_500 * shown * (width + length) / 2 * height / np.maximum(distance, 3) ** 2
    lidar = rng.poisson(face * rng.gamma(1.5, 0.6, face.shape))
    metal = np.isin(_KIND[tracks.category], ("vehicle", "cycle"))[:, None]
    radar = rng.poisson(np.where(metal, 25 * length / np.maximum(distance, 8), 0.05) * shown / 2)
    center_z = np.broadcast_to(height / 2 + rng.normal(0, 0.15, height.shape), distance.shape)
    speed = np.linalg.norm(np.gradient(tracks.xy_m, time_s, axis=1), axis=-1)
    frame, row = np.nonzero(tracks.present.T)
    attribute = _attributes(tracks, speed)
    return Boxes(
        keyframe=frame,
        track=row,
        center_m=np.round(np.dstack([tracks.xy_m, center_z])[row, frame], 3),
        yaw_rad=tracks.yaw_rad[row, frame],
        visibility=visibility[row, frame],
        attribute=attribute[row, frame].tolist(),
        num_lidar_pts=lidar[row, frame],
        num_radar_pts=radar[row, frame],
        category=[CATEGORIES[c].name for c in tracks.category],
        size_m=tracks.size_m,
    )


def _visibility(distance_m: FloatArray, rng: np.random.Generator) -> IntArray:
    """(M, K) levels 1 to 4: steady along a track, lower far away."""
    count, frames = distance_m.shape
    score = rng.normal(0, 1, (count, 1)) + rng.normal(0, 0.25, (count, frames))
    return 1 + np.digitize(score - (distance_m - 30) / 60, [-0.9, -0.55, -0.3])


def _attributes(tracks: _Tracks, speed_mps: FloatArray) -> npt.NDArray[np.str_]:
    """(M, K) attribute names that fit the class and what it does."""
    kind = _KIND[tracks.category][:, None]
    active, moving = tracks.active[:, None], speed_mps > 0.4
    sitting = np.arange(len(kind))[:, None] % 6 == 0
    choices = [
        ((kind == "vehicle") & active & moving, "vehicle.moving"),
        ((kind == "vehicle") & active, "vehicle.stopped"),
        (kind == "vehicle", "vehicle.parked"),
        ((kind == "cycle") & active, "cycle.with_rider"),
        (kind == "cycle", "cycle.without_rider"),
        ((kind == "human") & active & moving, "pedestrian.moving"),
        ((kind == "human") & ~active & sitting, "pedestrian.sitting_lying_down"),
        (kind == "human", "pedestrian.standing"),
    ]
    conditions = [np.broadcast_to(condition, speed_mps.shape) for condition, _ in choices]
    return np.select(conditions, [name for _, name in choices], "")
