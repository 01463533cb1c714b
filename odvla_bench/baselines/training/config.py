"""The settings of a training run: defaults, a file, and `key=value` on top."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from odvla_bench.baselines.opendrivevla.perception.config import EncoderGradients
from odvla_bench.baselines.opendrivevla.prompting import INPUTS
from odvla_bench.baselines.training.stages import get_stage
from odvla_bench.datasets.writer import write_json
from odvla_bench.errors import InputError
from odvla_bench.registry import suggest

PRECISIONS = ("auto", "bf16", "no")
ATTENTIONS = ("auto", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
TRACKERS = ("wandb", "tensorboard")
_AT_LEAST_1 = (
    *("pack_length", "rows_per_prefix", "packs_per_step", "save_every", "keep", "log_every"),
)
_NOT_NEGATIVE = (
    *("limit", "epochs", "max_steps", "learning_rate", "perception_learning_rate"),
    *("weight_decay", "warmup_share", "max_gradient_norm", "workers", "validate_every"),
    "validation_limit",
)


@dataclass(frozen=True)
class TrainConfig:
    """How one stage is trained. The defaults are the paper's, or the authors' script's."""

    stage: str
    """1, 2, 2.5 or 3."""
    model: str
    """What to start from: a model directory or hub name, a Qwen2 language model, or `tiny`."""
    data: str
    """The build."""
    out: str
    """Folder of checkpoints, log and final model."""
    tokens: str = ""
    """Feature store of visual tokens, `annotations`, or, in stage 3, `images`: the perception is
    trained too. Not needed where `inputs` has no `visual`."""
    nuscenes_root: str = ""
    """Folder of the build's images; like what follows for `tokens` = `images`."""
    checkpoint: str = ""
    """Weights that the perception starts with, where `model` has none of its own."""
    perception_preset: str = "uniad-base"
    """Sizes of that checkpoint."""
    perception_behaviour: str = "released"
    """`released` or `fixed`, see `extract-features`."""
    encoder_gradients: str = "last"
    """Keyframes of a clip whose images get gradients: `last`, or, as officially, `all` five, for
    twice the time and five times the memory."""
    split: str = "train"
    validation_split: str = "val"
    prompt_profile: str = "default"
    system_file: str = ""
    """File of the system text, for the profile `released`."""
    inputs: tuple[str, ...] = INPUTS
    """What the prompts show (paper, Table 5)."""
    waypoint_codec: str = "text"
    limit: int = 0
    """Instructions to use; 0 is all."""
    epochs: float = 0.0
    """Passes over the data; 0 is the stage's."""
    max_steps: int = 0
    """Optimiser steps; 0 is as many as the epochs have."""
    learning_rate: float = 0.0
    """Of projectors and language model; 0 is the stage's."""
    perception_learning_rate: float = 0.0
    """0 is the stage's."""
    weight_decay: float = 0.0
    warmup_share: float = 0.03
    """Share of the steps in which the learning rate rises; then it falls as a cosine to 0."""
    max_gradient_norm: float = 1.0
    pack_length: int = 8192
    """Positions in a packed sequence."""
    rows_per_prefix: int = 8
    """Instructions of a keyframe that share one beginning; 1 packs without sharing."""
    packs_per_step: int = 1
    """Packed sequences in a step on each process; gradients are accumulated over them."""
    precision: str = "auto"
    """`bf16` (autocast; parameters stay float32), `no`, or auto: bf16 on CUDA."""
    attention: str = "auto"
    """Of `ATTENTIONS`; auto is flex attention on CUDA, which skips blocks, and SDPA elsewhere."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """Compile the decoder layers; packs are then filled up to one length."""
    fsdp: bool = False
    """Shard parameters over the processes (FSDP2) where there are several; else DDP. Nothing is
    validated then: no process has the whole model."""
    seed: int = 42
    workers: int = 0
    """Processes that prepare batches."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints to keep."""
    log_every: int = 10
    validate_every: int = 0
    """Steps between validations; 0 validates at the end only."""
    validation_limit: int = 64
    """Instructions or keyframes to validate on; 0 validates never."""
    track: tuple[str, ...] = ()
    """Experiment trackers, of `TRACKERS`."""

    def __post_init__(self) -> None:
        """Check what can be checked without data.

        Raises:
            InputError: a value that makes no training.
            UnknownNameError: an unknown stage, input, precision, attention or tracker.
        """
        get_stage(self.stage)
        for name in self.inputs:
            if name not in INPUTS:
                raise suggest(name, list(INPUTS), kind="prompt input")
        for names, least in ((_AT_LEAST_1, 1), (_NOT_NEGATIVE, 0)):
            for name in names:
                if not getattr(self, name) >= least:
                    raise InputError(
                        f"{name} is {getattr(self, name)}; it must be {least} or more."
                    )
        if self.warmup_share > 1:
            raise InputError(f"warmup_share is {self.warmup_share}; it is a share of the steps.")
        choices = [
            ("precision", self.precision, PRECISIONS),
            ("attention", self.attention, ATTENTIONS),
            ("encoder_gradients", self.encoder_gradients, get_args(EncoderGradients)),
        ]
        choices += [("experiment tracker", name, TRACKERS) for name in self.track]
        for kind, value, known in choices:
            if value not in known:
                raise suggest(value, list(known), kind=kind)

    def save(self, path: Path) -> None:
        """Write the settings as JSON, which `read_config` reads."""
        write_json(path, dataclasses.asdict(self))


def make_config(
    file: Path | None = None, settings: Sequence[str] = (), **given: Any
) -> TrainConfig:
    """Settings from a file, then from `key=value` texts, then from arguments that are not None.

    Args:
        file: JSON or YAML, an object of `TrainConfig`'s fields.
        settings: such as "pack_length=4096"; lists as "inputs=ego,history".
        given: fields.

    Raises:
        InputError: a file or value that cannot be read, or a required field that is missing.
        UnknownNameError: no such field.
    """
    values = dict(_read(file)) if file else {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: write it as key=value.")
        values[key.strip()] = text.strip()
    values |= {key: value for key, value in given.items() if value is not None}
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    for key in values:
        if key not in fields:
            raise suggest(key, list(fields), kind="training setting")
    missing = [k for k in ("stage", "model", "data", "out") if not values.get(k)]
    if missing:
        raise InputError(f"Training needs {', '.join('--' + k for k in missing)}.")
    return TrainConfig(**{k: _typed(k, v, str(fields[k].type)) for k, v in values.items()})


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            import yaml  # type: ignore[import-untyped]  # comes with transformers

            value = yaml.safe_load(text)
        else:
            value = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not an object of settings.")
    return value


def _typed(key: str, value: Any, kind: str) -> Any:
    """A value as its field's type; texts, as from the command line, are read."""
    try:
        if kind.startswith("tuple"):
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(str(p).strip() for p in parts if str(p).strip())
        if kind == "bool" and isinstance(value, str):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        return {"int": int, "float": float, "bool": bool, "str": str}[kind](value)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"Training setting {key}: {value!r} is not of type {kind}.") from error
