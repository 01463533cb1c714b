"""One stage from settings to a finished model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from odvla_bench.baselines.opendrivevla.checkpoint import Loaded, open_model, with_codec_tokens
from odvla_bench.baselines.opendrivevla.conversations import read_conversations
from odvla_bench.baselines.opendrivevla.prompting import Prompting, make_prompting
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.opendrivevla.tokens import IMAGES, TokenSource, open_source
from odvla_bench.baselines.training.attention import SHARING, pick_implementation
from odvla_bench.baselines.training.checkpoints import checkpoints
from odvla_bench.baselines.training.clips import ClipData
from odvla_bench.baselines.training.config import TrainConfig
from odvla_bench.baselines.training.data import TrainingData
from odvla_bench.baselines.training.images import check_stored_tokens, open_images
from odvla_bench.baselines.training.trainer import Prepared, Report, Trainer, Validate, check_out
from odvla_bench.baselines.training.validation import Validator
from odvla_bench.datasets.reader import open_build
from odvla_bench.provenance import digest_text

TINY = "tiny"
CONFIG = "config.json"
"""The settings of a run, in its folder."""


def train(
    config: TrainConfig, *, source: TokenSource | None = None, report: Report | None = None
) -> Path:
    """Train one stage; returns the folder of the finished model. See `open_run`."""
    return open_run(config, source=source, report=report).run()


def open_run(
    config: TrainConfig, *, source: TokenSource | None = None, report: Report | None = None
) -> Trainer:
    """A run that is ready to start, or to go on from its last checkpoint.

    Args:
        config: the settings.
        source: visual tokens; by default those of `config.tokens`.
        report: told of every log line, on the first process.

    Raises:
        InputError: the folder holds a finished or another run.
    """
    check_out(Path(config.out))
    trainer = Trainer(prepare(config, source), report)
    if trainer.is_main:
        config.save(Path(config.out) / CONFIG)
    return trainer


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
        system_file=config.system_file,
    )
    with torch.random.fork_rng(devices=[]):  # else weights would depend on what ran before
        torch.manual_seed(config.seed)
        loaded = _model(config, prompting)
    clips = None
    if prompting.visual and config.tokens == IMAGES:
        clips, source = open_images(config, build, loaded)
    else:
        source = open_source(config.tokens, build, visual=prompting.visual, source=source)
        check_stored_tokens(config, loaded)
    conversations = read_conversations(
        build, config.stage, config.split, prompting, answers=True, limit=config.limit
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    implementation = pick_implementation(device, config.attention)
    common = (conversations, loaded.processor, prompting.profile.system)
    data: TrainingData
    if clips is not None:
        data = ClipData(*common, clips, pack_length=config.pack_length, seed=config.seed)
    else:
        data = TrainingData(
            *common,
            source,
            pack_length=config.pack_length,
            rows_per_prefix=config.rows_per_prefix if implementation in SHARING else 1,
            fill=config.compile,
            seed=config.seed,
        )
    fingerprint = digest_text(
        build.fingerprint, source.fingerprint if source else "", prompting.profile.digest
    )
    validate: Validate | None = None
    if config.validation_limit:
        held_out = read_conversations(
            build,
            config.stage,
            config.validation_split,
            prompting,
            answers=True,
            limit=config.validation_limit,
            spread=True,
        )
        validator = partial(
            Validator,
            held_out,
            loaded,
            prompting,
            source,
            stage=config.stage,
            pack_length=config.pack_length,
        )
        # Live tokens are made where the model is, so not before it is on its device.
        validate = (lambda: validator()()) if clips is not None else validator()
    return Prepared(config, loaded, data, fingerprint, validate)


def _model(config: TrainConfig, prompting: Prompting) -> Loaded:
    """The model to go on with: that of the last checkpoint, else that to start from."""
    found = checkpoints(Path(config.out))
    if found:
        loaded = open_model(str(found[-1]))
    elif config.model == TINY:
        loaded = tiny_model(config.seed, profile=prompting.profile.name)
    else:
        loaded = open_model(config.model)
    with_codec_tokens(loaded, prompting.codec())
    loaded.processor.prompt_profile = prompting.profile.name
    settings: dict[str, Any] = {
        "prompt_profile": prompting.profile.name,
        "prompt_inputs": list(prompting.inputs),
        "waypoint_codec": prompting.codec_name,
    }
    loaded.model.config.update(settings)
    return loaded
