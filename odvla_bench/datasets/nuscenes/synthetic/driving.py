"""Drives along a path: when the car is where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.town import STEP_M, Path
from odvla_bench.geometry import FloatArray

_SIDE_ACCEL_MPS2 = 2.0
_SMOOTHING_S = 1.0


class Timetable(NamedTuple):
    """When a drive is where: arc positions over a fine grid of times."""

    time_s: FloatArray
    s_m: FloatArray

    def at(self, time_s: FloatArray) -> FloatArray:
        """Arc positions at times, metres; outside the grid the ends hold."""
        return np.interp(time_s, self.time_s, self.s_m)


def timetable(
    path: Path,
    rng: np.random.Generator,
    *,
    cruise_mps: float,
    stop_chance: float,
    anchor_m: float,
    wait_at_anchor_s: float = 0.0,
    accel_mps2: float = 1.5,
    brake_mps2: float = 2.5,
) -> Timetable:
    """A drive along a path that slows for bends, stops at some crossings, and varies its speed.

    Squared speed under a constant acceleration is linear in arc length, so both limits are a
    running minimum of the allowed squared speed with a slope.

    Args:
        path: where it goes.
        rng: decides stops, their length and the speed's variation.
        cruise_mps: mean speed on a free straight.
        stop_chance: of a stop before each crossing, 0 to 1.
        anchor_m: arc position at time 0, metres; `wait_at_anchor_s` the stand that begins there.
        wait_at_anchor_s: seconds; 0 for none.
        accel_mps2: greatest speeding up.
        brake_mps2: greatest slowing down.
    """
    s = np.arange(len(path.xy_m)) * STEP_M
    knots = np.arange(0, s[-1] + 50, 50)
    wish = np.interp(s, knots, cruise_mps * rng.uniform(0.7, 1.3, len(knots)))
    allowed = np.minimum(wish**2, _SIDE_ACCEL_MPS2 / (np.abs(path.curvature) + 1e-3))
    halts = {int(i): rng.uniform(1.0, 8.0) for i in path.stops if rng.random() < stop_chance}
    if wait_at_anchor_s:
        halts[int(anchor_m / STEP_M)] = wait_at_anchor_s
    allowed[list(halts)] = 0.0
    allowed = np.minimum.accumulate(allowed - 2 * accel_mps2 * s) + 2 * accel_mps2 * s
    allowed = (np.minimum.accumulate((allowed + 2 * brake_mps2 * s)[::-1]))[
        ::-1
    ] - 2 * brake_mps2 * s
    speed = np.sqrt(np.maximum(allowed, 0.0))
    time = np.concatenate([[0.0], np.cumsum(2 * STEP_M / (speed[1:] + speed[:-1] + 1e-6))])
    for index, wait_s in sorted(halts.items(), reverse=True):
        time[index + 1 :] += wait_s
        time, s = (
            np.insert(time, index + 1, time[index] + wait_s),
            np.insert(s, index + 1, s[index]),
        )
    return _smoothed(time - time[np.searchsorted(s, anchor_m)], s)


def _smoothed(time_s: FloatArray, s_m: FloatArray) -> Timetable:
    """The drive with its speed averaged over about a second, as jerk is finite."""
    grid = np.arange(time_s[0], time_s[-1], 0.02)
    s = np.interp(grid, time_s, s_m)
    width = int(_SMOOTHING_S / 0.02 / 2)
    for _ in range(2):
        sums = np.concatenate([[0.0], np.cumsum(s)])
        s = (sums[width:] - sums[:-width]) / width
        grid = grid[width // 2 : width // 2 + len(s)]
    return Timetable(grid, s)


def path_at(path: Path, s_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Plan points (..., 2) and unit directions (..., 2) at arc positions, metres."""
    s = np.arange(len(path.xy_m)) * STEP_M
    xy = np.stack([np.interp(s_m, s, path.xy_m[:, k]) for k in (0, 1)], -1)
    heading = np.stack([np.interp(s_m, s, path.heading[:, k]) for k in (0, 1)], -1)
    return xy, heading / np.linalg.norm(heading, axis=-1, keepdims=True)
