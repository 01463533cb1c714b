"""`odvla-bench eval --task forecasting`: how well a model foresees the agents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odvla_bench.cli.console import out, print_table

if TYPE_CHECKING:
    from odvla_bench.datasets.reader import Build

_COLUMNS = (
    ("min_ade_m", "minADE", "m", 1),
    ("min_fde_m", "minFDE", "m", 1),
    ("missed", "missed", "%", 100),
)


def eval_motion(
    build: Build,
    preds: Path,
    *,
    split: str,
    codec: str,
    repair: str,
    allow_partial: bool,
    out_dir: Path | None,
    seed: int,
) -> None:
    """Score predicted motion on a split, print the table, and write the results."""
    from odvla_bench.datasets.waypoints import get_codec
    from odvla_bench.evaluate.motion import evaluate_motion, motion_results, write_motion
    from odvla_bench.predictions.motion import read_motion

    options: dict[str, Any] = {} if repair == "none" else {"repair": repair}
    reader = get_codec(codec, variable_length=True, **options)
    evaluation = evaluate_motion(
        build, read_motion(preds, codec=reader), split=split, allow_partial=allow_partial
    )
    results = motion_results(evaluation, seed=seed)
    print_motion(results)
    if out_dir is not None:
        write_motion(evaluation, results, out_dir)
        out.print(f"results: {out_dir}")


def print_motion(results: dict[str, Any]) -> None:
    """The terminal table: all agents, then each category, and the signature."""
    from odvla_bench.cli.evaluate import title_of, warn_of_parts

    horizons = results["horizons_s"]
    numbers = [f"{title} {h} s, {unit}" for _, title, unit, _ in _COLUMNS for h in horizons]
    rows = [
        (name, values["rows"][-1])
        + tuple(_number(v, scale) for metric, _, _, scale in _COLUMNS for v in values[metric])
        for name, values in results["table"].items()
    ]
    print_table(title_of(results, "answers"), ("agents", "counted at 3 s", *numbers), rows)
    out.print(results["signature"], soft_wrap=True)
    warn_of_parts(results, "rows")


def _number(value: float, scale: float) -> str:
    """A number of the table; a dash where nothing was counted."""
    return "-" if value != value else f"{value * scale:.3f}"
