"""What each setting of a run does, and what the log says of it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from accelerate.utils import LoggerType
from safetensors.torch import load_file

from odvla_bench.baselines.opendrivevla.annotation_tokens import SETTINGS
from odvla_bench.baselines.opendrivevla.build_tokens import AnnotationTokens
from odvla_bench.baselines.opendrivevla.checkpoint import save_model
from odvla_bench.baselines.opendrivevla.features import FeatureStore, write_scene
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.training import accelerator, throughput, trainer
from odvla_bench.baselines.training.attention import pick_implementation
from odvla_bench.baselines.training.checkpoints import whole_folder
from odvla_bench.baselines.training.run import open_run, prepare, train
from odvla_bench.baselines.training.stages import freeze, get_stage
from odvla_bench.datasets.reader import open_build
from odvla_bench.errors import InputError, MissingDependencyError, OdvlaError

VISUAL = "visual,ego,history,command"


@pytest.fixture
def start(tmp_path):
    """A small model to start from."""
    save_model(tiny_model(hidden_size=64, layers=2), tmp_path / "start")
    return str(tmp_path / "start")


@pytest.fixture
def trained(config, start, tmp_path):
    """Trains for two steps; the weights, and the lines of the log."""

    def run(name, *settings, **changes):
        made = config(
            model=start, out=str(tmp_path / name), settings=settings, **({"max_steps": 2} | changes)
        )
        weights = load_file(train(made) / "model.safetensors")
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        return weights, [json.loads(line) for line in lines]

    return run


def farthest(a, b):
    """The largest difference of two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[k].float() - b[k].float()).abs().max()) for k in a)


def test_a_gradient_is_clipped_to_the_norm_asked_for(trained, start):
    before = load_file(f"{start}/model.safetensors")
    free, lines = trained("free", "max_gradient_norm=0")
    # Far below AdamW's epsilon nothing moves any more.
    clipped, other_lines = trained("clipped", "max_gradient_norm=1e-13")
    assert farthest(free, before) > 1e-4
    assert farthest(clipped, before) < 1e-6
    assert lines[0]["gradient_norm"] == other_lines[0]["gradient_norm"] > 1e-3


@pytest.mark.parametrize("setting", ["gradient_checkpointing=true", "workers=2"])
def test_what_must_not_move_a_parameter_does_not(trained, setting):
    plain, _ = trained("plain")
    other, _ = trained("other", setting)
    assert farthest(plain, other) < 1e-6


def test_bf16_computes_in_bf16_and_keeps_float32_weights(trained):
    (plain, lines), (half, half_lines) = trained("plain"), trained("half", precision="bf16")
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    assert half_lines[0]["loss"] != lines[0]["loss"]
    assert half_lines[0]["loss"] == pytest.approx(lines[0]["loss"], rel=0.02)
    assert farthest(plain, half) < 5e-3


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses_and_gradients(trained):
    # Not parameters: AdamW's first steps are as long for a gradient of rounding errors.
    _, plain = trained("plain")
    _, compiled = trained("compiled", "compile=true")
    for one, other in zip(plain, compiled, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-5)


def test_losses_are_told_apart_by_task(trained, all_stages):
    _, lines = trained(
        "run", stage="2", data=str(all_stages), inputs="ego", limit=0, max_steps=1, pack_length=4000
    )
    tasks = {name: v for name, v in lines[0].items() if name.startswith("loss/")}
    assert set(tasks) <= {"loss/qa", "loss/view_caption", "loss/explanation"}
    assert len(tasks) > 1
    assert min(tasks.values()) < lines[0]["loss"] < max(tasks.values())


def test_operations_of_a_step_by_hand():
    model = tiny_model(hidden_size=64, layers=2).model
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    body = sum(
        n for name, n in sizes.items() if "embed_tokens" not in name and "lm_head" not in name
    )
    head, attention = model.config.vocab_size * 64, 12 * 2 * 64 * 50
    found = throughput.step_flops(model, positions=100, kept=30, context=50)
    assert found == 100 * (6 * body + attention) + 30 * 6 * head
    freeze(model, get_stage("1"))
    projectors = sum(n for name, n in sizes.items() if "mm_projector" in name)
    frozen = throughput.step_flops(model, positions=100, kept=30, context=50)
    assert frozen == 100 * (4 * body + 2 * projectors + attention) + 30 * 4 * head


