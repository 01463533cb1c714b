"""Road users around the ego car: tracks that drive, stop, park, walk and stand, as boxes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.datasets.nuscenes.synthetic.catalogue import CATEGORIES
from odvla_bench.datasets.nuscenes.synthetic.ego import EgoDrive
from odvla_bench.datasets.nuscenes.synthetic.records import BoolArray, Boxes, IntArray
from odvla_bench.datasets.nuscenes.synthetic.tracks import KIND, Tracks, candidates
from odvla_bench.geometry import FloatArray

EGO_SIZE_M = (1.85, 4.084)
"""Width and length of the recording car, a Renault Zoe."""
EGO_CENTER_AHEAD_M = 1.39
"""From the rear axle, EGO's origin, to the middle of the car."""

_MEAN_TRACK_KEYFRAMES = 16
_CLEARANCE_M = 0.4


class AgentOptions(NamedTuple):
    """How many road users there are, and how their tracks break."""

    per_keyframe: float = 34.2
    """Mean boxes a keyframe."""
    cut_share: float = 0.4
    """Share of tracks that appear or vanish in the middle of the view."""
    gap_share: float = 0.0
    """Share of tracks that lack a box or two between their first and last."""


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
    tracks = candidates(drive, time_s, rng, count)
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


def _seen(
    tracks: Tracks, ego_xy_m: FloatArray, rng: np.random.Generator, cut_share: float
) -> BoolArray:
    """(M, K) the longest run of keyframes in which each track is near enough, some cut short."""
    count, frames = tracks.present.shape
    reach_m = rng.uniform(25, 78, (count, 1))
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


def _compatible(tracks: Tracks, target: float) -> IntArray:
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
    tracks: Tracks, ego_xy_m: FloatArray, time_s: FloatArray, rng: np.random.Generator
) -> Boxes:
    """The annotations of tracks: labels and counts follow distance, class and speed."""
    distance = np.linalg.norm(tracks.xy_m - ego_xy_m, axis=-1)
    visibility = _visibility(distance, rng)
    width, length, height = np.moveaxis(tracks.size_m, -1, 0)[..., None]
    shown = np.array([0.0, 0.15, 0.45, 0.7, 1.0])[visibility]
    face = 4_500 * shown * (width + length) / 2 * height / np.maximum(distance, 3) ** 2
    lidar = rng.poisson(face * rng.gamma(1.5, 0.6, face.shape))
    metal = np.isin(KIND[tracks.category], ("vehicle", "cycle"))[:, None]
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


def _attributes(tracks: Tracks, speed_mps: FloatArray) -> npt.NDArray[np.str_]:
    """(M, K) attribute names that fit the class and what it does."""
    kind = KIND[tracks.category][:, None]
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
