"""Seeded, schema-faithful nuScenes trees of any size, for demos, tests and benchmarks."""

from odvla_bench.datasets.nuscenes.synthetic.agents import AgentOptions
from odvla_bench.datasets.nuscenes.synthetic.generate import (
    SyntheticConfig,
    SyntheticSummary,
    scene_records,
    write_nuscenes,
)

__all__ = ["AgentOptions", "SyntheticConfig", "SyntheticSummary", "scene_records", "write_nuscenes"]
