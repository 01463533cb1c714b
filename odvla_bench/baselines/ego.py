"""Planners that see the ego state and nothing else. The floor that a learned model must beat."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from odvla_bench.baselines.inputs import ModelInput
from odvla_bench.registry import Registry

TIMES_S = np.arange(1, 7) * 0.5

Waypoints = npt.NDArray[np.float64]
"""(N, 6, 2) positions at 0.5 … 3.0 s, LIDAR frame at t0, metres."""


class Planner(Protocol):
    """Anything that turns inputs into plans."""

    def __call__(self, inputs: ModelInput) -> Waypoints:
        """(N, 6, 2) positions at 0.5 … 3.0 s, LIDAR frame at t0, metres."""


def stationary(inputs: ModelInput) -> Waypoints:
    """Stand still."""
    return np.zeros((len(inputs.sample_token), len(TIMES_S), 2))


def constant_velocity(inputs: ModelInput) -> Waypoints:
    """Go on with the velocity of the last half second."""
    return inputs.best_velocity_mps[:, None] * TIMES_S[:, None]


def constant_turn_rate(inputs: ModelInput) -> Waypoints:
    """Go on with speed and yaw rate: an arc that leaves along the present velocity.

    The velocity vector turns with the yaw rate w; its integral over t is the velocity applied to
    sin(wt)/w and (1 - cos(wt))/w, which tend to t and 0.
    """
    velocity, rate = inputs.best_velocity_mps, inputs.best_yaw_rate_radps
    half = rate[:, None] * TIMES_S / 2
    chord = TIMES_S * np.sinc(half / np.pi)
    along, left = chord * np.cos(half), chord * np.sin(half)
    vx, vy = velocity[:, :1], velocity[:, 1:]
    return np.stack([vx * along - vy * left, vy * along + vx * left], -1)


PLANNERS: Registry[Planner] = Registry(
    "planner",
    {
        "stationary": stationary,
        "constant-velocity": constant_velocity,
        "constant-turn-rate": constant_turn_rate,
    },
)
"""Planners without parameters."""
