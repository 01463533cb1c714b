"""Stage 3 on images: clips through the model's own perception, which learns with the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from odvla_bench.baselines.opendrivevla.checkpoint import open_model, save_model
from odvla_bench.baselines.opendrivevla.configuration import MAP, PLACEHOLDER_IDS, SCENE, TRACK
from odvla_bench.baselines.opendrivevla.conversations import read_conversations
from odvla_bench.baselines.opendrivevla.features import KeyframeFeatures
from odvla_bench.baselines.opendrivevla.modeling import spread_slots
from odvla_bench.baselines.opendrivevla.perception import clip as clip_module
from odvla_bench.baselines.opendrivevla.perception import config as perception_config_module
from odvla_bench.baselines.opendrivevla.perception.checkpoint import (
    load_checkpoint,
    save_checkpoint,
)
from odvla_bench.baselines.opendrivevla.perception.clip import FROZEN, WITHOUT_GRADIENT
from odvla_bench.baselines.opendrivevla.perception.config import (
    PRESETS,
    PerceptionConfig,
    perception_config,
)
from odvla_bench.baselines.opendrivevla.perception.images import ImageError
from odvla_bench.baselines.opendrivevla.perception.network import Perception
from odvla_bench.baselines.opendrivevla.perception.scenes import scenes_from_build
from odvla_bench.baselines.opendrivevla.predict import Prediction, predict
from odvla_bench.baselines.opendrivevla.processing import expand_slots
from odvla_bench.baselines.opendrivevla.prompting import make_prompting
from odvla_bench.baselines.opendrivevla.sight import perception_of
from odvla_bench.baselines.opendrivevla.tiny import tiny_model
from odvla_bench.baselines.training.checkpoints import checkpoints
from odvla_bench.baselines.training.clips import ClipData, Clips
from odvla_bench.baselines.training.config import make_config
from odvla_bench.baselines.training.data import TrainingData
from odvla_bench.baselines.training.images import attach_perception
from odvla_bench.baselines.training.loss import token_losses
from odvla_bench.baselines.training.packing import Example, lay_out
from odvla_bench.baselines.training.run import open_run, train
from odvla_bench.baselines.training.stages import freeze, get_stage
from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.nuscenes.synthetic import AgentOptions, SyntheticConfig, write_nuscenes
from odvla_bench.datasets.reader import open_build
from odvla_bench.errors import InputError

MINI = "uniad-mini"
SPLIT, HELD_OUT = "mini_train", "mini_val"


@pytest.fixture(scope="module", autouse=True)
def _mini_preset():
    """A perception a quarter as costly as the goldens' one."""
    mini = PerceptionConfig(
        name=MINI,
        backbone_blocks=(1, 1, 1, 1),
        backbone_width=8,
        bev_rows=20,
        bev_columns=20,
        encoder_layers=1,
        decoder_layers=1,
        queries=60,
        track_block=16,
        max_agents=40,
        map_encoder_layers=1,
        map_decoder_layers=1,
        map_queries=30,
        map_candidates=20,
        thing_blocks=1,
        stuff_blocks=1,
    )
    names = {name: PRESETS.get(name) for name in PRESETS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            perception_config_module, "PRESETS", type(PRESETS)("preset", {**names, MINI: mini})
        )
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory, _mini_preset):
    """A nuScenes root with small pictures, its build, and weights of a perception."""
    folder = tmp_path_factory.mktemp("images")
    agents = AgentOptions(per_keyframe=4)
    write_nuscenes(
        folder,
        SyntheticConfig(
            n_scenes=3,
            keyframes=9,
            sweeps=False,
            maps=False,
            agents=agents,
            image_size=(160, 96),
        ),
    )
    build(BuildRequest(folder, "v1.0-mini", folder / "cache"), folder / "build")
    torch.manual_seed(0)
    network = Perception(perception_config(MINI, behaviour="fixed"))
    with torch.no_grad():
        for name, parameter in network.named_parameters():  # else nothing moves the sampling
            if "sampling_offsets" in name or "attention_weights" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
        # One map element covers everything.
        network.seg_head.things_mask_head.attnen.linear[0].bias.fill_(1.0)
    save_checkpoint(network, folder / "perception.safetensors")
    return folder


