"""`odvla-bench eval` and `compare`: numbers for predictions, and for their differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import log, out, print_table

if TYPE_CHECKING:
    from odvla_bench.metrics.text.profiles import ScoreOptions

HORIZONS = ("1s", "2s", "3s", "avg")
PICTURE = "worst.png"


def eval_(
    *,
    preds: Annotated[Path, typer.Option(help="Predictions: .parquet, .jsonl, .json or .pkl.")],
    data: options.BuildDir,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for the results.")] = None,
    task: Annotated[
        str,
        typer.Option(help="planning, forecasting, nucaption, nuscenes_qa, nux or tod3cap."),
    ] = "planning",
    protocol: Annotated[
        str, typer.Option(help="Comma-separated protocols, or all; see `odvla-bench protocols`.")
    ] = "all",
    profile: Annotated[
        str | None, typer.Option(help="Of a language task: how to score, such as nux-ptb.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to score.", show_default="the one predicted, or val")
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="How texts are read: text, delta or bins.", show_default="the predictor's, or text"
        ),
    ] = None,
    repair: Annotated[
        str, typer.Option(help="For texts that are not exact: none, or released.")
    ] = "none",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score what is there; marked not comparable.")
    ] = False,
    pictures: Annotated[
        int, typer.Option(min=0, help="How many of the worst samples to draw.")
    ] = 8,
    bertscore: options.BertScore = False,
    bertscore_model: options.BertScoreModel = "roberta-large",
    bertscore_layer: options.BertScoreLayer = None,
    seed: options.Seed = 0,
) -> None:
    """Score predictions on a build: plans by protocols, agents' motion, texts by profiles."""
    from odvla_bench.datasets.reader import open_build

    if bertscore and task in ("planning", "forecasting"):
        from odvla_bench.metrics.text.profiles import no_bertscore

        raise no_bertscore(f"Task {task}")
    if task == "forecasting":
        from odvla_bench.cli.evaluate_motion import eval_motion

        eval_motion(
            open_build(data),
            preds,
            split=split or "val",
            codec=codec or _codec_of(preds),
            repair=repair,
            allow_partial=allow_partial,
            out_dir=out_dir,
            seed=seed,
        )
        return
    if task != "planning":
        from odvla_bench.cli.score_text import score_options

        choices = score_options(bertscore, bertscore_model, bertscore_layer, seed=seed)
        _eval_language(open_build(data), preds, task, profile, split or "val", out_dir, choices)
        return
    from odvla_bench.datasets.waypoints import get_codec
    from odvla_bench.evaluate.planning import evaluate_planning
    from odvla_bench.evaluate.results import results_of, write_results
    from odvla_bench.predictions import read_predictions

    names = protocol_names(protocol)
    form = codec or _codec_of(preds)
    reader = get_codec(form, repair=repair) if repair != "none" else get_codec(form)
    evaluation = evaluate_planning(
        open_build(data),
        read_predictions(preds, codec=reader),
        protocols=names,
        split=split,
        allow_partial=allow_partial,
    )
    results = results_of(evaluation, seed=seed)
    print_results(results)
    if out_dir is None:
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    if pictures:
        _draw(evaluation, names, out_dir / PICTURE, pictures)
    write_results(evaluation, results, out_dir)
    out.print(f"results: {out_dir}")


def _codec_of(preds: Path) -> str:
    """The codec that `odvla-bench predict` noted in a file; `text` where nothing is noted."""
    import pyarrow as pa

    from odvla_bench.predictions.texts import read_metadata

    try:
        return read_metadata(preds).get("waypoint_codec", "text")
    except (pa.ArrowException, OSError):  # told when the predictions are read
        return "text"


def _eval_language(
    build: Any,
    preds: Path,
    task: str,
    profile: str | None,
    split: str,
    out_dir: Path | None,
    choices: ScoreOptions,
) -> None:
    from odvla_bench.cli.score_text import as_json, print_scores
    from odvla_bench.datasets.writer import write_json
    from odvla_bench.evaluate.language import TASKS, evaluate_language
    from odvla_bench.registry import suggest

    if task not in TASKS:
        raise suggest(task, ["planning", "forecasting", *TASKS], kind="task")
    table = evaluate_language(build, preds, task, profile=profile, split=split, options=choices)
    print_scores(table)
    if out_dir is not None:
        write_json(out_dir / "results.json", {"task": task, "split": split, **as_json(table)})
        out.print(f"results: {out_dir}")


