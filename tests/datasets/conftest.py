"""One synthetic build of all sources that the tests of reading and exporting share."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories.builds import MINI, make_build

from odvla_bench.datasets.nuscenes.synthetic import AgentOptions, SyntheticConfig, write_nuscenes
from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files


@pytest.fixture(scope="session")
def synthetic_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of four short scenes, two of them in official val, with language files beside."""
    root = tmp_path_factory.mktemp("synthetic")
    options = AgentOptions(per_keyframe=5)
    config = SyntheticConfig(n_scenes=4, keyframes=9, sweeps=False, maps=False, agents=options)
    write_nuscenes(root, config)
    write_language_files(root / "language", root, MINI, LanguageConfig(), cache_dir=root / "cache")
    return root


@pytest.fixture(scope="session")
def synthetic_build(synthetic_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """All sources of that tree."""
    out = tmp_path_factory.mktemp("build") / "all"
    return make_build(synthetic_tree, out, language=synthetic_tree / "language", version=MINI)
