"""`odvla-bench demo`: the whole way on data it makes, in a minute: tables, build, plans, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out, print_table

VERSION, SPLIT = "v1.0-trainval", "val"
SHOWN = ("exact", "opendrivevla", "uniad", "stp3", "vad")
PICTURE = "plans.png"


def demo(
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path(
        "demo-out"
    ),
    scenes: Annotated[int, typer.Option(min=4, help="Synthetic scenes.")] = 24,
    seed: options.Seed = 0,
) -> None:
    """Make a synthetic nuScenes, build it, run the ego baselines, score and draw them."""
    from odvla_bench.baselines.predict import MODELS, predict
    from odvla_bench.datasets.build import build
    from odvla_bench.datasets.builders.base import BuildRequest
    from odvla_bench.datasets.nuscenes.synthetic import SyntheticConfig, write_nuscenes
    from odvla_bench.datasets.reader import open_build
    from odvla_bench.evaluate.planning import evaluate_planning
    from odvla_bench.evaluate.results import results_of, write_results
    from odvla_bench.predictions import read_predictions

    root, build_dir = out_dir / "nuscenes", out_dir / "build"
    out.print(f"1. a synthetic nuScenes of {scenes} scenes: {root}")
    config = SyntheticConfig(
        version=VERSION, n_scenes=scenes, seed=seed, val_share=0.25, sweeps=False
    )
    write_nuscenes(root, config)
    out.print(f"2. the planning build: {build_dir}")
    build(BuildRequest(root, VERSION, out_dir / "cache"), build_dir, overwrite=True)
    opened = open_build(build_dir)
    results: dict[str, Any] = {}
    evaluations: dict[str, Any] = {}
    for model in MODELS:
        out.print(f"3. plans and scores of {model}")
        file = out_dir / "predictions" / f"{model}.parquet"
        predict(opened, SPLIT, model, file, seed=seed)
        evaluations[model] = evaluate_planning(opened, read_predictions(file))
        results[model] = results_of(evaluations[model], seed=seed)
        write_results(evaluations[model], results[model], out_dir / "results" / model)
    out.print()
    _print(results)
    _draw(evaluations, out_dir / PICTURE)
    out.print(f"picture: {out_dir / PICTURE}   all numbers: {out_dir / 'results'}")


def _print(results: dict[str, Any]) -> None:
    from odvla_bench.cli.evaluate import number

    for metric, scale, title in (
        ("l2_m", 1, "L2, m: average of 1, 2 and 3 s, by protocol"),
        ("collision", 100, "Collisions, %: average of 1, 2 and 3 s, by protocol"),
    ):
        rows = [
            (model, *(number(r["protocols"][p]["table"][metric], "avg", scale, 3) for p in SHOWN))
            for model, r in results.items()
        ]
        print_table(title, ("model", *SHOWN), rows)


def _draw(evaluations: dict[str, Any], path: Path) -> None:
    from odvla_bench.cli.console import log
    from odvla_bench.errors import MissingDependencyError
    from odvla_bench.viz.plans import draw_side_by_side

    try:
        draw_side_by_side(
            {m: e for m, e in evaluations.items() if m not in ("stationary", "ground-truth")}, path
        )
    except MissingDependencyError as error:
        log.print(f"no picture: {error}")
