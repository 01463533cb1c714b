"""All four stages of `tiny` on one build, and its plans; for the demo and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from odvla_bench.baselines.opendrivevla.answering import Decoding
from odvla_bench.baselines.opendrivevla.predict import Prediction, predict
from odvla_bench.baselines.opendrivevla.prompting import INPUTS
from odvla_bench.baselines.opendrivevla.tokens import ANNOTATIONS
from odvla_bench.baselines.training.config import make_config
from odvla_bench.baselines.training.run import train
from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.schema import STAGE_TABLES

CODEC = "bins"
"""A token a coordinate: what so small a model learns in minutes."""


@dataclass(frozen=True)
class DemoStage:
    """How `tiny` goes through one stage."""

    name: str
    steps: int
    learning_rate: float
    limit: int = 0


STAGES = (
    DemoStage("1", 40, 3e-3, 1_000),
    DemoStage("2", 40, 3e-3, 1_000),
    DemoStage("2.5", 60, 3e-3, 2_000),
    DemoStage("3", 1_600, 4e-3),
)


def train_tiny(
    build: Build,
    out: Path,
    *,
    split: str = "train",
    inputs: Sequence[str] = INPUTS,
    stages: Sequence[DemoStage] = STAGES,
    seed: int = 0,
    report: Callable[[str, dict[str, float]], None] | None = None,
) -> Path:
    """Train `tiny` through the stages that the build has rows for; the folder of the last model.

    Visual tokens are made from annotations.

    Args:
        build: an open build.
        out: a folder for each stage is made in it.
        split: to train on.
        inputs: what prompts show.
        stages: how long and how fast.
        seed: of everything random.
        report: told of every log line, with the stage's name.
    """
    model = "tiny"
    for stage in stages:
        if split not in build.splits(STAGE_TABLES[stage.name].name):
            continue
        config = make_config(
            stage=stage.name,
            model=model,
            data=str(build.path),
            out=str(out / f"stage-{stage.name}"),
            split=split,
            tokens=ANNOTATIONS,
            inputs=",".join(inputs),
            waypoint_codec=CODEC,
            limit=stage.limit,
            max_steps=stage.steps,
            learning_rate=stage.learning_rate,
            pack_length=1_000,
            packs_per_step=3,
            precision="no",
            log_every=20,
            validation_limit=0,
            seed=seed,
        )
        name = stage.name

        def tell(metrics: dict[str, float], name: str = name) -> None:
            if report:
                report(name, metrics)

        model = str(train(config, report=tell))
    return Path(model)


def predict_tiny(build: Build, model: Path, out: Path, *, split: str = "val") -> Path:
    """The plans of a model that `train_tiny` made."""
    prediction = Prediction(
        str(model), build.path, out, split=split, tokens=ANNOTATIONS, decoding=Decoding(64, 32)
    )
    return predict(prediction)
