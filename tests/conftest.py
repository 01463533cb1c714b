"""Where the tests' outside data lies, and what is skipped without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ODVLA_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(
            f"{path} is absent; set ODVLA_SHARED to the folder that holds golden/ and data/"
        )
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the original implementations."""
    return _folder(SHARED / "golden")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Small excerpts of real data."""
    return _folder(Path(os.environ.get("ODVLA_REAL_DATA", SHARED / "data")))
