"""Builds: whole, stopped and resumed, refused, read by others."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from odvla_bench.datasets.build import LEDGER, MANIFEST, PROGRESS, Done, build, build_unit
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.schema import AGENTS, PLANNING
from odvla_bench.errors import FormatError, InputError, UnknownNameError
from odvla_bench.provenance import default_cache_dir

VERSION = "v1.0-mini"


def request_of(root: Path, **settings) -> BuildRequest:
    return BuildRequest(root, VERSION, default_cache_dir(), scenes_per_shard=1, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted build, one scene a shard."""
    out = tmp_path_factory.mktemp("whole")
    build(request_of(synthetic_root), out)
    return out


def test_files_schema_and_counts(whole: Path) -> None:
    opened = open_build(whole)
    assert opened.splits() == ["mini_train", "mini_val"]
    planning, agents = opened.table("planning"), opened.table("agents")
    assert planning.num_rows == 3 * 14
    assert planning.schema.equals(PLANNING.schema)
    assert agents.schema.equals(AGENTS.schema)
    for accounts in opened.manifest["sources"].values():
        for account in accounts.values():
            assert account["read"] == account["kept"] + sum(account["dropped"].values())
    assert set(agents["sample_token"].to_pylist()) <= set(planning["sample_token"].to_pylist())
    card = (whole / "README.md").read_text()
    for column in (*PLANNING.columns, *AGENTS.columns):
        assert f"`{column.name}`" in card


def test_every_file_carries_version_and_fingerprint(whole: Path) -> None:
    manifest = json.loads((whole / MANIFEST).read_text())
    files = [f for t in manifest["tables"].values() for s in t.values() for f in s["files"]]
    assert len(files) == 6
    for record in files:
        footer = pq.read_schema(whole / record["path"]).metadata
        assert footer[b"odvla_format_version"] == b"1"
        assert footer[b"odvla_content_fingerprint"].decode() == record["fingerprint"]


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
def test_a_stopped_build_goes_on_to_the_same_bytes(
    synthetic_root: Path, whole: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: Done) -> None:
        if done.finished == after:
            raise Stop

    with pytest.raises(Stop):
        build(request_of(synthetic_root), tmp_path, report=stop)
    with pytest.raises(FormatError, match="unfinished build"):
        open_build(tmp_path)
    (tmp_path / "planning" / ".writing-left").write_text("torn")
    built: list[str] = []
    build(request_of(synthetic_root), tmp_path, report=lambda done: built.append(done.unit))
    assert len(built) == 3 - after
    assert contents(tmp_path) == contents(whole)


def build_and_die(root: Path, out: Path, cache: str, files: int) -> None:
    """Build, and be killed the moment before the n-th file gets its name."""
    os.environ["ODVLA_CACHE"] = cache
    renamed, replace = 0, Path.replace

    def killing(self: Path, target: Path) -> Path:
        nonlocal renamed
        if renamed == files:
            os.kill(os.getpid(), signal.SIGKILL)
        renamed += 1
        return replace(self, target)

    Path.replace = killing  # type: ignore[method-assign]
    build(request_of(root), out)


@pytest.mark.parametrize("files", [0, 2, 4, 9, 10, 11, 12])
def test_killed_at_any_moment(
    synthetic_root: Path, whole: Path, tmp_path: Path, files: int
) -> None:
    # 1 marker, 3 x (2 shards + 1 record), then ledger, card and manifest
    args = (synthetic_root, tmp_path / "b", os.environ["ODVLA_CACHE"], files)
    process = multiprocessing.get_context("fork").Process(target=build_and_die, args=args)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "b" / MANIFEST).exists()
    build(request_of(synthetic_root), tmp_path / "b")
    assert contents(tmp_path / "b") == contents(whole)