@pytest.fixture
def settings(images, tmp_path):
    """Settings of a short stage-3 run on images."""
    start = tmp_path / "start"
    save_model(tiny_model(hidden_size=64, layers=1), start)

    def make(**changes):
        given = {
            "stage": "3",
            "model": str(start),
            "data": str(images / "build"),
            "out": str(tmp_path / "run"),
            "tokens": "images",
            "nuscenes_root": str(images),
            "checkpoint": str(images / "perception.safetensors"),
            "perception_preset": MINI,
            "perception_behaviour": "fixed",
            "split": SPLIT,
            "validation_split": HELD_OUT,
            "validation_limit": 0,
            "precision": "no",
            "learning_rate": 3e-3,
            "perception_learning_rate": 1e-4,
            "limit": 2,
            "log_every": 1,
            "save_every": 2,
            "max_steps": 5,
        }
        return make_config(**(given | changes))

    return make


@pytest.fixture
def matched(monkeypatch):
    """Agents become tokens wherever the random network finds them."""
    monkeypatch.setattr(clip_module, "MINIMUM_IOU", 0.0)
    monkeypatch.setattr(clip_module, "KEPT_IOU", -1.0)


def test_clips_end_in_their_keyframe_and_begin_without_motion(images):
    scenes = list(scenes_from_build(images, images / "build"))
    clips = Clips(scenes, perception_config(MINI).behaviour)
    lengths = [len(clips[k.sample_token].frames) for k in scenes[0].keyframes]
    assert lengths == [1, 2, 3, 4, 5, 5, 5, 5, 5]
    last = scenes[0].keyframes[-1]
    clip = clips[last.sample_token]
    assert clip.annotations[-1] is last.annotations
    assert clip.frames[0].can_bus[0, :3].tolist() == [0, 0, 0]
    assert all(frame.can_bus[0, :3].abs().sum() > 0 for frame in clip.frames[1:])
    assert clip.frames[1].motion.seconds.item() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InputError, match="Keyframe nothing is in no scene"):
        clips["nothing"]


@pytest.mark.parametrize("counts", product((0, 1, 3), repeat=3), ids=str)
def test_slots_are_spread_as_if_the_numbers_had_been_known(counts):
    slots = [PLACEHOLDER_IDS[p] for p in (SCENE, TRACK, MAP)]
    ids = np.array([5, slots[0], 6, 7, slots[1], slots[2], 8, 9])
    learnt = np.array([0, 0, 1, 0, 0, 0, 1, 1], bool)
    known = dict(zip((SCENE, TRACK, MAP), counts, strict=True))
    whole = lay_out([Example("r", 0, expand_slots(ids, learnt, known))])
    short = lay_out([Example("r", 0, expand_slots(ids, learnt, dict.fromkeys(known, 1)))])
    kept = np.flatnonzero(short.weight > 0)
    spread, last = spread_slots(
        torch.from_numpy(short.input_ids)[None], dict(zip(slots, counts, strict=True))
    )
    assert spread[0].tolist() == whole.input_ids.tolist()
    assert last[kept].tolist() == np.flatnonzero(whole.weight > 0).tolist()
    assert whole.target[last[kept].numpy()].tolist() == short.target[kept].tolist()


def model_and_data(settings, images, limit):
    """A model with perception, and the build's first conversations with clips."""
    config = settings()
    loaded, prompting = open_model(config.model), make_prompting()
    attach_perception(config, loaded)
    rows = read_conversations(
        open_build(images / "build"), "3", SPLIT, prompting, answers=True, limit=limit
    )
    clips = Clips(
        scenes_from_build(images, images / "build"), loaded.model.model.perception.config.behaviour
    )
    common = rows, loaded.processor, prompting.profile.system
    return loaded.model, common, ClipData(*common, clips, pack_length=1000)


