from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = (
    "odvla_bench.baselines.opendrivevla.features",
    "odvla_bench.baselines.opendrivevla.annotation_tokens",
    "odvla_bench.baselines.opendrivevla.perception.config",
    "odvla_bench.baselines.opendrivevla.perception.inputs",
    "odvla_bench.cli.extract_features",
)


@pytest.mark.parametrize("module", LIGHT)
def test_no_torch_is_imported(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
