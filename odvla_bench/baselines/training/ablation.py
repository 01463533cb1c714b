"""What each input is worth: stage 3 once for every row of the paper's Table 5, and text alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from odvla_bench.baselines.opendrivevla.answering import Decoding
from odvla_bench.baselines.opendrivevla.checkpoint import MODEL
from odvla_bench.baselines.opendrivevla.predict import Prediction, predict
from odvla_bench.baselines.training.config import TrainConfig, make_config
from odvla_bench.baselines.training.run import CONFIG, train
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import InputError
from odvla_bench.evaluate.planning import evaluate_planning
from odvla_bench.evaluate.results import results_of
from odvla_bench.predictions import read_predictions

TABLE_5: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "no-ego": ("visual", "history", "command"),
        "no-history": ("visual", "ego", "command"),
        "text-only": ("ego", "history", "command"),
        "no-command": ("visual", "ego", "history"),
        "full": ("visual", "ego", "history", "command"),
    }
)
"""The paper's rows, in its order; `text-only` sees no image."""


def ablate(
    config: TrainConfig,
    *,
    split: str = "val",
    decoding: Decoding | None = None,
    report: Callable[[str, dict[str, float]], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Train, predict and score every row; rows that are finished are not trained again.

    Args:
        config: of stage 3; `out` gets a folder for each row, and `inputs` is not used.
        split: to score on.
        decoding: how plans are answered.
        report: told of every log line, with the row's name.

    Returns:
        Row → results under every protocol, see `results_of`.

    Raises:
        InputError: a finished row was trained with other settings, or torchrun started it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "The ablation runs in one process. On several devices, run each row by itself: train "
            "--stage 3 --inputs …, predict, eval."
        )
    build = open_build(config.data)
    results = {}
    for name, inputs in TABLE_5.items():
        out = Path(config.out) / name
        row = dataclasses.replace(config, stage="3", inputs=inputs, out=str(out))
        if not (out / MODEL).is_dir():
            train(row, report=_named(report, name))
        elif make_config(out / CONFIG) != row:
            raise InputError(
                f"{out}: trained with other settings, see its {CONFIG}. Give --out a new folder."
            )
        prediction = Prediction(
            str(out / MODEL),
            Path(config.data),
            out / "plans.parquet",
            split=split,
            tokens=config.tokens,
            system_file=config.system_file,
            decoding=decoding or Decoding(),
        )
        plans = read_predictions(predict(prediction), codec=get_codec(row.waypoint_codec))
        results[name] = results_of(evaluate_planning(build, plans, split=split))
    return results


def _named(
    report: Callable[[str, dict[str, float]], None] | None, name: str
) -> Callable[[dict[str, float]], None]:
    return lambda metrics: report(name, metrics) if report else None
