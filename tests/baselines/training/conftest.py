from __future__ import annotations

import numpy as np
import pytest
import torch

from odvla_bench.baselines.opendrivevla.features import KeyframeFeatures
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.training.config import make_config


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


class RandomTokens:
    """Three agents and two map elements a keyframe, random but the same each time."""

    fingerprint = signature = "random"

    def __getitem__(self, sample_token):
        rng = np.random.default_rng(list(sample_token.encode()))
        scene, agents, elements = (rng.normal(size=(n, 256)).astype(np.float32) for n in (90, 3, 2))
        n = np.arange(3)
        return KeyframeFeatures(
            scene, agents, elements, n, n, np.zeros((3, 9), np.float32), np.ones(3, np.float32), n
        )


@pytest.fixture(scope="session")
def tokens():
    return RandomTokens()


@pytest.fixture
def tiny():
    return tiny_model(hidden_size=64, layers=2)


@pytest.fixture
def config(build_dir, tmp_path):
    """Settings of a short stage-3 run on text alone, in float32."""

    def make(**changes):
        settings = {
            "stage": "3",
            "model": "tiny",
            "data": str(build_dir),
            "out": str(tmp_path / "run"),
            "split": "mini_train",
            "validation_limit": 0,
            "inputs": "ego,history,command",
            "pack_length": 800,
            "precision": "no",
            "learning_rate": 1e-3,
            "max_steps": 4,
            "log_every": 1,
            "limit": 12,
        }
        return make_config(**(settings | changes))

    return make
