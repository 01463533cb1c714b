from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from perception_scenes import scene, small_network
from typer.testing import CliRunner

from odvla_bench.baselines.opendrivevla.features import (
    LEDGER,
    FeatureSettings,
    FeatureStore,
    KeyframeFeatures,
    write_scene,
)
from odvla_bench.baselines.opendrivevla.perception import scenes as scene_module
from odvla_bench.baselines.opendrivevla.perception.agents import standard_boxes
from odvla_bench.baselines.opendrivevla.perception.checkpoint import save_checkpoint
from odvla_bench.baselines.opendrivevla.perception.config import perception_config
from odvla_bench.baselines.opendrivevla.perception.extract import (
    Extraction,
    extract,
    extract_everywhere,
    scene_tasks,
)
from odvla_bench.baselines.opendrivevla.perception.images import ImageError
from odvla_bench.baselines.opendrivevla.perception.inputs import Annotations, Scene
from odvla_bench.cli.extract_features import extract_features
from odvla_bench.errors import FormatError, InputError, UnknownNameError

CONFIG = perception_config("uniad-small", behaviour="fixed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_checkpoint(small_network(), path)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    folder = tmp_path_factory.mktemp("images")
    return [scene(folder, f"s{i}", frames=2 + i % 2, seed=i) for i in range(2)]


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, scenes: list[Scene]
) -> Path:
    out = tmp_path_factory.mktemp("features")
    assert extract(list(scene_tasks(scenes)), Extraction(checkpoint, out, CONFIG)) == 2
    return out


def test_every_keyframe_can_be_read_back(extracted: Path, scenes: list[Scene]) -> None:
    store = FeatureStore(extracted)
    store.verify()
    assert list(store) == [k.sample_token for s in scenes for k in s.keyframes]
    assert "s1-2" in store
    assert "absent" not in store
    features = store["s1-2"]
    assert features.scene.shape == (90, 256)
    assert features.agents.shape == (len(features.track_id), 256)
    assert features.map.shape[1] == 256
    assert features.boxes.shape == (len(features.agents), 9)
    assert features.scores.tolist() == sorted(features.scores, reverse=True)
    assert features.instance_id.tolist() == [-1] * len(features.agents)
    assert "behaviour:fixed" in store.settings.signature
    assert "privileged" not in store.settings.signature


def test_scenes_side_by_side_give_the_same_features(
    tmp_path: Path, extracted: Path, checkpoint: Path, scenes: list[Scene]
) -> None:
    extract(list(scene_tasks(scenes)), Extraction(checkpoint, tmp_path, CONFIG, scenes_at_once=2))
    alone, together = FeatureStore(extracted), FeatureStore(tmp_path)
    assert list(alone) == list(together)
    for sample in alone:
        for name in ("scene", "agents", "map", "boxes"):
            np.testing.assert_allclose(
                getattr(together[sample], name), getattr(alone[sample], name), atol=5e-5
            )
        assert together[sample].track_id.tolist() == alone[sample].track_id.tolist()


def test_finished_scenes_are_not_made_again(
    extracted: Path, checkpoint: Path, scenes: list[Scene]
) -> None:
    tasks = list(scene_tasks(scenes))
    settings = Extraction(checkpoint, extracted, CONFIG)
    before = {path: path.stat().st_mtime_ns for path in extracted.iterdir()}
    assert extract(tasks, settings) == 0
    (extracted / "s0.safetensors").unlink()
    seen: list[tuple[str, int, int]] = []
    assert extract(tasks, settings, lambda *row: seen.append(row)) == 1
    assert seen == [("s0", 2, 0)]
    after = {path: path.stat().st_mtime_ns for path in extracted.iterdir()}
    assert after[extracted / "s1.safetensors"] == before[extracted / "s1.safetensors"]
    with pytest.raises(FormatError, match=r"s0\.safetensors was made with other settings"):
        extract(tasks, replace(settings, precision="bf16"))


def test_bad_images(tmp_path: Path, checkpoint: Path) -> None:
    one = scene(tmp_path, "bad", frames=3)
    one.keyframes[1].image_paths[2].unlink()
    tasks = list(scene_tasks([one]))
    settings = Extraction(checkpoint, tmp_path / "out", CONFIG)
    with pytest.raises(ImageError, match="No camera image at .*bad-1-CAM_FRONT_LEFT"):
        extract(tasks, settings)
    assert not list((tmp_path / "out").glob("*"))
    assert extract(tasks, replace(settings, skip_bad=True)) == 1
    store = FeatureStore(tmp_path / "out")
    assert list(store) == ["bad-0", "bad-2"]
    row = json.loads((tmp_path / "out" / LEDGER).read_text())
    assert (row["scene"], row["sample"]) == ("bad", "bad-1")
    with pytest.raises(InputError, match="no features for keyframe bad-1 .* It was skipped: No c"):
        store["bad-1"]
    with pytest.raises(InputError, match="keyframe other .* Extract features for its scene"):
        store["other"]


