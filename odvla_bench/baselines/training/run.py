"""One stage from settings to a finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from odvla_bench.baselines.opendrivevla.checkpoint import Loaded, open_model
from odvla_bench.baselines.opendrivevla.prompting import (
    Prompting,
    make_prompting,
    planning_instructions,
    require_rows,
)
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.opendrivevla.tokens import TokenSource
from odvla_bench.baselines.training.attention import SHARING, pick_implementation
from odvla_bench.baselines.training.checkpoints import checkpoints
from odvla_bench.baselines.training.config import TrainConfig
from odvla_bench.baselines.training.data import TrainingData
from odvla_bench.baselines.training.stages import get_stage
from odvla_bench.baselines.training.trainer import Prepared, Report, Trainer, check_out
from odvla_bench.datasets.reader import Build, open_build
from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_text

TINY = "tiny"


def train(
    config: TrainConfig, *, source: TokenSource | None = None, report: Report | None = None
) -> Path:
    """Train one stage; started again after a stop, it goes on from the last checkpoint.

    Args:
        config: the settings.
        source: visual tokens; by default those of `config.tokens`.
        report: told of every log line, on the first process.

    Returns:
        The folder of the finished model.
    """
    check_out(Path(config.out))
    trainer = Trainer(prepare(config, source), report)
    config.save(Path(config.out) / "config.json")
    return trainer.run()


def prepare(config: TrainConfig, source: TokenSource | None = None) -> Prepared:
    """Open everything that a run needs.

    Raises:
        InputError: no visual tokens for prompts that show them, or nothing to train on.
        FormatError: a build of another format version.
    """
    import torch

    build = open_build(config.data)
    prompting = make_prompting(
        config.prompt_profile,
        inputs=config.inputs,
        codec=config.waypoint_codec,
        system_file=Path(config.system_file) if config.system_file else None,
    )
    source = open_source(config.tokens, prompting, source)
    loaded = _model(config, prompting)
    conversations = read_conversations(build, config, prompting, config.split, config.limit)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    implementation = pick_implementation(device, config.attention)
    data = TrainingData(
        conversations,
        loaded.processor,
        prompting.system,
        source,
        pack_length=config.pack_length,
        rows_per_prefix=config.rows_per_prefix if implementation in SHARING else 1,
        fill=config.compile,
        seed=config.seed,
    )
    fingerprint = digest_text(
        build.fingerprint, source.fingerprint if source else "", prompting.profile.digest
    )
    return Prepared(config, loaded, data, fingerprint)


def open_source(
    tokens: str, prompting: Prompting, source: TokenSource | None = None
) -> TokenSource | None:
    """The visual tokens that prompts need; None where they show none.

    Raises:
        InputError: they need some and none are given.
    """
    if not prompting.visual:
        return None
    if source is not None:
        return source
    if not tokens:
        raise InputError(
            "The prompts show visual tokens: name a feature store with --tokens, or leave `visual` "
            "out of --inputs for a text-only model."
        )
    from odvla_bench.baselines.opendrivevla.features import FeatureStore

    return FeatureStore(Path(tokens))


def read_conversations(
    build: Build, config: TrainConfig, prompting: Prompting, split: str, limit: int
) -> pa.Table:
    """The conversations of a stage, as rows of `INSTRUCTIONS`.

    Raises:
        InputError: the build has none.
    """
    stage = get_stage(config.stage)
    if stage.table == "planning":
        rows = planning_instructions(build, split, prompting, answers=True, limit=limit)
    else:
        raise InputError(f"Stage {stage.name} needs the table {stage.table!r}.")
    require_rows(rows, f"rows of {stage.table!r} in split {split!r} of {build.path}")
    return rows


def _model(config: TrainConfig, prompting: Prompting) -> Loaded:
    """The model to go on with: that of the last checkpoint, else that to start from."""
    found = checkpoints(Path(config.out))
    if found:
        loaded = open_model(str(found[-1]))
    elif config.model == TINY:
        loaded = tiny_model(config.seed, profile=prompting.profile.name)
    else:
        loaded = open_model(config.model)
    loaded.processor.prompt_profile = prompting.profile.name
    settings: dict[str, Any] = {
        "prompt_profile": prompting.profile.name,
        "prompt_inputs": list(prompting.inputs),
        "waypoint_codec": prompting.codec,
    }
    loaded.model.config.update(settings)
    return loaded