def protocol_names(wanted: str) -> list[str]:
    """Names from a comma-separated list or "all", each checked."""
    from odvla_bench.metrics.protocols import PROTOCOLS, get_protocol

    if wanted == "all":
        return list(PROTOCOLS)
    return [get_protocol(name.strip()).name for name in wanted.split(",") if name.strip()]


def print_results(results: dict[str, Any]) -> None:
    """The terminal table: one row a protocol and reduction."""
    print_table(
        title_of(results, "plans"),
        (
            "protocol",
            "samples",
            *(f"L2 {h}, m" for h in HORIZONS),
            *(f"col. {h}, %" for h in HORIZONS),
        ),
        [row for name, p in results["protocols"].items() for row in table_rows(name, p)],
    )
    for name, p in results["protocols"].items():
        if p["not_available"]:
            out.print(f"{name}: not available on this build: {', '.join(p['not_available'])}")
    warn_of_parts(results, "keyframes")


def title_of(results: dict[str, Any], what: str) -> str:
    """File, split, build, and how the predictions were read."""
    parsed = ", ".join(f"{n} {status}" for status, n in results["predictions"]["parsed"].items())
    return (
        f"{results['predictions']['file']} on {results['split']} "
        f"(build {results['build']['fingerprint'][:12]}; {what}: {parsed})"
    )


def warn_of_parts(results: dict[str, Any], what: str) -> None:
    """Say so where not exactly the split's keyframes, or rows, were predicted."""
    if not results["comparable"]:
        log.print(
            f"NOT COMPARABLE: {results['missing']} {what} of the split have no prediction, "
            f"{results['unknown']} predictions are of other {what}."
        )


def table_rows(name: str, protocol: dict[str, Any]) -> list[list[str]]:
    """Rows of one protocol: its primary reduction, then others by their names."""
    table, scored = protocol["table"], protocol["counts"]["scored_samples"]
    others = {k: v for k, v in table.items() if isinstance(v, dict) and "l2_m" in v}
    rows = [(name, table), *((f"  {name} ({k})", v) for k, v in others.items())]
    return [
        [
            label,
            str(scored),
            *(number(values["l2_m"], h, 1, 3) for h in HORIZONS),
            *(number(values["collision"], h, 100, 3) for h in HORIZONS),
        ]
        for label, values in rows
    ]


def number(values: dict[str, float] | None, key: str, scale: float, digits: int) -> str:
    """A number of a table; a dash where it is not available."""
    value = None if values is None else values[key]
    return "-" if value is None or value != value else f"{value * scale:.{digits}f}"


def _draw(evaluation: Any, names: list[str], path: Path, count: int) -> None:
    from odvla_bench.errors import MissingDependencyError
    from odvla_bench.viz.plans import draw_worst

    try:
        draw_worst(evaluation, "exact" if "exact" in names else names[0], path, count=count)
    except MissingDependencyError as error:
        log.print(f"no picture: {error}")


def compare(
    first: Annotated[Path, typer.Argument(help="Results of `odvla-bench eval`.")],
    second: Annotated[Path, typer.Argument(help="Other results, on the same build and split.")],
    *,
    seed: options.Seed = 0,
) -> None:
    """Print first minus second with 95 % intervals, paired by sample, clustered by scene."""
    from odvla_bench.evaluate.results import compare_results, read_results

    tables = compare_results(read_results(first), read_results(second), seed=seed)
    rows = [
        (
            name,
            metric,
            *(difference(cells[h], 100 if metric == "collision" else 1) for h in HORIZONS),
        )
        for name, table in tables.items()
        for metric, cells in table.items()
        if metric in ("l2_m", "collision") and cells is not None
    ]
    header = ("protocol", "metric", *HORIZONS)
    print_table(f"{first} minus {second}: L2 in m, collision in %", header, rows, numbers_from=2)
    out.print("* the 95 % interval excludes 0")


def difference(cell: dict[str, float], scale: float) -> str:
    """A difference with its interval; a star where the interval excludes zero."""
    value, low, high = (cell[k] * scale for k in ("difference", "low", "high"))
    star = "*" if low > 0 or high < 0 else " "
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{star}"
