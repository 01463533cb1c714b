"""Pictures of an evaluation: the keyframes where plans did worst."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.nuscenes.tables import list_column
from odvla_bench.evaluate.planning import PlanningEvaluation
from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.scores import PlanningScores
from odvla_bench.viz.bev import Keyframe, draw

_COLUMNS = (
    *("sample_token", "category", "x_m", "y_m", "yaw_rad", "width_m", "length_m"),
    *("future_x_m", "future_y_m", "future_valid"),
)


def worst_samples(scores: PlanningScores, count: int) -> list[int]:
    """Rows of the scored samples with the most colliding steps, then the largest mean L2."""
    hits = np.zeros(len(scores.scored)) if scores.box_collision is None else scores.box_collision
    collisions = hits.reshape(len(scores.scored), -1).sum(1)
    mean_l2 = np.nan_to_num(scores.l2_m).mean(1)
    order = np.lexsort((-mean_l2, -collisions))
    return [int(row) for row in order if scores.scored[row]][:count]


def draw_worst(
    evaluation: PlanningEvaluation, protocol: str, path: Path, *, count: int = 8
) -> None:
    """Write a picture of the worst samples under a protocol.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    scores = evaluation.scores[protocol]
    agents = evaluation.build.table("agents", evaluation.split, _COLUMNS)
    keyframes = []
    for row in worst_samples(scores, count):
        steps = 0 if scores.box_collision is None else int(scores.box_collision[row].sum())
        note = f"L2 {np.nanmean(scores.l2_m[row]):.2f} m, {steps} colliding steps"
        keyframes.append(_keyframe(evaluation, agents, row, note, {"plan": evaluation.xy_m[row]}))
    draw(path, keyframes)


def draw_side_by_side(
    evaluations: Mapping[str, PlanningEvaluation], path: Path, *, count: int = 8
) -> None:
    """Write a picture of several models' plans for the keyframes that turn the most.

    Args:
        evaluations: model name → evaluation, all of the same samples.
        path: the picture.
        count: how many keyframes, at most one a scene.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    first = next(iter(evaluations.values()))
    agents = first.build.table("agents", first.split, _COLUMNS)
    sideways = np.abs(first.truth.recorded_m()[:, -1, 0])
    order = np.argsort(-sideways, kind="stable")
    _, best_of_scene = np.unique(first.truth.scene[order], return_index=True)
    rows = order[np.sort(best_of_scene)][:count]
    draw(
        path,
        [
            _keyframe(first, agents, int(row), "", {m: e.xy_m[row] for m, e in evaluations.items()})
            for row in rows
        ],
    )


def _keyframe(
    evaluation: PlanningEvaluation,
    agents: pa.Table,
    row: int,
    note: str,
    plans: Mapping[str, FloatArray],
) -> Keyframe:
    token = evaluation.truth.sample_token[row]
    agents = agents.filter(pc.equal(agents["sample_token"], token))
    future = np.stack([list_column(agents, f"future_{c}_m") for c in "xy"], -1).reshape(-1, 6, 2)
    valid = list_column(agents, "future_valid").reshape(-1, 6).astype(bool)
    recorded = evaluation.truth.recorded_m()[row].copy()
    recorded[evaluation.truth.n_valid[row] :] = np.nan
    return Keyframe(
        f"{evaluation.truth.scene[row]}  {token[:8]}" + (f"\n{note}" if note else ""),
        np.stack([agents[c].to_numpy() for c in ("x_m", "y_m", "yaw_rad")], -1),
        np.stack([agents[c].to_numpy() for c in ("width_m", "length_m")], -1),
        agents["category"].to_pylist(),
        np.where(valid[..., None], future, np.nan),
        recorded,
        plans,
    )
