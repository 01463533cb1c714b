"""Features of a model's own perception, made before it predicts from images."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from odvla_bench.baselines.opendrivevla.checkpoint import RELEASED_TYPE, read_config, resolve
from odvla_bench.baselines.opendrivevla.perception.config import (
    PerceptionConfig,
    from_settings,
    perception_config,
)
from odvla_bench.baselines.opendrivevla.perception.extract import (
    Extraction,
    extract_everywhere,
    scene_tasks,
)
from odvla_bench.baselines.opendrivevla.perception.scenes import scenes_from_build
from odvla_bench.errors import InputError


def perception_of(model: str) -> PerceptionConfig:
    """What a model sees with.

    Raises:
        InputError: nothing.
    """
    config = read_config(model)
    if config.get("model_type") == RELEASED_TYPE:
        return perception_config("uniad-base", behaviour="released")
    if not config.get("perception"):
        raise InputError(
            f"{model}: a model without perception. Give the folder of `odvla-bench "
            "extract-features` as --tokens, made with the weights that it was trained on."
        )
    return from_settings(config["perception"])


def see(
    model: str,
    nuscenes_root: Path,
    data: Path,
    samples: Collection[str],
    out: Path,
    *,
    device: str,
    executor: str = "local",
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """The features of all scenes that some keyframes lie in; goes on where it was stopped.

    Args:
        model: folder or hub name of a model with perception.
        nuscenes_root: the root of the build, with its images.
        data: the build.
        samples: tokens of the keyframes.
        out: folder of the features.
        device: such as "cuda:0"; there wide products are made in bfloat16.
        executor: see `extract_everywhere`.
        report: told of finished scenes and of all.

    Raises:
        InputError: the model has no perception, or the root is not the build's.
        ImageError: an image cannot be read.
    """
    wanted = set(samples)
    settings = Extraction(
        checkpoint=resolve(model),
        out=out,
        config=perception_of(model),
        device=device,
        precision="fp32" if device == "cpu" else "bf16",
    )
    tasks = [
        task
        for task in scene_tasks(scenes_from_build(nuscenes_root, data))
        if any(keyframe.sample_token in wanted for keyframe in task.scene.keyframes)
    ]
    done = 0

    def tell(_scene: str, _written: int, _skipped: int) -> None:
        nonlocal done
        done += 1
        if report:
            report(done, len(tasks))

    extract_everywhere(tasks, settings, executor=executor, report=tell)
    return out
