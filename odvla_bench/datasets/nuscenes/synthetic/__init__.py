"""Seeded, schema-faithful nuScenes trees of any size, for demos, tests and benchmarks."""

from odvla_bench.datasets.nuscenes.synthetic.agents import AgentOptions
from odvla_bench.datasets.nuscenes.synthetic.generate import (
    SyntheticConfig,
    SyntheticSummary,
    write_nuscenes,
)

__all__ = ["AgentOptions", "SyntheticConfig", "SyntheticSummary", "write_nuscenes"]
