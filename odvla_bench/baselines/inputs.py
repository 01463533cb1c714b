"""What a planner may see of a keyframe. It cannot hold a recorded future."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.nuscenes.ego import COMMANDS
from odvla_bench.datasets.nuscenes.tables import list_column
from odvla_bench.datasets.reader import Build

_XY = ("x", "y")
INPUT_COLUMNS = (
    "sample_token",
    "scene_name",
    "command",
    *(f"history_{c}_m" for c in _XY),
    "history_valid",
    *(f"velocity_{c}_mps" for c in _XY),
    "velocity_valid",
    *(f"acceleration_{c}_mps2" for c in _XY),
    "acceleration_valid",
    "yaw_rate_radps",
    "can_speed_mps",
    *(f"can_acceleration_{c}_mps2" for c in _XY),
    "can_yaw_rate_radps",
    "steering_rad",
    "can_valid",
)
"""All columns of the planning table that inputs are made from; none holds ground truth but
`command`, which every planner of this benchmark is given and which is computed from the future."""


@dataclass(frozen=True)
class ModelInput:
    """Inputs of N keyframes. LIDAR frame at t0 unless said otherwise; metres and seconds."""

    sample_token: list[str]
    history_m: npt.NDArray[np.float64]
    """(N, 4, 2) positions at -2.0 … -0.5 s; missing ones repeat the oldest recorded."""
    history_valid: npt.NDArray[np.bool_]
    """(N, 4)"""
    velocity_mps: npt.NDArray[np.float64]
    """(N, 2)"""
    velocity_valid: npt.NDArray[np.bool_]
    """(N,)"""
    acceleration_mps2: npt.NDArray[np.float64]
    """(N, 2)"""
    acceleration_valid: npt.NDArray[np.bool_]
    """(N,)"""
    yaw_rate_radps: npt.NDArray[np.float64]
    """(N,) counter-clockwise"""
    can_bus: npt.NDArray[np.float64]
    """(N, 5) speed, acceleration forward and left (EGO), yaw rate, steering wheel angle."""
    can_valid: npt.NDArray[np.bool_]
    """(N,)"""
    command: npt.NDArray[np.int64]
    """(N,) indices into `COMMANDS`."""

    @property
    def best_velocity_mps(self) -> npt.NDArray[np.float64]:
        """(N, 2) velocity; forward at CAN speed where no past step exists, else 0."""
        forward = np.where(self.can_valid & ~self.velocity_valid, self.can_bus[:, 0], 0.0)
        stand_in = np.stack([np.zeros_like(forward), forward], -1)
        return np.where(self.velocity_valid[:, None], self.velocity_mps, stand_in)

    @property
    def best_yaw_rate_radps(self) -> npt.NDArray[np.float64]:
        """(N,) yaw rate; that of the CAN bus where no past step exists, else 0."""
        stand_in = np.where(self.can_valid, self.can_bus[:, 3], 0.0)
        return np.where(self.velocity_valid, self.yaw_rate_radps, stand_in)


def read_inputs(build: Build, split: str) -> ModelInput:
    """The inputs of a split's keyframes, in the build's order; no other column is read."""
    rows = build.table("planning", split, INPUT_COLUMNS)
    commands = np.array(rows["command"].to_pylist(), dtype=object)
    return ModelInput(
        rows["sample_token"].to_pylist(),
        np.stack([list_column(rows, f"history_{c}_m") for c in _XY], -1),
        list_column(rows, "history_valid").astype(bool),
        _columns(rows, "velocity_x_mps", "velocity_y_mps"),
        rows["velocity_valid"].to_numpy(),
        _columns(rows, "acceleration_x_mps2", "acceleration_y_mps2"),
        rows["acceleration_valid"].to_numpy(),
        rows["yaw_rate_radps"].to_numpy().astype(np.float64),
        _columns(rows, "can_speed_mps", *INPUT_COLUMNS[-5:-1]),
        rows["can_valid"].to_numpy(),
        np.argmax(commands[:, None] == np.array(COMMANDS, dtype=object), axis=1),
    )


def _columns(rows: pa.Table, *names: str) -> npt.NDArray[np.float64]:
    return np.stack([rows[name].to_numpy().astype(np.float64) for name in names], -1)