def test_agents_are_matched_to_annotations(
    tmp_path: Path, extracted: Path, checkpoint: Path, scenes: list[Scene]
) -> None:
    found = FeatureStore(extracted)["s0-0"].boxes[:3].astype(np.float64)
    far = found[:1].copy()
    far[:, 0] += 100
    boxes = np.concatenate([far, found[1:]])
    annotations = Annotations(
        boxes=boxes[:, :7],
        velocity_mps=boxes[:, 7:],
        labels=np.zeros(3, np.int64),
        instance_ids=np.array([7, 8, 9]),
    )
    first = replace(scenes[0].keyframes[0], annotations=annotations)
    extract(list(scene_tasks([Scene("s0", (first,))])), Extraction(checkpoint, tmp_path, CONFIG))
    matched = FeatureStore(tmp_path)["s0-0"].instance_id
    assert 7 not in matched
    assert {8, 9} <= set(matched.tolist())


def test_standard_boxes_by_hand() -> None:
    official = torch.tensor([1.0, 2.0, -1.0, 1.8, 4.5, 1.5, -torch.pi, 0.1, 5.0])
    ours = standard_boxes(official)
    expected = [1.0, 2.0, -0.25, 4.5, 1.8, 1.5, torch.pi / 2, 0.1, 5.0]
    assert ours.tolist() == pytest.approx(expected)


def test_settings_are_checked(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'bf16'"):
        Extraction(checkpoint, tmp_path, CONFIG, precision="bf61")
    with pytest.raises(InputError, match="scenes_at_once is 0"):
        Extraction(checkpoint, tmp_path, CONFIG, scenes_at_once=0)
    for device in ("cuda:99", "gpu"):
        with pytest.raises(InputError, match=f"The device '{device}' cannot be used here"):
            extract([], Extraction(checkpoint, tmp_path, CONFIG, device=device))


def features(rng: np.random.Generator, agents: int = 20) -> KeyframeFeatures:
    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    numbers = np.arange(agents)
    return KeyframeFeatures(
        normal(90, 256),
        normal(agents, 256),
        normal(10, 256),
        numbers,
        numbers,
        normal(agents, 9),
        normal(agents),
        numbers,
    )


SETTINGS = FeatureSettings("perception", privileged=False, choices={"a": "b"})


def test_reading_is_fast_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        made = {f"{i}-{j}": features(rng) for j in range(40)}
        write_scene(tmp_path, f"scene{i}", SETTINGS, made)
    store = FeatureStore(tmp_path)
    samples = list(store)
    rng.shuffle(samples)
    for sample in samples:
        store[sample]
    began = time.process_time()
    for sample in samples:
        store[sample]
    per_sample_ms = (time.process_time() - began) / len(samples) * 1e3
    print(f"{per_sample_ms:.3f} CPU ms a keyframe")
    assert per_sample_ms < 1.0  # the target is 0.3; a loaded machine gets some slack


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = write_scene(tmp_path, "s", SETTINGS, {"x": features(np.random.default_rng(0))})
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"s\.safetensors is damaged"):
        FeatureStore(tmp_path).verify()
    other = replace(SETTINGS, privileged=True)
    write_scene(tmp_path, "t", other, {"y": features(np.random.default_rng(0))})
    with pytest.raises(FormatError, match="made with other settings than"):
        FeatureStore(tmp_path)
    path.write_bytes(b"junk")
    with pytest.raises(FormatError, match="is no features file"):
        FeatureStore(tmp_path)
    with pytest.raises(InputError, match="holds no features"):
        FeatureStore(tmp_path / "absent")


@pytest.mark.ray
@pytest.mark.slow
def test_ray_writes_the_same_files(
    tmp_path: Path, extracted: Path, checkpoint: Path, scenes: list[Scene]
) -> None:
    pytest.importorskip("ray")
    settings = Extraction(checkpoint, tmp_path, CONFIG)
    assert extract_everywhere(list(scene_tasks(scenes)), settings, executor="ray") == 2
    local, remote = FeatureStore(extracted), FeatureStore(tmp_path)
    for sample in local:
        np.testing.assert_allclose(remote[sample].agents, local[sample].agents, atol=5e-5)


def test_command(
    tmp_path: Path, checkpoint: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_build(root: Path, data: Path) -> Iterator[Scene]:
        assert (root.name, data.name) == ("root", "build")
        yield from scenes

    monkeypatch.setattr(scene_module, "scenes_from_build", from_build)
    app = typer.Typer()
    app.command()(extract_features)
    arguments = {
        "--nuscenes-root": "root",
        "--data": "build",
        "--checkpoint": str(checkpoint),
        "--out": str(tmp_path / "out"),
        "--preset": "uniad-small",
        "--behaviour": "fixed",
        "--device": "cpu",
        "--limit": "1",
    }
    result = CliRunner().invoke(app, [word for pair in arguments.items() for word in pair])
    assert result.exit_code == 0, result.output
    assert "1 scenes written, 0 were there" in result.output
    assert len(FeatureStore(tmp_path / "out")) == 2