class OneKeyframe:
    """A source that has seen one keyframe."""

    fingerprint = signature = "one"

    def __init__(self, seen):
        parts = (seen.scene_features, seen.track_features, seen.map_features)
        arrays = [part.detach().numpy() for part in parts]
        n = np.arange(len(arrays[1]))
        boxes, scores = np.zeros((len(n), 9), np.float32), np.ones(len(n), np.float32)
        self._features = KeyframeFeatures(*arrays, n, n, boxes, scores, n)

    def __getitem__(self, sample_token):
        return self._features


def test_a_clip_is_worth_what_its_tokens_are(settings, images, matched):
    model, common, data = model_and_data(settings, images, limit=1)
    model.eval()
    batch = data[np.array([0])]
    with torch.no_grad():
        seen = model.model.see(batch.clip)
        stored = TrainingData(*common, OneKeyframe(seen), pack_length=1000)[np.array([0])]
        assert len(seen.track_features) > 0
        assert batch.inputs["input_ids"].shape < stored.inputs["input_ids"].shape
        torch.testing.assert_close(
            token_losses(model, batch, "sdpa"), token_losses(model, stored, "sdpa")
        )
    assert batch.rows_at(torch.ones(len(batch.kept), dtype=torch.bool)) == stored.rows[0]


def test_the_loss_reaches_exactly_the_intended_parameters(settings, images, matched):
    model, _, data = model_and_data(settings, images, limit=3)
    freeze(model, get_stage("3"))
    model.train()
    batch = data[np.array([2])]
    assert len(batch.clip.frames) == 3
    (token_losses(model, batch, "sdpa") * batch.weight).sum().backward()
    untouched = tuple(f"model.perception.{name}" for name in (*FROZEN, *WITHOUT_GRADIENT))
    for name, parameter in model.named_parameters():
        filled = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert filled is not name.startswith(untouched), name


def test_a_run_learns_and_goes_on_after_a_stop(settings, images, tmp_path):
    losses = []
    whole = train(
        settings(out=str(tmp_path / "whole"), limit=1, validation_limit=1),
        report=lambda m: losses.append(m.get("loss", m.get("validation/loss"))),
    )
    assert losses[4] < 0.9 * losses[0]
    assert np.isfinite(losses[5])

    class Killed(Exception):
        pass

    def kill(metrics):
        if metrics["step"] == 3:
            raise Killed

    stopped = settings(out=str(tmp_path / "stopped"), limit=1, validation_limit=1)
    with pytest.raises(Killed):
        train(stopped, report=kill)
    assert [c.name for c in checkpoints(tmp_path / "stopped")] == ["step-00000002"]
    run = open_run(stopped)
    assert (run.step, run.parts) == (2, ["projectors", "language", "perception"])
    after = load_file(run.run() / "model.safetensors")
    expected = load_file(whole / "model.safetensors")
    assert after.keys() == expected.keys()
    assert [k for k in after if not torch.equal(after[k], expected[k])] == []
    before = load_file(images / "perception.safetensors")
    changed = {k for k in before if not torch.equal(before[k], after[f"model.perception.{k}"])}
    assert any(k.startswith("img_neck.") for k in changed)
    assert any(k.startswith("pts_bbox_head.transformer.encoder.") for k in changed)
    assert not any(k.startswith((*FROZEN, *WITHOUT_GRADIENT)) for k in changed)


@pytest.fixture
def seeing(settings, tmp_path):
    """The folder of a model with perception."""
    config = settings()
    loaded = open_model(config.model)
    attach_perception(config, loaded)
    save_model(loaded, tmp_path / "seeing")
    return tmp_path / "seeing"


def test_a_model_with_perception_is_saved_whole(seeing, images):
    again = open_model(str(seeing), dtype=torch.bfloat16)
    network = again.model.model.perception
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert again.model.lm_head.weight.dtype == torch.bfloat16
    assert network.config == perception_config(MINI, behaviour="fixed")
    for name, tensor in load_file(images / "perception.safetensors").items():
        assert torch.equal(network.state_dict()[name], tensor)
    _, report = load_checkpoint(seeing, perception_of(str(seeing)))
    assert (report.missing, report.unexpected) == ((), ())