def test_a_damaged_shard_is_made_again(synthetic_root: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    shutil.copytree(whole, out)
    shard = next((out / "planning").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FormatError, match="changed since the build"):
        open_build(out).table("planning")
    build(request_of(synthetic_root), out)
    assert contents(out) == contents(whole)


def test_workers_give_the_same_bytes(synthetic_root: Path, whole: Path, tmp_path: Path) -> None:
    build(request_of(synthetic_root), tmp_path, workers=2)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_bytes(synthetic_root: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    build(request_of(synthetic_root), tmp_path, executor="ray")
    assert contents(tmp_path) == contents(whole)


def test_shard_size_changes_files_and_no_row(
    synthetic_root: Path, whole: Path, build_dir: Path
) -> None:
    for table in ("planning", "agents"):
        for split in ("mini_train", "mini_val"):
            one, many = (open_build(b).table(table, split) for b in (build_dir, whole))
            assert one.equals(many)


def test_another_build_is_not_overwritten_by_accident(
    synthetic_root: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    shutil.copytree(whole, out)
    other = BuildRequest(synthetic_root, VERSION, default_cache_dir(), scenes_per_shard=2)
    with pytest.raises(InputError, match="--overwrite"):
        build(other, out)
    assert contents(out) == contents(whole)
    build(other, out, overwrite=True)
    assert len(list((out / "planning").iterdir())) == 2


def test_a_folder_with_other_things_is_refused(synthetic_root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        build(request_of(synthetic_root), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_unknown_source(synthetic_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'planning'"):
        build(request_of(synthetic_root), tmp_path / "b", sources=("plannin",))


def test_dropped_keyframes_are_in_the_ledger(synthetic_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(synthetic_root / VERSION, root / VERSION)
    path = root / VERSION / "sample_data.json"
    rows = json.loads(path.read_text())
    lidar = [r for r in rows if "LIDAR_TOP" in r["filename"]]
    gone = lidar[5]
    path.write_text(json.dumps([r for r in rows if r is not gone]))
    scenes = root / VERSION / "scene.json"
    named = json.loads(scenes.read_text())
    with_samples = [s for s in named if s["nbr_samples"]]
    with_samples[-1]["name"] = "scene-9999"
    scenes.write_text(json.dumps(named))
    out = tmp_path / "b"
    manifest = build(request_of(root), out)
    account = manifest["sources"]["planning"]["planning"]
    assert account["read"] == 42
    assert account["dropped"] == {"no_split": 14, "no_lidar": 1}
    dropped = open_build(out).dropped().to_pandas()
    assert gone["sample_token"] in set(dropped["record"])
    assert set(dropped["reason"]) == {"no_split", "no_lidar"}
    kept = open_build(out).table("planning")
    assert gone["sample_token"] not in kept["sample_token"].to_pylist()


def test_other_readers(whole: Path) -> None:
    ours = open_build(whole).table("planning", "mini_val").to_pandas()
    pattern = str(whole / "planning" / "mini_val-*.parquet")
    theirs = duckdb.sql(f"SELECT * FROM '{pattern}' ORDER BY sample_id").df()
    np.testing.assert_array_equal(np.stack(ours["future_x_m"]), np.stack(theirs["future_x_m"]))
    shards = sorted((whole / "planning").glob("mini_val-*.parquet"))
    frame = pd.concat([pd.read_parquet(p) for p in shards], ignore_index=True)
    assert frame["sample_token"].tolist() == ours["sample_token"].tolist()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("table", ["planning", "agents"])
def test_hugging_face_datasets(
    whole: Path, tmp_path: Path, table: str, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        str(whole), table, split="mini_val", streaming=streaming, cache_dir=str(tmp_path)
    )
    ours = open_build(whole).table(table, "mini_val").to_pylist()
    assert list(rows) == ours


def test_ledger_is_there_even_when_empty(whole: Path) -> None:
    assert pq.read_table(whole / LEDGER).num_rows == 0
    assert not (whole / PROGRESS).exists()


def test_lost_records_stop_the_build(synthetic_root: Path, tmp_path: Path, monkeypatch) -> None:
    from odvla_bench.datasets.build import Task
    from odvla_bench.datasets.builders.base import Unit, UnitRows, open_context
    from odvla_bench.datasets.builders.planning import PlanningBuilder

    monkeypatch.setattr(PlanningBuilder, "build", lambda *_: UnitRows({}, {"planning": 3}))
    unit = Unit("planning", "mini_val", 0, 1, ())
    open_context(request_of(synthetic_root))
    with pytest.raises(FormatError, match="unaccounted for: {'planning': 3}"):
        build_unit(Task(request_of(synthetic_root), unit, tmp_path, "key"))
    assert not list(tmp_path.rglob("*.parquet"))
