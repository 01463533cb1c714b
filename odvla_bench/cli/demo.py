"""`odvla-bench demo`: the whole way on data it makes: tables, build, training, plans, scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import log, out, print_table, progress

if TYPE_CHECKING:
    from odvla_bench.datasets.reader import Build
    from odvla_bench.evaluate.planning import PlanningEvaluation

VERSION, SPLIT = "v1.0-trainval", "val"
SHOWN = ("exact", "opendrivevla", "uniad", "stp3", "vad")
PICTURE = "plans.png"
TINY = "tiny"
_VAL_SHARE = 0.125
_AGENTS = 10
"""Mean agents of a keyframe; fewer than in nuScenes, as each costs a token of the prompt."""


def demo(
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path(
        "demo-out"
    ),
    scenes: Annotated[int, typer.Option(min=4, help="Synthetic scenes.")] = 96,
    tiny: Annotated[
        bool, typer.Option(help="Train tiny through all four stages, which is most of the time.")
    ] = True,
    seed: options.Seed = 0,
) -> None:
    """Make a synthetic nuScenes, build it, train and run models on it, score and draw them."""
    from odvla_bench.baselines.predict import MODELS
    from odvla_bench.datasets.reader import open_build
    from odvla_bench.errors import MissingDependencyError
    from odvla_bench.evaluate.planning import evaluate_planning
    from odvla_bench.evaluate.results import results_of, write_results
    from odvla_bench.predictions import read_predictions

    build = open_build(make_demo_build(out_dir, scenes, seed))
    results: dict[str, Any] = {}
    evaluations: dict[str, PlanningEvaluation] = {}
    for model in (*MODELS, TINY) if tiny else MODELS:
        out.print(f"4. plans and scores of {model}")
        try:
            file, codec = _plans(build, model, out_dir, seed)
        except MissingDependencyError as error:
            log.print(f"left out: {error}")
            continue
        evaluations[model] = evaluate_planning(build, read_predictions(file, codec=codec))
        results[model] = results_of(evaluations[model], seed=seed)
        write_results(evaluations[model], results[model], out_dir / "results" / model)
    out.print()
    _print(results)
    _draw(evaluations, out_dir / PICTURE)
    out.print(f"picture: {out_dir / PICTURE}   all numbers: {out_dir / 'results'}")


def make_demo_build(out_dir: Path, scenes: int, seed: int) -> Path:
    """A synthetic tree, language files beside it, and the build of both."""
    from odvla_bench.datasets.build import build, find_sources
    from odvla_bench.datasets.builders.base import BuildRequest
    from odvla_bench.datasets.nuscenes.synthetic import SyntheticConfig, write_nuscenes
    from odvla_bench.datasets.nuscenes.synthetic.agents import AgentOptions
    from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files

    root, language, path = (out_dir / name for name in ("nuscenes", "language", "build"))
    out.print(f"1. a synthetic nuScenes of {scenes} scenes: {root}")
    config = SyntheticConfig(
        version=VERSION,
        n_scenes=scenes,
        seed=seed,
        val_share=max(_VAL_SHARE, 1 / scenes),
        sweeps=False,
        agents=AgentOptions(per_keyframe=_AGENTS),
        can_rate=0.3,
    )
    write_nuscenes(root, config)
    out.print(f"2. captions, questions and explanations: {language}")
    texts = LanguageConfig(seed, questions_per_keyframe=2, captions_per_keyframe=2)
    cache = out_dir / "cache"
    write_language_files(language, root, VERSION, texts, cache_dir=cache)
    out.print(f"3. the build of both: {path}")
    sources = [source for source in find_sources(root, language) if source.available]
    files = tuple((f"{s.name}.{part}", file) for s in sources for part, file in s.found.items())
    request = BuildRequest(root, VERSION, cache, files=files)
    build(request, path, sources=[source.name for source in sources], overwrite=True)
    return path


def _plans(build: Build, model: str, out_dir: Path, seed: int) -> tuple[Path, Any]:
    """The predictions file of a model, and the codec that reads it where it holds texts.

    Raises:
        MissingDependencyError: what the model needs is not installed.
    """
    from odvla_bench.baselines.predict import predict

    file = out_dir / "predictions" / f"{model}.parquet"
    if model == TINY:
        return file, plan_with_tiny(build, file, out_dir / TINY, seed)
    predict(build, SPLIT, model, file, seed=seed)
    return file, None


def plan_with_tiny(
    build: Build, file: Path, folder: Path, seed: int, *, train: str = "train", split: str = SPLIT
) -> Any:
    """Train `tiny` and write its plans; returns the codec that reads them.

    Args:
        build: with rows of every stage.
        file: the predictions.
        folder: of the trained models; what lies there is replaced.
        seed: of everything random.
        train: the split to train on.
        split: the split to plan.

    Raises:
        MissingDependencyError: torch or another library of training is not installed.
    """
    import shutil

    from odvla_bench.datasets.waypoints import get_codec
    from odvla_bench.errors import MissingDependencyError

    try:
        from transformers.utils.logging import disable_progress_bar

        from odvla_bench.baselines.training import demo as training
    except ImportError as error:
        raise MissingDependencyError(error.name or "torch", extra="train", purpose=TINY) from error
    disable_progress_bar()
    shutil.rmtree(folder, ignore_errors=True)
    with progress(TINY) as advance:
        model = training.train_tiny(
            build, folder, split=train, stages=training.STAGES, seed=seed, report=advance
        )
    training.predict_tiny(build, model, file, split=split)
    return get_codec(training.CODEC)


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


def _draw(evaluations: dict[str, PlanningEvaluation], path: Path) -> None:
    from odvla_bench.errors import MissingDependencyError
    from odvla_bench.viz.plans import draw_side_by_side

    drawn = {m: e for m, e in evaluations.items() if m not in ("stationary", "ground-truth")}
    try:
        draw_side_by_side(drawn, path)
    except MissingDependencyError as error:
        log.print(f"no picture: {error}")
