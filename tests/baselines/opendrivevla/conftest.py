from __future__ import annotations

import pytest
import torch

from odvla_bench.baselines.opendrivevla.tiny import tiny_model


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def loaded():
    """A tiny model of its own for each test."""
    return tiny_model(hidden_size=64, layers=2)


@pytest.fixture
def features():
    """Random features for slots of each kind."""

    def make(scene=0, track=0, map=0, object=0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        sizes = {"scene": scene, "track": track, "map": map, "object": object}
        return {
            f"{name}_features": torch.randn(n, 256, generator=generator)
            for name, n in sizes.items()
        }

    return make
