"""Scenes of a build as the perception's inputs, on a synthetic tree with pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from perception_scenes import small_network
from typer.testing import CliRunner

from odvla_bench.baselines.opendrivevla.features import FeatureStore
from odvla_bench.baselines.opendrivevla.perception.checkpoint import save_checkpoint
from odvla_bench.baselines.opendrivevla.perception.config import CAMERAS
from odvla_bench.baselines.opendrivevla.perception.inputs import lidar2img
from odvla_bench.baselines.opendrivevla.perception.scenes import scenes_from_build
from odvla_bench.cli.main import app
from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.nuscenes.synthetic import AgentOptions, SyntheticConfig, write_nuscenes
from odvla_bench.datasets.reader import open_build
from odvla_bench.errors import InputError
from odvla_bench.provenance import default_cache_dir


def test_keyframes_are_those_of_the_build(synthetic_root: Path, build_dir: Path) -> None:
    scenes = list(scenes_from_build(synthetic_root, build_dir))
    planning = open_build(build_dir).table("planning").to_pandas().set_index("sample_token")
    frames = [k for scene in scenes for k in scene.keyframes]
    assert sorted(k.sample_token for k in frames) == sorted(planning.index)
    starts = [scene.keyframes[0].timestamp_us for scene in scenes]
    assert starts == sorted(starts)
    for frame in frames[::7]:
        row = planning.loc[frame.sample_token]
        np.testing.assert_array_equal(frame.ego_translation_m, row["ego_translation_m"])
        assert [p.parent.name for p in frame.image_paths] == list(CAMERAS)
        # the first message after the keyframe is what the released data calls its acceleration
        np.testing.assert_allclose(frame.can_bus[7:9], row["released_state"][2:4], atol=1e-5)


def test_annotations_are_the_agents_of_the_keyframe(synthetic_root: Path, build_dir: Path) -> None:
    agents = open_build(build_dir).table("agents").to_pandas()
    cars = agents[agents["category"] == "vehicle.car"]
    for frame in next(scenes_from_build(synthetic_root, build_dir)).keyframes:
        here = cars[cars["sample_token"] == frame.sample_token]
        assert frame.annotations is not None
        found = frame.annotations.labels == 0
        assert sorted(frame.annotations.instance_ids[found]) == sorted(here["instance_id"])
        np.testing.assert_allclose(
            np.sort(frame.annotations.boxes[found, 0]), np.sort(here["x_m"]), atol=1e-6
        )


def test_a_point_ahead_is_in_the_middle_of_the_front_camera(
    synthetic_root: Path, build_dir: Path
) -> None:
    frame = next(scenes_from_build(synthetic_root, build_dir)).keyframes[0]
    x, y, depth, _ = lidar2img(frame)[0] @ np.array([0.0, 40.0, 0.0, 1.0])
    assert depth > 30
    np.testing.assert_allclose([x / depth, y / depth], [800, 500], atol=120)


def test_another_root_is_refused(synthetic_root: Path, build_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_root / "v1.0-mini", tmp_path / "v1.0-mini")
    path = tmp_path / "v1.0-mini" / "scene.json"
    scenes = json.loads(path.read_text())
    scenes[0]["description"] = "another one"
    path.write_text(json.dumps(scenes))
    with pytest.raises(InputError, match="not those that"):
        next(scenes_from_build(tmp_path, build_dir))


def test_a_missing_camera_is_named(synthetic_root: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_root / "v1.0-mini", tmp_path / "v1.0-mini")
    path = tmp_path / "v1.0-mini" / "sample_data.json"
    rows = [r for r in json.loads(path.read_text()) if "CAM_BACK_LEFT" not in r["filename"]]
    path.write_text(json.dumps(rows))
    build(BuildRequest(tmp_path, "v1.0-mini", default_cache_dir()), tmp_path / "b")
    with pytest.raises(InputError, match="has no CAM_BACK_LEFT"):
        next(scenes_from_build(tmp_path, tmp_path / "b"))


def test_features_of_a_tree_from_the_command_line(tmp_path: Path) -> None:
    agents = AgentOptions(per_keyframe=3)
    config = SyntheticConfig(
        n_scenes=2, keyframes=2, sweeps=False, maps=False, agents=agents, image_size=(160, 96)
    )
    write_nuscenes(tmp_path, config)
    build(BuildRequest(tmp_path, "v1.0-mini", default_cache_dir()), tmp_path / "b")
    save_checkpoint(small_network(), tmp_path / "small.safetensors")
    arguments = {
        "--nuscenes-root": tmp_path,
        "--data": tmp_path / "b",
        "--checkpoint": tmp_path / "small.safetensors",
        "--out": tmp_path / "features",
        "--preset": "uniad-small",
        "--behaviour": "fixed",
    }
    command = ["extract-features", *(str(x) for pair in arguments.items() for x in pair)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "2 scenes written" in first.output
    assert "0 scenes written, 2 were there" in CliRunner().invoke(app, command).output
    tokens = open_build(tmp_path / "b").table("planning")["sample_token"].to_pylist()
    store = FeatureStore(tmp_path / "features")
    for token in tokens:
        features = store[token]
        assert features.scene.shape == (90, 256)
        assert np.isfinite(np.asarray(features.scene, np.float32)).all()
