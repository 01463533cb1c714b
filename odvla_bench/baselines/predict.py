"""Predictions of a baseline for every keyframe of a split."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from odvla_bench.baselines.ego import PLANNERS, Waypoints
from odvla_bench.baselines.inputs import read_inputs
from odvla_bench.datasets.nuscenes.tables import list_column
from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError
from odvla_bench.predictions import write_predictions
from odvla_bench.provenance import package_version
from odvla_bench.registry import suggest

GROUND_TRUTH = "ground-truth"
EGO_MLP = "ego-mlp"
MODELS = (*PLANNERS, EGO_MLP, GROUND_TRUTH)


def predict(
    build: Build,
    split: str,
    model: str,
    out: Path,
    *,
    train_split: str | None = None,
    seed: int = 0,
) -> int:
    """Predict every keyframe of a split and write the file `out`; returns how many.

    Args:
        build: where the inputs come from.
        split: which keyframes to predict.
        model: one of `MODELS`. `ground-truth` is no model: it copies the recorded future, as a
            check of the scoring.
        out: a `.parquet` or `.jsonl` file.
        train_split: of `ego-mlp`: the split it is trained on; the build's train split by default.
        seed: of `ego-mlp`.

    Raises:
        UnknownNameError: no such model or split.
        InputError: no split to train on, or the one that is predicted.
    """
    start = time.perf_counter()
    plans = _planner(build, split, model, train_split, seed)()
    seconds = (time.perf_counter() - start) / max(len(plans), 1)
    tokens = build.table("planning", split, ("sample_token",))["sample_token"].to_pylist()
    metadata = {
        "model": model,
        "split": split,
        "build_fingerprint": build.fingerprint,
        "odvla_bench_version": package_version(),
        "sees_the_future": str(model == GROUND_TRUTH).lower(),
    }
    write_predictions(
        out,
        tokens,
        plans[..., 0],
        plans[..., 1],
        latency_s=np.full(len(tokens), seconds),
        metadata=metadata if out.suffix == ".parquet" else None,
    )
    return len(tokens)


def _planner(
    build: Build, split: str, model: str, train_split: str | None, seed: int
) -> Callable[[], Waypoints]:
    """What makes the plans; training is done here, so that it does not count as latency."""
    if model == GROUND_TRUTH:
        return lambda: recorded(build, split)
    inputs = read_inputs(build, split)
    if model == EGO_MLP:
        from odvla_bench.baselines.ego_mlp import EgoMlp, EgoMlpConfig

        trained = EgoMlp(build, _train_split(build, split, train_split), EgoMlpConfig(seed=seed))
        return lambda: trained(inputs)
    if model not in PLANNERS:
        raise suggest(model, list(MODELS), kind="model")
    return lambda: PLANNERS.get(model)(inputs)


def recorded(build: Build, split: str) -> Waypoints:
    """(N, 6, 2) the recorded future; where it ends, its last position."""
    rows = build.table("planning", split, ("future_x_m", "future_y_m"))
    columns = (list_column(rows, f"future_{c}_m").astype(np.float64) for c in ("x", "y"))
    return np.stack(list(columns), -1)


def _train_split(build: Build, split: str, wanted: str | None) -> str:
    found = wanted or next((s for s in build.splits() if s.endswith("train")), None)
    if found is None:
        raise InputError(
            f"{build.path}: no train split in this build. Name another with --train-split."
        )
    if found == split:
        raise InputError(
            f"{build.path}: {EGO_MLP} would be trained on the split it predicts ({split}). "
            "Predict another with --split, or train on another with --train-split."
        )
    return found
