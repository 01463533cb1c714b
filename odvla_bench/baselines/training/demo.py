"""All four stages of `tiny` on one build, and its plans; for the demo and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from odvla_bench.baselines.opendrivevla.answering import Decoding
from odvla_bench.baselines.opendrivevla.predict import Prediction, predict
from odvla_bench.baselines.opendrivevla.prompting import INPUTS
from odvla_bench.baselines.opendrivevla.tokens import ANNOTATIONS
from odvla_bench.baselines.threads import at_most_threads
from odvla_bench.baselines.training.config import TrainConfig, make_config
from odvla_bench.baselines.training.run import TINY, train
from odvla_bench.baselines.training.trainer import Report
from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.schema import STAGE_TABLES

CODEC = "bins"
"""A token a coordinate: what so small a model learns in minutes."""

_THREADS = 2


@dataclass(frozen=True)
class DemoStage:
    """How `tiny` goes through one stage."""

    name: str
    steps: int
    learning_rate: float
    limit: int = 0
    """Instructions to use; 0 is all."""


STAGES = (
    DemoStage("1", 60, 4e-3, 1_000),
    DemoStage("2", 60, 2e-3, 1_000),
    DemoStage("2.5", 150, 4e-3, 3_000),
    DemoStage("3", 1_600, 4e-3),
)


def train_tiny(
    build: Build,
    out: Path,
    *,
    model: str | Path = TINY,
    split: str = "train",
    inputs: Sequence[str] = INPUTS,
    stages: Sequence[DemoStage] = STAGES,
    seed: int = 0,
    report: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Train `tiny` through the stages that the build has rows for; the folder of the last model.

    Visual tokens are made from annotations.

    Args:
        build: an open build.
        out: a folder for each stage is made in it.
        model: what to start from.
        split: to train on.
        inputs: what prompts show.
        stages: how long and how fast.
        seed: of everything random.
        report: told now and then of steps done, of all, and of stage and loss.
    """
    present = [s for s in stages if split in build.splits(STAGE_TABLES[s.name].name)]
    total, done = sum(s.steps for s in present), 0
    for stage in present:
        config = _config(build, stage, str(model), out, split=split, inputs=inputs, seed=seed)
        with at_most_threads(_THREADS):
            model = train(config, report=_counting(report, stage.name, done, total))
        done += stage.steps
    return Path(model)


def predict_tiny(build: Build, model: Path, out: Path, *, split: str = "val") -> Path:
    """The plans of a model that `train_tiny` made."""
    prediction = Prediction(
        str(model), build.path, out, split=split, tokens=ANNOTATIONS, decoding=Decoding(64, 32)
    )
    with at_most_threads(_THREADS):
        return predict(prediction)


def _config(
    build: Build,
    stage: DemoStage,
    model: str,
    out: Path,
    *,
    split: str,
    inputs: Sequence[str],
    seed: int,
) -> TrainConfig:
    return make_config(
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
        precision="no",
        log_every=50,
        validation_limit=0,
        seed=seed,
    )


def _counting(
    report: Callable[[int, int, str], None] | None, stage: str, before: int, total: int
) -> Report | None:
    if report is None:
        return None
    return lambda m: report(before + int(m["step"]), total, f"stage {stage}, loss {m['loss']:.2f}")
