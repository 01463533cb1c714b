"""RESULTS on disk: `results.json` for numbers, `samples.parquet` for one row a sample."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odvla_bench.datasets.writer import whole_file, write_json
from odvla_bench.errors import FormatError, InputError
from odvla_bench.evaluate.planning import PlanningEvaluation
from odvla_bench.metrics.protocols import get_protocol
from odvla_bench.metrics.scores import PlanningScores, compare_scores
from odvla_bench.provenance import package_version

if TYPE_CHECKING:
    from odvla_bench.evaluate.motion import MotionEvaluation

RESULTS_FORMAT = 1
RESULTS, SAMPLES = "results.json", "samples.parquet"
_FLAGS = ("box_collision", "point_collision", "gt_collision", "exists", "counted")
"""(N, 6) bool fields of `PlanningScores` that are kept, where they are not None."""


def results_of(evaluation: PlanningEvaluation, *, seed: int = 0) -> dict[str, Any]:
    """Everything that `results.json` says; numbers that do not exist are null.

    Args:
        evaluation: the scores.
        seed: of the scene-clustered bootstrap behind the 95 % intervals.
    """
    protocols = {name: _protocol(s, seed) for name, s in evaluation.scores.items()}
    return {**heading_of(evaluation, "planning"), "protocols": protocols}


def heading_of(evaluation: PlanningEvaluation | MotionEvaluation, task: str) -> dict[str, Any]:
    """What stands at the head of every `results.json`."""
    e = evaluation
    return {
        "results_format": RESULTS_FORMAT,
        "odvla_bench_version": package_version(),
        "task": task,
        "split": e.split,
        "build": {"fingerprint": e.build.fingerprint, **e.build.manifest["nuscenes"]},
        "predictions": {
            "file": e.predictions.source.name,
            "fingerprint": e.predictions.fingerprint,
            "metadata": dict(e.predictions.metadata),
            "parser": e.predictions.parser,
            "parsed": e.parse_counts,
        },
        "comparable": not e.missing and not e.unknown,
        "missing": len(e.missing),
        "unknown": len(e.unknown),
    }


def _protocol(scores: PlanningScores, seed: int) -> dict[str, Any]:
    several = scores.scene is not None and len(np.unique(scores.scene)) > 1 and scores.scored.any()
    return {
        "signature": scores.signature,
        "counts": scores.counts(),
        "table": scores.table(),
        "interval_95": scores.intervals(seed=seed) if several else None,
        "per_step": {k: None if v is None else v for k, v in scores.step_means().items()},
        "not_available": list(scores.not_available),
        "known_defects": list(scores.protocol.known_defects),
    }


def write_results(evaluation: PlanningEvaluation, results: dict[str, Any], out: Path) -> None:
    """Write both files; see `write_folder`."""
    write_folder(samples_table(evaluation), results, out)


def write_folder(samples: pa.Table, results: dict[str, Any], out: Path) -> None:
    """Write both files; `results.json` last, so that its presence means that all is there."""
    (out / RESULTS).unlink(missing_ok=True)
    with whole_file(out / SAMPLES) as temporary:
        pq.write_table(samples, temporary, compression="zstd")
    write_json(out / RESULTS, plain(results))


def samples_table(evaluation: PlanningEvaluation) -> pa.Table:
    """One row a sample: token, scene, plan, parse status, and per-step values by protocol."""
    columns: dict[str, Any] = {
        "sample_token": pa.array(evaluation.truth.sample_token),
        "scene_name": pa.array(evaluation.truth.scene.tolist()),
        "n_valid": pa.array(evaluation.truth.n_valid, pa.int8()),
        "parse_status": pa.array(evaluation.parse_status.tolist()),
        "x_m": list_column(evaluation.xy_m[..., 0], pa.float64()),
        "y_m": list_column(evaluation.xy_m[..., 1], pa.float64()),
    }
    for name, scores in evaluation.scores.items():
        columns[f"{name}__scored"] = pa.array(scores.scored)
        columns[f"{name}__l2_m"] = list_column(scores.l2_m, pa.float64())
        for flag in _FLAGS:
            if (values := getattr(scores, flag)) is not None:
                columns[f"{name}__{flag}"] = list_column(values, pa.bool_())
    return pa.table(columns)


@dataclass(frozen=True)
class Results:
    """A RESULTS folder, read back."""

    path: Path
    summary: dict[str, Any]
    samples: pa.Table

    def scores(self, protocol: str) -> PlanningScores:
        """The per-step values of a protocol."""
        names = set(self.samples.column_names)

        def steps(what: str) -> Any:
            column = f"{protocol}__{what}"
            if column not in names:
                return None
            flat = self.samples[column].combine_chunks().flatten()
            return flat.to_numpy(zero_copy_only=False).reshape(-1, 6)

        return PlanningScores(
            protocol=get_protocol(protocol),
            signature=self.summary["protocols"][protocol]["signature"],
            l2_m=steps("l2_m"),
            **{flag: steps(flag) for flag in _FLAGS},
            map_flags=None,
            gt_collision_sample=None,
            scored=self.samples[f"{protocol}__scored"].to_numpy(),
            n_valid=self.samples["n_valid"].to_numpy(),
            scene=np.array(self.samples["scene_name"].to_pylist()),
        )


def read_results(path: Path | str) -> Results:
    """Read a RESULTS folder.

    Raises:
        FormatError: no such results, or of another format.
        InputError: results of another task than planning.
    """
    path = Path(path)
    try:
        summary = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        _check_summary(path, summary)
        samples = pq.read_table(path / SAMPLES)
    except (OSError, ValueError) as error:
        raise FormatError(
            f"{path}: no whole results here ({error}). Make them with `odvla-bench eval`."
        ) from error
    return Results(path, summary, samples)


def _check_summary(path: Path, summary: dict[str, Any]) -> None:
    if (task := summary.get("task", "planning")) != "planning":
        raise InputError(f"{path}: results of the task {task}; only those of plans are compared.")
    if summary.get("results_format") != RESULTS_FORMAT:
        raise FormatError(
            f"{path}: results of format {summary.get('results_format')}; this odvla_bench reads "
            f"{RESULTS_FORMAT}. Score the predictions again."
        )


def compare_results(first: Results, second: Results, *, seed: int = 0) -> dict[str, Any]:
    """First minus second under every protocol that both have, paired by sample.

    Returns:
        Protocol → table of `{"difference", "low", "high", "p_value"}`, scene-clustered.

    Raises:
        InputError: results on other samples or builds, or without a common protocol.
    """
    one, other = (r.summary["build"]["fingerprint"] for r in (first, second))
    if one != other:
        raise InputError(
            f"{first.path} and {second.path} were scored on different builds ({one}, {other}). "
            "Score both on one build."
        )
    if not first.samples["sample_token"].equals(second.samples["sample_token"]):
        raise InputError(
            f"{first.path} and {second.path} hold different samples. "
            "Score both prediction sets on the same split, complete."
        )
    shared = [p for p in first.summary["protocols"] if p in second.summary["protocols"]]
    if not shared:
        raise InputError(f"{first.path} and {second.path} have no protocol in common.")
    return {
        name: compare_scores(first.scores(name), second.scores(name), seed=seed) for name in shared
    }


def plain(value: Any) -> Any:
    """Numbers, lists and dicts only; what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def list_column(values: Any, kind: pa.DataType) -> pa.Array:
    """An (N, K) array as a column of N lists."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)
