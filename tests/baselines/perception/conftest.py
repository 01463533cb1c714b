from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from perception_goldens import Load
from safetensors.torch import load_file
from torch import Tensor


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def load(golden: Path) -> Load:
    """Tensors of one golden file, bfloat16 widened."""

    def read(name: str) -> dict[str, Tensor]:
        tensors = load_file(golden / "perception" / f"{name}.safetensors")
        return {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in tensors.items()}

    return read
