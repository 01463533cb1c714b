"""The processes and devices of a training run, by accelerate."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin

from odvla_bench.baselines.opendrivevla.tokens import IMAGES
from odvla_bench.baselines.training.config import TrainConfig
from odvla_bench.errors import MissingDependencyError


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Precision, sharding and trackers as the settings want them; makes the run's folder.

    Raises:
        MissingDependencyError: a tracker is not installed.
    """
    on_cuda = torch.cuda.is_available()
    auto = "bf16" if on_cuda else "no"
    precision = auto if config.precision == "auto" else config.precision
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    plugin = None
    if config.fsdp and several:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["Qwen2DecoderLayer"],
            cpu_ram_efficient_loading=False,
        )
    for tracker in config.track:
        if importlib.util.find_spec(tracker) is None:
            raise MissingDependencyError(tracker, extra="track", purpose=f"--set track={tracker}")
    Path(config.out).mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state()  # else all runs of a process have the first one's precision
    # The planning loss does not reach what only places boxes, nor queries in an empty street.
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.tokens == IMAGES)
    accelerator = Accelerator(
        cpu=not on_cuda,  # else processes on CPUs do not find each other
        mixed_precision=precision,
        fsdp_plugin=plugin,
        kwargs_handlers=[unused],
        log_with=list(config.track) or None,
        project_dir=config.out,
    )
    if config.track:
        settings = {name: str(value) for name, value in dataclasses.asdict(config).items()}
        accelerator.init_trackers("odvla-bench", config=settings)
    return accelerator
