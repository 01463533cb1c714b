"""Run every benchmark and print its table."""

from __future__ import annotations

import runpy
import sys

MODULES = (
    "data",
    "planning_metrics",
    "predictions",
    "maps",
    "instructions",
    "text_metrics",
    "perception",
    "training",
)

for name in MODULES:
    print(f"\n## {name}\n", flush=True)
    sys.argv = [f"benchmarks/{name}.py"]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