def test_utilisation_is_of_the_peak(monkeypatch):
    seconds = iter([10.0, 12.0, 12.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(seconds))
    meter = throughput.Meter(peak=100.0)
    meter.add(30, 50.0)
    meter.add(10, 30.0)
    assert meter.read() == {"tokens_per_s": 20.0, "utilisation": 0.4}
    assert throughput.peak_flops(torch.device("cpu")) == 0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert throughput.peak_flops(torch.device("cuda")) == 989e12


def test_filling_is_no_token(config, start):
    data = open_run(config(model=start, settings=["pack_length=800"])).data
    filled = type(data).__getitem__
    batch = filled(data, data.packs(0)[0])
    assert batch.real.all()
    data._fill = True
    batch = filled(data, data.packs(0)[0])
    assert len(batch.real) == 800
    assert 0 < int(batch.real.sum()) < 800


WANDB = """
import json, pathlib
LOG = pathlib.Path(__file__).with_name("told.jsonl")
class config:
    update = staticmethod(lambda values, **_: LOG.open("a").write(json.dumps(values) + "\\n"))
class Run:
    name = "run"
    config = config
    def log(self, values, step=None, **_):
        LOG.open("a").write(json.dumps({**values, "at": step}) + "\\n")
    def finish(self):
        LOG.open("a").write('"finished"')
def init(**_):
    return Run()
"""


def test_a_tracker_that_is_installed_is_told_everything(trained, tmp_path, monkeypatch):
    (tmp_path / "site" / "wandb").mkdir(parents=True)
    (tmp_path / "site" / "wandb" / "__init__.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])
    try:
        trained("run", "track=wandb")
    finally:
        sys.modules.pop("wandb", None)
    told = [json.loads(x) for x in (tmp_path / "site/wandb/told.jsonl").read_text().splitlines()]
    assert told[0]["pack_length"] == "800"
    assert [line["at"] for line in told[1:-1]] == [1, 2]
    assert all(line["loss"] > 0 for line in told[1:-1])
    assert told[-1] == "finished"


def test_a_tracker_that_is_absent_says_how_to_get_it(config, start, monkeypatch):
    monkeypatch.setattr(accelerator.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'odvla-bench\[track\]'"):
        train(config(model=start, settings=["track=tensorboard"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attention=flash", "flash_attention_2"),
        ("precision=fp8", "bf16"),
        ("track=mlflow", "wandb"),
        ("pack_length=0", "pack_length is 0; it must be 1 or more"),
        ("learning_rate=-1", "learning_rate is -1.0; it must be 0 or more"),
        ("learning_rate=nan", "learning_rate is nan"),
        ("warmup_share=3", "share of the steps"),
    ],
)
def test_settings_that_make_no_run_are_named(config, setting, message):
    with pytest.raises(OdvlaError, match=message):
        config(settings=[setting], **{setting.partition("=")[0]: None})


def test_attention_that_is_not_installed_is_named(config, start, monkeypatch):
    def absent(*_):
        raise ImportError("FlashAttention2 has been toggled on, but it cannot be used")

    monkeypatch.setattr(
        "odvla_bench.baselines.opendrivevla.modeling.OpenDriveVLAForConditionalGeneration"
        ".set_attn_implementation",
        absent,
    )
    with pytest.raises(InputError, match="attention=flash_attention_2 cannot be used here.*auto"):
        train(config(model=start, settings=["attention=flash_attention_2"]))


def test_attention_is_chosen_by_the_device():
    assert pick_implementation(torch.device("cpu")) == "sdpa"
    assert pick_implementation(torch.device("cuda")) == "flex_attention"
    assert pick_implementation(torch.device("cuda"), "flash_attention_3") == "flash_attention_3"


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_kernels_that_cannot_share_a_beginning_get_whole_sequences(
    config, start, all_stages, attention
):
    made = config(
        model=start,
        stage="2",
        data=str(all_stages),
        inputs="ego",
        pack_length=3000,
        settings=[f"attention={attention}"],
    )
    data = prepare(made).data
    batch = data[data.packs(0)[0]]
    shares = any(len(rows) > 1 for rows in batch.rows)
    assert shares == (attention == "sdpa")
    # FlashAttention tells sequences apart by positions that start again.
    starts = int((batch.inputs["position_ids"] == 0).sum())
    assert starts == len(batch.rows) > 1


def test_a_keyframe_without_features_is_named(config, start, build_dir, tmp_path):
    build = open_build(build_dir)
    source = AnnotationTokens(build)
    tokens = build.table("planning", "mini_train", ("sample_token",))["sample_token"].to_pylist()
    write_scene(tmp_path / "f", "scene", SETTINGS, {t: source[t] for t in tokens[:3]})
    assert len(FeatureStore(tmp_path / "f")) == 3
    settings = config(model=start, inputs=VISUAL, tokens=str(tmp_path / "f"), pack_length=2000)
    with pytest.raises(InputError, match=f"no features for keyframe {tokens[3]} .it has 3."):
        train(settings)
    assert train(config(model=start, inputs=VISUAL, tokens=str(tmp_path / "f"), pack_length=2000,
                        limit=3, max_steps=1)).is_dir()  # fmt: skip


def test_a_model_half_written_is_no_model(config, start, tmp_path, monkeypatch):
    def dies(_, folder, *__):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    settings = config(model=start, max_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_model", dies)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    assert not (tmp_path / "run" / "model").exists()
    assert train(settings) == tmp_path / "run" / "model"


def test_a_whole_folder_takes_the_place_of_the_old(tmp_path):
    for text in "ab":
        with whole_folder(tmp_path / "x") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_learning_rates_of_the_stage_unless_set(config, start):
    rate = open_run(config(model=start, learning_rate=0))._optimizer.param_groups[0]["peak"]
    assert rate == get_stage("3").learning_rate == 1e-5
    assert np.isclose(
        open_run(config(model=start, learning_rate=0.5))._optimizer.param_groups[0]["peak"], 0.5
    )
