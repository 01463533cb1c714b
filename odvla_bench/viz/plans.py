"""Pictures of an evaluation: the keyframes where plans did worst."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from odvla_bench.baselines.inputs import list_column
from odvla_bench.evaluate.planning import PlanningEvaluation
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
    rows = worst_samples(evaluation.scores[protocol], count)
    draw(path, [_keyframe(evaluation, protocol, row) for row in rows])


def _keyframe(evaluation: PlanningEvaluation, protocol: str, row: int) -> Keyframe:
    token, scores = evaluation.truth.sample_token[row], evaluation.scores[protocol]
    agents = evaluation.build.table("agents", evaluation.split, _COLUMNS)
    agents = agents.filter(np.array(agents["sample_token"].to_pylist()) == token)
    future = np.stack([list_column(agents, f"future_{c}_m") for c in "xy"], -1).reshape(-1, 6, 2)
    valid = list_column(agents, "future_valid").reshape(-1, 6).astype(bool)
    recorded = evaluation.truth.recorded_m("lidar_origin", "zero")[row].copy()
    recorded[evaluation.truth.n_valid[row] :] = np.nan
    hits = scores.box_collision
    steps = 0 if hits is None else int(hits[row].sum())
    shown = np.nanmean(scores.l2_m[row])
    title = f"{evaluation.truth.scene[row]}  {token[:8]}\nL2 {shown:.2f} m, {steps} colliding steps"
    return Keyframe(
        title,
        np.stack([agents[c].to_numpy() for c in ("x_m", "y_m", "yaw_rad")], -1),
        np.stack([agents[c].to_numpy() for c in ("width_m", "length_m")], -1),
        agents["category"].to_pylist(),
        np.where(valid[..., None], future, np.nan),
        recorded,
        {"plan": evaluation.xy_m[row]},
    )
