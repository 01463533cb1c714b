from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from odvla_bench.baselines.opendrivevla.answering import Answerer, Decoding
from odvla_bench.baselines.opendrivevla.checkpoint import open_model, save_model
from odvla_bench.baselines.opendrivevla.conversations import read_conversations
from odvla_bench.baselines.opendrivevla.prompting import make_prompting
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.training.checkpoints import checkpoints
from odvla_bench.baselines.training.run import open_run, prepare, train
from odvla_bench.baselines.training.trainer import TrainingError, schedule
from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.nuscenes.synthetic import SyntheticConfig, write_nuscenes
from odvla_bench.datasets.reader import open_build
from odvla_bench.errors import FormatError, InputError, OdvlaError


@pytest.fixture
def start(tmp_path):
    """A small model to start from."""
    folder = tmp_path / "start"
    save_model(tiny_model(hidden_size=64, layers=2), folder)
    return str(folder)


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}))


def test_a_stopped_run_ends_with_the_same_parameters(config, start, tmp_path):
    def settings(name):
        return config(model=start, out=str(tmp_path / name), settings=["save_every=2"])

    whole = weights(train(settings("whole")))

    class Killed(Exception):
        pass

    def kill(metrics):
        if metrics["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(settings("stopped"), report=kill)
    assert [c.name for c in checkpoints(tmp_path / "stopped")] == ["step-00000002"]
    trainer = open_run(settings("stopped"))
    assert trainer.step == 2
    assert_same(weights(trainer.run()), whole)
    before = weights(tmp_path / "start")
    assert any(not torch.equal(before[k], whole[k]) for k in whole)


def test_the_seed_decides_new_weights_whatever_ran_before(config):
    def begin(global_seed, **changes):
        torch.manual_seed(global_seed)
        settings = config(settings=["waypoint_codec=bins"], **changes)
        return prepare(settings).loaded.model.state_dict()

    first = begin(1)
    assert_same(first, begin(2))
    other = begin(1, seed=7)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_a_checkpoint_of_another_run_is_refused(config, start):
    train_settings = config(model=start, settings=["save_every=1"])

    def kill(metrics):
        if metrics["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(train_settings, report=kill)
    with pytest.raises(InputError, match="other settings"):
        open_run(dataclasses.replace(train_settings, learning_rate=0.5))


def test_a_finished_run_is_not_overwritten(config, start):
    settings = config(model=start, max_steps=1)
    train(settings)
    with pytest.raises(InputError, match="finished run"):
        train(settings)


def test_the_log_has_loss_speed_and_learning_rate(config, start, tmp_path):
    train(config(model=start, max_steps=2))
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"loss", "tokens_per_s", "learning_rate", "gradient_norm"} <= lines[0].keys()
    assert lines[0]["learning_rate"] == pytest.approx(1e-3)


def test_validation_scores_held_out_plans_by_our_metrics(config, start, tmp_path):
    settings = config(
        model=start, max_steps=1, validation_limit=4, settings=["validation_split=mini_val"]
    )
    train(settings)
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["validation/loss"] > 0
    # Nothing is learnt yet, so every text fails and is scored as standing still.
    assert last["validation/failed_parses"] == 1
    assert last["validation/l2_m"] > 0


def test_stage_1_changes_projectors_only(config, start, tokens, monkeypatch, build_dir):
    from odvla_bench.baselines.training import run, stages

    planning = dataclasses.replace(stages.STAGES["3"], trains=("projectors",))
    monkeypatch.setattr(stages, "STAGES", {**stages.STAGES, "3": planning}, raising=True)
    settings = config(model=start, inputs="visual,ego,history,command", max_steps=2)
    after = weights(run.train(settings, source=tokens))
    before = weights(__import__("pathlib").Path(start))
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed
    assert all("mm_projector" in k for k in changed)


class PoisonedTokens:
    """Tokens of one keyframe that are not numbers."""

    signature = fingerprint = "poisoned"

    def __init__(self, tokens, sample):
        self._tokens, self._sample = tokens, sample

    def __getitem__(self, sample):
        found = self._tokens[sample]
        if sample == self._sample:
            found.scene[0, 0] = np.nan
        return found


def test_a_loss_that_is_not_finite_names_its_rows(config, start, tokens):
    settings = config(model=start, inputs="visual,ego,history,command", max_steps=12)
    row = open_run(settings, source=tokens).data
    bad = row[np.array([5])].rows[0][0]
    source = PoisonedTokens(tokens, bad.split(":")[1])
    with pytest.raises(TrainingError, match=rf"not finite at 1 rows: {bad}\. Look at"):
        train(settings, source=source)


def test_missing_memory_says_what_to_lower(config, start, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("odvla_bench.baselines.training.trainer.token_losses", full)
    with pytest.raises(TrainingError, match="Step 1: out of memory.*pack_length.*fsdp"):
        train(config(model=start))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inputs": "visual"}, InputError, "name a feature store with --tokens"),
        ({"inputs": "visual", "tokens": "nowhere"}, InputError, "holds no features"),
        ({"stage": "2"}, InputError, "instruct"),
        ({"stage": "4"}, OdvlaError, "Unknown training stage"),
        ({"split": "mini_tran"}, OdvlaError, "mini_train"),
        ({"pack_length": 10}, InputError, "12 are longer than a pack of 10"),
        ({"settings": ["pack_lenth=10"]}, OdvlaError, "pack_length"),
        ({"settings": ["seed=x"]}, InputError, "seed: 'x' is not of type int"),
        ({"settings": ["prompt_profile=released"]}, InputError, "system text"),
        ({"data": ""}, InputError, "--data"),
    ],
)
def test_mistakes_are_named(config, start, changes, error, message):
    with pytest.raises(error, match=message):
        train(config(model=start, **changes))


