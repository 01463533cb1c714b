"""Where the tests' outside data lies, and what is skipped without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.nuscenes.synthetic import SyntheticConfig, write_nuscenes
from odvla_bench.provenance import default_cache_dir

settings.register_profile("any machine", deadline=None)  # a slow one may take its time
settings.load_profile("any machine")

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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache."""
    os.environ["ODVLA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nuScenes root of three scenes (two train, one val), one more listed without samples."""
    root = tmp_path_factory.mktemp("nuscenes")
    config = SyntheticConfig(n_scenes=3, empty_scenes=1, keyframes=14, sweeps=False, maps=False)
    write_nuscenes(root, config)
    return root


@pytest.fixture(scope="session")
def build_dir(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planning build of `synthetic_root`."""
    out = tmp_path_factory.mktemp("build")
    build(BuildRequest(synthetic_root, "v1.0-mini", default_cache_dir()), out)
    return out
