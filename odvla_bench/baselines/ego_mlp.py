"""`ego-mlp`: a small network on the ego state, trained in seconds on a build.

It sees what AD-MLP sees (past positions, velocity, acceleration, yaw rate, CAN bus, command) and
no image, and so measures how far the status of the ego alone carries on this benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from odvla_bench.baselines.ego import Waypoints, constant_turn_rate
from odvla_bench.baselines.inputs import ModelInput, read_inputs
from odvla_bench.baselines.threads import at_most_threads
from odvla_bench.datasets.nuscenes.ego import COMMANDS
from odvla_bench.datasets.nuscenes.tables import list_column
from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError, MissingDependencyError


@dataclass(frozen=True)
class EgoMlpConfig:
    """How the network is made and trained."""

    hidden: int = 256
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0
    use_command: bool = True
    """Whether the driving command, which is computed from the future, is an input."""


class EgoMlp:
    """A trained network; called like every planner. It corrects the constant-turn-rate plan."""

    def __init__(self, build: Build, split: str, config: EgoMlpConfig | None = None) -> None:
        """Train on the keyframes of a split.

        Raises:
            MissingDependencyError: torch is not installed.
            InputError: the split has no keyframe with a future.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError("torch", extra="train", purpose="ego-mlp") from error
        self._config = config or EgoMlpConfig()
        inputs = read_inputs(build, split)
        future, valid = _targets(build, split)
        if not valid.any():
            raise InputError(f"{build.path}: no keyframe of split {split!r} has a future to learn.")
        features = self._features(inputs)
        self._mean, self._std = features.mean(0), features.std(0) + 1e-3
        target = (future - constant_turn_rate(inputs)) * valid[..., None]
        with torch.random.fork_rng(devices=[]), at_most_threads(1):
            torch.manual_seed(self._config.seed)
            self._network = self._fit(self._normal(features), target, valid)

    def __call__(self, inputs: ModelInput) -> Waypoints:
        """(N, 6, 2) plans, LIDAR frame at t0, metres."""
        import torch

        with torch.inference_mode():
            x = torch.as_tensor(self._normal(self._features(inputs)), dtype=torch.float32)
            correction = self._network(x).double().numpy()
        return constant_turn_rate(inputs) + correction.reshape(-1, 6, 2)

    def _features(self, inputs: ModelInput) -> npt.NDArray[np.float64]:
        """(N, F) numbers and validity flags; what is not valid is 0."""
        n = len(inputs.sample_token)
        flags = (inputs.velocity_valid, inputs.acceleration_valid, inputs.can_valid)
        parts = [
            inputs.history_m.reshape(n, -1),
            inputs.history_valid,
            inputs.velocity_mps,
            inputs.acceleration_mps2,
            inputs.yaw_rate_radps[:, None],
            inputs.can_bus,
            *(flag[:, None] for flag in flags),
        ]
        if self._config.use_command:
            parts.append(np.eye(len(COMMANDS))[inputs.command])
        return np.concatenate([np.asarray(part, np.float64) for part in parts], 1)

    def _normal(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (features - self._mean) / self._std

    def _fit(  # type: ignore[no-untyped-def]
        self,
        features: npt.NDArray[np.float64],
        target: npt.NDArray[np.float64],
        valid: npt.NDArray[np.bool_],
    ):
        """Adam on the mean displacement over recorded steps, one-cycle learning rate."""
        import torch
        from torch import nn

        c = self._config
        x, y, m = (torch.as_tensor(a, dtype=torch.float32) for a in (features, target, valid))
        last = nn.Linear(c.hidden, 12)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = (
            nn.Linear(x.shape[1], c.hidden),
            nn.ReLU(),
            nn.Linear(c.hidden, c.hidden),
            nn.ReLU(),
        )
        network = nn.Sequential(*first, last)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, c.learning_rate, total_steps=c.steps
        )
        for rows in _batches(len(x), c.batch_size, c.steps):
            error = network(x[rows]).reshape(-1, 6, 2) - y[rows]
            distance = (error.square().sum(-1) + 1e-6).sqrt() * m[rows]
            loss = distance.sum() / m[rows].sum().clamp(min=1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return network.eval()


def _batches(n: int, size: int, count: int) -> Iterator[Any]:
    """`count` batches of rows: shuffled passes over all of them, one after the other."""
    import torch

    while count > 0:
        for rows in torch.split(torch.randperm(n), size)[:count]:
            yield rows
            count -= 1


def _targets(build: Build, split: str) -> tuple[Waypoints, npt.NDArray[np.bool_]]:
    """(N, 6, 2) recorded futures and (N, 6) validity of a split."""
    rows = build.table("planning", split, ("future_x_m", "future_y_m", "future_valid"))
    xy = np.stack([list_column(rows, f"future_{c}_m") for c in ("x", "y")], -1)
    return xy.astype(np.float64), list_column(rows, "future_valid").astype(bool)
