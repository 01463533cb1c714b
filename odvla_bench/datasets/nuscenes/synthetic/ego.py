"""The ego car's drive through a synthetic town."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.driving import Timetable, path_at, timetable
from odvla_bench.datasets.nuscenes.synthetic.records import EgoPoses, quaternion_wxyz
from odvla_bench.datasets.nuscenes.synthetic.town import (
    LANES,
    Path,
    Town,
    random_path,
)
from odvla_bench.geometry import FloatArray

_STAND_SHARE = 0.06
_ANCHOR_M = 45.0
_SWAY_RAD = 0.008


@dataclass(frozen=True)
class EgoDrive:
    """Where the ego car is at any time; time 0 is the first keyframe's, seconds."""

    streets: Town
    path: Path
    timetable: Timetable
    sway_phase_rad: FloatArray
    """(2,) phases of the pitch's and the roll's swing."""

    def plan_at(self, time_s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(N, 2) plan positions and (N, 2) unit directions at (N,) times."""
        return path_at(self.path, self.timetable.at(time_s))

    def poses_at(self, time_s: FloatArray) -> EgoPoses:
        """The poses at (N,) times: on the ground z = 0, with a little pitch and roll."""
        xy, heading = self.plan_at(time_s)
        yaw = self.streets.yaw_at(xy, heading)
        position = self.streets.to_global(xy)
        pitch = _SWAY_RAD * np.sin(time_s * 1.7 + self.sway_phase_rad[0])
        roll = _SWAY_RAD * np.sin(time_s * 1.1 + self.sway_phase_rad[1])
        translation = np.concatenate([position, np.zeros((len(position), 1))], -1)
        return EgoPoses(translation, quaternion_wxyz(yaw, pitch, roll))

    def center_at(self, time_s: FloatArray, ahead_m: float) -> tuple[FloatArray, FloatArray]:
        """(N, 2) GLOBAL points `ahead_m` of the rear axle and (N,) GLOBAL yaws."""
        xy, heading = self.plan_at(time_s)
        yaw = self.streets.yaw_at(xy, heading)
        forward = np.stack([np.cos(yaw), np.sin(yaw)], -1)
        return self.streets.to_global(xy) + ahead_m * forward, yaw


def random_drive(streets: Town, rng: np.random.Generator, duration_s: float) -> EgoDrive:
    """A drive of at least `duration_s` from time 0 on, and some seconds before it."""
    blocks = len(streets.streets_x_m)
    node = (int(rng.integers(1, blocks - 1)), int(rng.integers(1, blocks - 1)))
    cruise_mps = rng.uniform(4.5, 11.0)
    path = random_path(
        streets,
        rng,
        node=node,
        heading=int(rng.integers(4)),
        lane=int(rng.integers(LANES)),
        length_m=150 + 1.3 * cruise_mps * duration_s,
        start_m=rng.uniform(14, 60),
    )
    stands = rng.random() < _STAND_SHARE
    times = timetable(
        path,
        rng,
        cruise_mps=cruise_mps,
        stop_chance=0.4,
        anchor_m=_ANCHOR_M,
        wait_at_anchor_s=rng.uniform(3, 2 * duration_s) if stands else 0.0,
    )
    return EgoDrive(streets, path, times, rng.uniform(0, 2 * np.pi, 2))
