from __future__ import annotations

import numpy as np
import pytest

from odvla_bench.baselines.opendrivevla.answering import Decoding
from odvla_bench.baselines.opendrivevla.prompting import INPUTS
from odvla_bench.baselines.predict import predict as predict_ego
from odvla_bench.baselines.training import ablation, demo
from odvla_bench.baselines.training.config import make_config
from odvla_bench.baselines.training.demo import (
    CODEC,
    STAGES,
    DemoStage,
    predict_tiny,
    train_tiny,
)
from odvla_bench.cli.demo import make_demo_build, plan_with_tiny
from odvla_bench.datasets.build import build, find_sources
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.evaluate.planning import evaluate_planning
from odvla_bench.predictions import read_predictions
from odvla_bench.provenance import default_cache_dir

SPLITS = {"split": "mini_train"}
WITHOUT_COMMAND = tuple(name for name in INPUTS if name != "command")


@pytest.fixture(scope="module")
def two_tables(synthetic_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("stages") / "build"
    request = BuildRequest(synthetic_root, "v1.0-mini", default_cache_dir())
    build(request, out, sources=("planning", "forecasting"))
    return open_build(out)


def test_each_stage_that_the_build_has_goes_on_from_the_last(two_tables, tmp_path):
    told = []
    stages = [DemoStage(name, 1, 1e-3, 8) for name in ("1", "2", "2.5", "3")]
    model = train_tiny(
        two_tables,
        tmp_path,
        **SPLITS,
        stages=stages,
        report=lambda done, total, what: told.append((done, total, what.partition(",")[0])),
    )
    assert told == [(1, 2, "stage 2.5"), (2, 2, "stage 3")]
    assert model == tmp_path / "stage-3" / "model"
    found = read_predictions(
        predict_tiny(two_tables, model, tmp_path / "plans.parquet", split="mini_val"),
        codec=get_codec("bins"),
    )
    assert len(found) == two_tables.table("planning", "mini_val").num_rows


@pytest.fixture(scope="module")
def whole_build(synthetic_root, tmp_path_factory):
    """A build with rows of every stage."""
    folder, version = tmp_path_factory.mktemp("whole"), "v1.0-mini"
    texts = LanguageConfig(questions_per_keyframe=1, captions_per_keyframe=1)
    write_language_files(folder / "language", synthetic_root, version, texts)
    sources = [s for s in find_sources(synthetic_root, folder / "language") if s.available]
    files = tuple((f"{s.name}.{part}", file) for s in sources for part, file in s.found.items())
    request = BuildRequest(synthetic_root, version, default_cache_dir(), files=files)
    build(request, folder / "build", sources=[s.name for s in sources])
    return open_build(folder / "build")


def test_the_demo_trains_four_stages_and_plans(whole_build, tmp_path, monkeypatch, capsys):
    names = ("1", "2", "2.5", "3")
    monkeypatch.setattr(demo, "STAGES", tuple(DemoStage(name, 1, 1e-3, 8) for name in names))
    file = tmp_path / "tiny.parquet"
    codec = plan_with_tiny(
        whole_build, file, tmp_path / "tiny", 0, train="mini_train", split="mini_val"
    )
    lines = capsys.readouterr().err.splitlines()
    told = [line.partition(",")[0] for line in lines if line.startswith("tiny: ")]
    assert told == [f"tiny: {i}/4 stage {name}" for i, name in enumerate(names, 1)]
    assert all((tmp_path / "tiny" / f"stage-{n}" / "model" / "config.json").exists() for n in names)
    found = evaluate_planning(whole_build, read_predictions(file, codec=codec))
    assert found.split == "mini_val"
    assert found.comparable


def _l2_m(build, plans):
    """(N,) average L2 of 1, 2 and 3 s under `exact`; NaN where a keyframe is not scored."""
    scores = evaluate_planning(build, plans, protocols=("exact",)).scores["exact"]
    return np.where(scores.scored, scores.l2_m[:, [1, 3, 5]].mean(1), np.nan)


@pytest.mark.slow
def test_tiny_beats_the_ego_planners_and_needs_the_command(tmp_path):
    """On another synthetic drive of 84 scenes, as the demo's own split has turns in seven only."""
    build = open_build(make_demo_build(tmp_path / "seen", 96, 0))
    unseen = open_build(make_demo_build(tmp_path / "unseen", 96, 1))
    begun = train_tiny(build, tmp_path / "begun", stages=STAGES[:3])
    l2_m = {}
    for name, inputs in {"tiny": INPUTS, "no-command": WITHOUT_COMMAND}.items():
        folder = tmp_path / name
        model = train_tiny(build, folder, model=begun, stages=STAGES[3:], inputs=inputs)
        file = predict_tiny(unseen, model, folder / "plans.parquet", split="train")
        l2_m[name] = _l2_m(unseen, read_predictions(file, codec=get_codec(CODEC)))
    for name in ("stationary", "constant-velocity"):
        predict_ego(unseen, "train", name, tmp_path / f"{name}.parquet")
        l2_m[name] = _l2_m(unseen, read_predictions(tmp_path / f"{name}.parquet"))
    turns = np.array(unseen.table("planning", "train", ("command",))["command"]) != "keep forward"
    mean = {name: np.nanmean(values) for name, values in l2_m.items()}
    turning = {name: np.nanmean(values[turns]) for name, values in l2_m.items()}
    assert turns.sum() > 400
    assert mean["tiny"] < 0.8 * mean["constant-velocity"] < mean["stationary"]
    assert turning["tiny"] < 0.8 * turning["constant-velocity"]
    assert turning["no-command"] > 1.15 * turning["tiny"]


def test_the_ablation_scores_the_five_rows_of_table_5(two_tables, tmp_path):
    config = make_config(
        stage="3",
        model="tiny",
        data=str(two_tables.path),
        out=str(tmp_path),
        tokens="annotations",
        split="mini_train",
        max_steps=1,
        pack_length=1200,
        validation_limit=0,
    )
    results = ablation.ablate(
        config, split="mini_val", decoding=Decoding(batch_size=32, max_new_tokens=16)
    )
    assert list(results) == ["no-ego", "no-history", "text-only", "no-command", "full"]
    shown = {name: r["predictions"]["metadata"]["inputs"] for name, r in results.items()}
    assert shown["text-only"] == "ego,history,command"
    assert shown["full"] == "visual,ego,history,command"
    assert all(r["protocols"]["exact"]["table"]["l2_m"]["avg"] > 0 for r in results.values())