def test_a_build_of_another_version_is_refused(config, start, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text('{"format_version": 0}')
    with pytest.raises(FormatError, match="format version 0"):
        train(config(model=start, data=str(tmp_path / "old")))


def test_settings_come_from_a_file_and_are_overridden(config, tmp_path):
    from odvla_bench.baselines.training.config import make_config

    file = tmp_path / "settings.yaml"
    file.write_text("stage: 3\nmodel: tiny\ndata: b\nout: o\npack_length: 100\ninputs: [ego]\n")
    made = make_config(file, ["pack_length=200", "compile=true"], seed=7)
    assert (made.pack_length, made.compile, made.seed, made.inputs) == (200, True, 7, ("ego",))
    made.save(tmp_path / "again.json")
    assert make_config(tmp_path / "again.json") == made


def test_the_learning_rate_rises_then_falls_as_a_cosine():
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001


_TWO_PROCESSES = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from odvla_bench.baselines.training.config import make_config
from odvla_bench.baselines.training.run import train
train(make_config(Path(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["false", "true"], ids=["ddp", "fsdp2"])
def test_two_processes_are_one_with_twice_the_batch(config, start, tmp_path, fsdp):
    script, file = tmp_path / "two.py", tmp_path / "two.json"
    script.write_text(_TWO_PROCESSES)
    shared = {"model": start, "max_steps": 3}
    config(**shared, out=str(tmp_path / "two"), settings=[f"fsdp={fsdp}"]).save(file)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"),
            *("--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"),
            *(str(script), str(file)),
        ],
        check=True,
        timeout=500,
    )
    one = config(**shared, out=str(tmp_path / "one"), settings=["packs_per_step=2"])
    assert_same(weights(tmp_path / "two" / "model"), weights(train(one)), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def many_keyframes(tmp_path_factory):
    """A planning build with 64 whole training plans and more."""
    root = tmp_path_factory.mktemp("many")
    config = SyntheticConfig(n_scenes=10, keyframes=18, sweeps=False, maps=False)
    write_nuscenes(root / "raw", config)
    build(BuildRequest(root / "raw", "v1.0-mini", root / "cache"), root / "build")
    return root / "build"


@pytest.mark.slow
def test_tiny_memorises_64_plans(config, many_keyframes):
    settings = config(
        model="tiny",
        data=str(many_keyframes),
        inputs="ego",
        limit=64,
        max_steps=220,
        learning_rate=6e-3,
        pack_length=1200,
        settings=["packs_per_step=3", "log_every=60", "waypoint_codec=bins", "warmup_share=0.1"],
    )
    finished = open_model(str(train(settings)))
    prompting = make_prompting(inputs=settings.inputs, codec="bins")
    rows = read_conversations(
        open_build(many_keyframes), "3", "mini_train", prompting, answers=True, limit=64
    )
    answerer = Answerer(finished, prompting, None, Decoding(batch_size=64))
    said = {a.row: a.text for a in answerer.answer(rows)}
    assert rows.num_rows == 64
    assert [said[i] for i in range(64)] == rows["answer"].to_pylist()