def test_prediction_from_images(seeing, images, tmp_path):
    asked = Prediction(
        str(seeing),
        images / "build",
        tmp_path / "plans.parquet",
        split=HELD_OUT,
        tokens="images",
        nuscenes_root=str(images),
        limit=2,
    )
    stopped = replace(asked, limit=1, out=tmp_path / "one.parquet")
    told: list[tuple[int, int]] = []
    predict(asked, report=lambda done, total: told.append((done, total)))
    assert told == [(1, 1), (1, 1)]  # a scene seen, a shard answered
    table = pq.read_table(asked.out)
    assert table.num_rows == 2
    assert b"tokens:perception|behaviour:fixed" in table.schema.metadata[b"odvla_bench.predictions"]
    assert sorted(p.name for p in tmp_path.glob("plans*")) == ["plans.parquet"]
    with pytest.raises(InputError, match="name the folder of the images with --nuscenes-root"):
        predict(replace(stopped, nuscenes_root=""))
    assert not stopped.out.exists()


def test_a_model_without_perception_cannot_predict_from_images(settings, images, tmp_path):
    asked = Prediction(
        settings().model,
        images / "build",
        tmp_path / "plans.parquet",
        split=HELD_OUT,
        tokens="images",
        nuscenes_root=str(images),
    )
    with pytest.raises(InputError, match="a model without perception. Give the folder of"):
        predict(asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "2.5"}, "stage 2.5 leaves the perception as it is"),
        ({"nuscenes_root": ""}, "name the folder of the images with --nuscenes-root"),
        ({"settings": ["fsdp=true"]}, "perception's parameters are not sharded"),
        ({"checkpoint": ""}, "a model without perception. Name the weights"),
        ({"checkpoint": "nowhere.pth"}, "No checkpoint at nowhere.pth"),
        ({"perception_preset": "uniad-bas"}, "Did you mean 'uniad-base'"),
        ({"settings": ["encoder_gradients=first"]}, "Unknown encoder_gradients 'first'"),
    ],
)
def test_mistakes_are_named(settings, changes, message):
    with pytest.raises(Exception, match=message) as caught:
        train(settings(**changes))
    assert caught.type.__module__ == "odvla_bench.errors"


def test_a_seeing_model_learns_on_images_alone(settings, seeing, images):
    with pytest.raises(InputError, match="stored tokens cannot do"):
        train(settings(model=str(seeing), tokens="annotations"))
    with pytest.raises(InputError, match="has a perception of its own"):
        train(settings(model=str(seeing)))


def test_a_missing_image_is_named(settings, images):
    scene = next(scenes_from_build(images, images / "build"))
    path: Path = scene.keyframes[0].image_paths[3]
    whole = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(ImageError, match=re.escape(f"No camera image at {path}")):
            Clips([scene], perception_config(MINI).behaviour)[scene.keyframes[2].sample_token]
    finally:
        path.write_bytes(whole)


_TWO_PROCESSES = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from odvla_bench.baselines.training.config import make_config
from odvla_bench.baselines.training.run import train
train(make_config(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(settings, tmp_path):
    script, file = tmp_path / "two.py", tmp_path / "two.json"
    script.write_text(_TWO_PROCESSES)
    save_checkpoint(Perception(perception_config("uniad-small")), tmp_path / "small.safetensors")
    small = {
        "checkpoint": str(tmp_path / "small.safetensors"),
        "perception_preset": "uniad-small",
        "max_steps": 2,
    }
    settings(**small, out=str(tmp_path / "two")).save(file)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"),
            *("--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"),
            *(str(script), str(file)),
        ],
        check=True,
        timeout=500,
    )
    one = train(settings(**small, out=str(tmp_path / "one"), settings=["packs_per_step=2"]))
    together = load_file(tmp_path / "two" / "model" / "model.safetensors")
    for name, tensor in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5)
