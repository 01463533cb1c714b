"""`train`, `predict`, `eval` and `ablate` of a model, as a user runs them, right and wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from factories.builds import MINI, make_build

from odvla_bench.baselines.opendrivevla.answering import Decoding
from odvla_bench.baselines.opendrivevla.checkpoint import save_model
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.training import ablation
from odvla_bench.cli.main import run
from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files

TRAINING = ("--set", "split=mini_train", "--set", "validation_split=mini_val")
VALIDATION = "mini_val"


@pytest.fixture(scope="module")
def build(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for stages 2, 2.5 and 3."""
    files, out = tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("build") / "b"
    texts = LanguageConfig(questions_per_keyframe=1, captions_per_keyframe=1, defects=False)
    write_language_files(files, synthetic_root, MINI, texts)
    sources = ("planning", "forecasting", "nuscenes_qa", "nux")
    return make_build(synthetic_root, out, *sources, language=files, version=MINI).path


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """An untrained model that sees no image."""
    made = tiny_model()
    made.model.config.prompt_inputs = ["ego", "history", "command"]
    save_model(made, tmp_path / "text-model")
    return tmp_path / "text-model"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs a command; what it prints on both streams. No traceback ever."""

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["odvla-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            run()
        printed = capfd.readouterr()
        assert int(stopped.value.code or 0) == code, printed.err
        assert "Traceback" not in printed.err
        return printed.out + printed.err

    return call


def test_a_run_prints_what_it_trains_and_goes_on_to_the_next_stage(cli, build, tmp_path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("log_every: 1\nvalidation_limit: 4\npack_length: 1200\nseed: 9\n")
    first = tmp_path / "2.5"
    text = cli("train", "--stage", "2.5", "--model", "tiny", "--data", build, "--out", first,
               "--tokens", "annotations", "--max-steps", "2", "--limit", "40", "--seed", "3",
               "--config", settings, *TRAINING, "--set", "validate_every=1")  # fmt: skip
    assert "projectors, language: 0." in text
    assert " of forecasting (0 too long, " in text
    assert "every 1 steps and at the end" in text
    assert "train: 2/2 learning_rate" in text
    assert all(name in text for name in ("loss ", "tokens_per_s ", "validation/fde_m "))
    assert f"model: {first / 'model'}" in text.replace("\n", "")
    kept = json.loads((first / "config.json").read_text())
    assert (kept["seed"], kept["limit"], kept["max_steps"], kept["pack_length"]) == (3, 40, 2, 1200)
    again = ("train", "--stage", "3", "--data", build, "--tokens", "annotations", "--max-steps",
             "1", "--config", settings, *TRAINING)  # fmt: skip
    cli(*again, "--model", first, "--out", tmp_path / "3")  # the run's folder stands for its model
    assert "finished run" in cli(*again, "--model", first, "--out", tmp_path / "3", code=2)
    shutil.rmtree(first / "model")
    (first / "checkpoints").mkdir()
    unfinished = cli(*again, "--model", first, "--out", tmp_path / "x", code=2)
    assert "a training run that is not finished" in unfinished


def test_agents_motion_is_predicted_and_scored(cli, build, text_model, tmp_path) -> None:
    preds, results = tmp_path / "motion.parquet", tmp_path / "results"
    cli("predict", "--model", text_model, "--stage", "2.5", "--data", build, "--split", VALIDATION,
        "--limit", "12", "--constrain", "--out", preds)  # fmt: skip
    score = ("eval", "--task", "forecasting", "--preds", preds, "--data", build, "--split",
             VALIDATION)  # fmt: skip
    assert "missing: forecasting:" in cli(*score, code=2)
    text = cli(*score, "--allow-partial", "--out", results)
    assert "minADE 1 s, m" in text
    assert "NOT COMPARABLE" in text
    found = json.loads((results / "results.json").read_text())
    assert found["task"] == "forecasting"
    assert "|constrained:yes|partial:" in found["signature"]
    assert pq.read_table(results / "samples.parquet").num_rows == 12
    assert "only those of plans" in cli("compare", results, results, code=2)
    assert "contradicts" in cli(*score, "--repair", "released", code=2)


def test_answers_of_a_stage_are_scored_by_task(cli, build, text_model, tmp_path) -> None:
    preds = tmp_path / "answers.jsonl"
    rows = [
        {"row_id": row["row_id"], "text": row["messages"][-1]["content"]}
        for path in sorted((build / "instruct").rglob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
        if row["split"] == VALIDATION
    ]
    preds.write_text("\n".join(map(json.dumps, rows)))
    score = ("eval", "--preds", preds, "--data", build, "--split", VALIDATION)
    assert "nuscenesqa-strict" in cli(*score, "--task", "nuscenes_qa")
    unknown = cli(*score, "--task", "forecastin", code=2)
    assert "Did you mean 'forecasting'" in unknown
    predicted = tmp_path / "stage-2.parquet"
    cli("predict", "--model", text_model, "--stage", "2", "--data", build, "--split", VALIDATION,
        "--limit", "2", "--out", predicted)  # fmt: skip
    assert set(pq.read_table(predicted)["task"].to_pylist()) <= {"qa", "explanation"}


MISTAKES = {
    "no such stage": (("--stage", "4"), "Known: 1, 2, 2.5, 3"),
    "words constrained": (("--stage", "2", "--constrain"), "answers in words"),
    "command of questions": (("--stage", "2", "--command", "turn left"), "in stage 3 only"),
    "no such command": (("--command", "turn lefft"), "Did you mean 'turn left'"),
    "not Parquet": (("--out", "x.jsonl"), "written as .parquet"),
    "no such split": (("--split", "mini_vall"), "mini_val"),
    "no such executor": (("--executor", "slurm"), "Known: local, ray"),
    "no such model": (("--model", "./nowhere"), "not a folder"),
    "no table": (("--stage", "1"), "has no table 'alignment'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_predict(cli, build, text_model, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given, says = MISTAKES[name]
    options = {"--model": text_model, "--data": build, "--split": VALIDATION,
               "--out": tmp_path / "p.parquet"}  # fmt: skip
    flags = [x for pair in options.items() if pair[0] not in given for x in pair]
    assert says in cli("predict", *flags, *given, code=2)
    assert not (tmp_path / "p.parquet").exists()


def test_a_command_has_no_effect_on_a_model_that_sees_none(cli, build, tmp_path) -> None:
    made = tiny_model()
    made.model.config.prompt_inputs = ["ego", "history"]
    save_model(made, tmp_path / "m")
    text = cli("predict", "--model", tmp_path / "m", "--data", build, "--split", VALIDATION,
               "--command", "turn left", "--out", tmp_path / "p.parquet", code=2)  # fmt: skip
    assert "without a driving command" in text


def test_the_ablation_prints_text_only_beside_the_rest(cli, build, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ablation, "Decoding", lambda: Decoding(32, max_new_tokens=16))
    options = ("ablate", "--model", "tiny", "--data", build, "--tokens", "annotations", "--split",
               VALIDATION, "--set", "split=mini_train", "--set", "validation_limit=0", "--set",
               "waypoint_codec=bins", "--set", "limit=6", "--out", tmp_path / "a")  # fmt: skip
    text = cli(*options, "--max-steps", "1")
    for row in ("no-ego", "no-history", "text-only", "no-command", "full"):
        assert text.count(f"\n  {row} ") == 2, "once for L2, once for collisions"
    results = json.loads((tmp_path / "a" / "ablation.json").read_text())
    assert results["text-only"]["predictions"]["metadata"]["tokens"] == "none"
    assert "trained with other settings" in cli(*options, "--max-steps", "2", code=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "runs in one process" in cli(*options, "--max-steps", "1", code=2)
