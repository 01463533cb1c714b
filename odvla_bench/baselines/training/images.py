"""What stage 3 needs to train on images: a model with a perception, and the build's clips."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from odvla_bench.baselines.opendrivevla.checkpoint import (
    RELEASED_TYPE,
    Loaded,
    read_config,
    resolve,
)
from odvla_bench.baselines.opendrivevla.perception.checkpoint import load_checkpoint
from odvla_bench.baselines.opendrivevla.perception.config import (
    EncoderGradients,
    perception_config,
    to_settings,
)
from odvla_bench.baselines.opendrivevla.perception.scenes import scenes_from_build
from odvla_bench.baselines.opendrivevla.tokens import IMAGES
from odvla_bench.baselines.training.checkpoints import checkpoints
from odvla_bench.baselines.training.clips import Clips, LiveTokens
from odvla_bench.baselines.training.config import TrainConfig
from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_text


def open_images(config: TrainConfig, build: Build, loaded: Loaded) -> tuple[Clips, LiveTokens]:
    """The clips to train on, and the tokens to validate with; gives the model its perception.

    Raises:
        InputError: settings that do not go with images, or no perception to start from.
    """
    _check(config)
    attach_perception(config, loaded)
    network = loaded.model.model.perception
    assert network is not None
    clips = Clips(
        scenes_from_build(Path(config.nuscenes_root), build.path),
        network.config.behaviour,
        encoder_gradients=cast(EncoderGradients, config.encoder_gradients),
    )
    fingerprint = digest_text(build.fingerprint, IMAGES, network.config.behaviour.name)
    return clips, LiveTokens(clips, network, fingerprint)


def attach_perception(config: TrainConfig, loaded: Loaded) -> None:
    """Give a model that has none the perception of `config.checkpoint`, or of its own folder.

    Raises:
        InputError: there is none, or one too many.
    """
    model = loaded.model
    if model.model.perception is not None:
        if config.checkpoint and not checkpoints(Path(config.out)):
            raise InputError(
                f"{config.model}: has a perception of its own. Leave --checkpoint out to train it."
            )
        return
    if not config.checkpoint and not _is_released(config.model):
        raise InputError(
            f"{config.model}: a model without perception. Name the weights that it is to start "
            "with, such as --checkpoint uniad_base_track_map.pth."
        )
    path = Path(config.checkpoint) if config.checkpoint else resolve(config.model)
    sizes = perception_config(config.perception_preset, behaviour=config.perception_behaviour)
    network, _ = load_checkpoint(path, sizes)
    model.model.perception = network
    model.config.perception = to_settings(network.config)


def check_stored_tokens(config: TrainConfig, loaded: Loaded) -> None:
    """Refuse to train a model that sees for itself, perception and all, on stored tokens.

    Raises:
        InputError: that is what is asked for.
    """
    if config.stage == "3" and loaded.model.model.perception is not None:
        raise InputError(
            f"{config.model}: its perception is trained in stage 3, which stored tokens cannot do. "
            f"Give --tokens {IMAGES} and --nuscenes-root."
        )


def _check(config: TrainConfig) -> None:
    if config.stage != "3":
        raise InputError(
            f"--tokens {IMAGES}: stage {config.stage} leaves the perception as it is. Run "
            "`odvla-bench extract-features` once and give its folder; stage 3 trains on images."
        )
    if not config.nuscenes_root:
        raise InputError(f"--tokens {IMAGES}: name the folder of the images with --nuscenes-root.")
    if config.fsdp:
        raise InputError(
            f"--tokens {IMAGES}: the perception's parameters are not sharded. Leave fsdp out; on "
            "several devices each holds the whole model (DDP)."
        )


def _is_released(model: str) -> bool:
    return model != "tiny" and read_config(model).get("model_type") == RELEASED_TYPE
