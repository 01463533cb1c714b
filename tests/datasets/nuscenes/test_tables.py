"""The reader on whole, partial and damaged trees."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS, EgoMotion
from odvla_bench.datasets.nuscenes.tables import load_tables
from odvla_bench.errors import InputError

VERSION = "v1.0-mini"
Rows = list[dict]


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic tables that a test may damage."""
    shutil.copytree(synthetic_root / VERSION, tmp_path / VERSION)
    return tmp_path


def edit(root: Path, table: str, change: Callable[[Rows], Rows | None]) -> None:
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(change(rows) or rows))


def load(root: Path):
    return load_tables(root, VERSION, cache_dir=root / "cache")


def test_the_second_load_reads_no_json(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)
    monkeypatch.setattr("odvla_bench.datasets.nuscenes.load.build_cache", None)
    again = load(root)
    assert again.cache_dir == first.cache_dir
    assert again.annotations.equals(first.annotations)


def test_other_contents_are_another_cache(root: Path) -> None:
    first = load(root)
    edit(root, "scene", lambda rows: rows[0].update(description="changed"))
    again = load(root)
    assert again.fingerprint != first.fingerprint
    assert "changed" in again.scenes["description"].to_pylist()


def test_numbers_follow_scene_names_and_time(root: Path) -> None:
    edit(root, "sample", lambda rows: rows[::-1])
    edit(root, "scene", lambda rows: rows[::-1])
    tables = load(root)
    names = tables.scenes["name"].to_pylist()
    assert names == sorted(names)
    samples = tables.samples.to_pandas()
    assert samples[["scene_id", "timestamp_us"]].apply(tuple, axis=1).is_monotonic_increasing
    assert (samples["sample_id"] == np.arange(len(samples))).all()


def test_a_scene_without_samples_is_listed(root: Path) -> None:
    assert 0 in load(root).scenes["n_samples"].to_pylist()


def test_optional_tables_and_columns_may_be_absent(root: Path) -> None:
    for name in ("log", "attribute", "visibility", "map"):
        (root / VERSION / f"{name}.json").unlink(missing_ok=True)

    def bare(rows: Rows) -> None:
        for row in rows:
            for column in ("visibility_token", "attribute_tokens", "num_radar_pts", "prev", "next"):
                row.pop(column, None)

    edit(root, "sample_annotation", bare)
    tables = load(root)
    assert set(tables.annotations["visibility"].to_pylist()) == {0}
    assert set(tables.annotations["attribute"].to_pylist()) == {""}
    assert set(tables.scenes["location"].to_pylist()) == {""}


def test_a_keyframe_without_lidar_has_no_pose_and_is_a_missing_step(root: Path) -> None:
    lidar = load(root).samples["lidar_file"].to_pylist()[3]
    edit(root, "sample_data", lambda rows: [r for r in rows if r["filename"] != lidar])
    samples = load(root).samples
    assert samples["has_lidar"].to_pylist().count(False) == 1
    motion = EgoMotion.from_samples(samples.filter(samples["has_lidar"]))
    _, valid = motion.positions(FUTURE_STEPS)
    np.testing.assert_array_equal(valid[0], [True, True, False, True, True, True])


def dangling(column: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        kept = [r for r in rows if "CAM_BACK" in r.get("filename", "CAM_BACK")]  # radars are not
        kept[-1][column] = "f" * 32

    return change


def put(column: str, value: object) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row in rows:
            row[column] = value

    return change


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        pytest.param("sample", dangling("scene_token"), "scene f{32}", id="sample of no scene"),
        pytest.param("scene", dangling("log_token"), "log f{32}", id="scene of no log"),
        pytest.param(
            "sample_data", dangling("sample_token"), "sample f{32}", id="data of no sample"
        ),
        pytest.param(
            "sample_data", dangling("ego_pose_token"), "ego_pose f{32}", id="data without pose"
        ),
        pytest.param(
            "sample_data",
            dangling("calibrated_sensor_token"),
            "calibrated_sensor f{32}",
            id="data without calibration",
        ),
        pytest.param("instance", dangling("category_token"), "category f{32}", id="no category"),
        pytest.param(
            "sample_annotation", dangling("instance_token"), "instance f{32}", id="no instance"
        ),
        pytest.param(
            "sample_annotation", dangling("sample_token"), "sample f{32}", id="box of no sample"
        ),
        pytest.param(
            "ego_pose", put("translation", [math.nan, 0, 0]), "pose .*nan", id="NaN pose"
        ),
        pytest.param(
            "ego_pose", put("translation", [math.inf, 0, 0]), "pose .*inf", id="infinite pose"
        ),
        pytest.param("ego_pose", put("rotation", [0, 0, 0, 0]), "pose", id="no rotation"),
        pytest.param("ego_pose", put("translation", [1, 2]), "pose", id="two numbers"),
        pytest.param("sample_annotation", put("size", [1, 2]), "size", id="size of two"),
        pytest.param("ego_pose", put("translation", "here"), "ego_pose.json", id="text for list"),
        pytest.param(
            "sample_annotation", lambda rows: [*rows, {**rows[0], "token": "e" * 32}],
            "second box", id="two boxes of one track",
        ),
        pytest.param("scene", put("token", None), "no `token`", id="null token"),
    ],
)  # fmt: skip
def test_damage_is_named_with_file_and_token(
    root: Path, table: str, change: Callable[[Rows], Rows | None], says: str
) -> None:
    edit(root, table, change)
    with pytest.raises(InputError, match=says) as caught:
        load(root)
    assert f"{table}.json" in str(caught.value)
    assert not list((root / "cache").glob("nuscenes/*"))


@pytest.mark.parametrize("table", ["scene", "sample_data", "ego_pose", "sample_annotation"])
def test_a_truncated_table_is_named(root: Path, table: str) -> None:
    path = root / VERSION / f"{table}.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{table}\.json: not a whole nuScenes table"):
        load(root)
    assert not list((root / "cache").glob("nuscenes/*"))


def test_missing_tables_are_all_named(root: Path) -> None:
    for name in ("sample", "instance"):
        (root / VERSION / f"{name}.json").unlink()
    with pytest.raises(InputError, match=r"missing sample\.json, instance\.json"):
        load(root)


def test_a_wrong_folder_says_what_is_there(root: Path) -> None:
    with pytest.raises(InputError, match="found: v1.0-mini"):
        load_tables(root, "v1.0-trainval", cache_dir=root / "cache")


def test_a_wrong_memory_limit_is_a_user_error(root: Path) -> None:
    with pytest.raises(InputError, match="--memory-limit"):
        load_tables(root, VERSION, cache_dir=root / "cache", memory_limit="lots")


@pytest.mark.real
def test_the_test_version_needs_no_annotations(real_data: Path, tmp_path: Path) -> None:
    tables = load_tables(real_data / "nuscenes-one-keyframe", "v1.0-test", cache_dir=tmp_path)
    assert tables.samples.num_rows == 1
    assert tables.cameras.num_rows == 6
    assert tables.annotations.num_rows == 0


@pytest.mark.real
def test_real_mini_val(real_data: Path, tmp_path: Path) -> None:
    tables = load_tables(real_data / "nuscenes-mini-val", VERSION, cache_dir=tmp_path)
    counts = [t.num_rows for t in (tables.samples, tables.annotations, tables.instances)]
    assert counts == [81, 4441, 215]
