from __future__ import annotations

import pytest

from odvla_bench.baselines.opendrivevla.answering import Decoding
from odvla_bench.baselines.training import ablation
from odvla_bench.baselines.training.config import make_config
from odvla_bench.baselines.training.demo import DemoStage, predict_tiny, train_tiny
from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.predictions import read_predictions
from odvla_bench.provenance import default_cache_dir

SPLITS = {"split": "mini_train"}


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
        report=lambda name, metrics: told.append((name, metrics["step"])),
    )
    assert told == [("2.5", 1), ("3", 1)]
    assert model == tmp_path / "stage-3" / "model"
    found = read_predictions(
        predict_tiny(two_tables, model, tmp_path / "plans.parquet", split="mini_val"),
        codec=get_codec("bins"),
    )
    assert len(found) == two_tables.table("planning", "mini_val").num_rows


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
