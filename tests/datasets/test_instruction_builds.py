from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from factories.builds import MINI, make_build

import odvla_bench
from odvla_bench.datasets.build import Done
from odvla_bench.datasets.card import configs
from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError

TABLES_OF_STAGES = {
    "stage1": "alignment",
    "stage2": "instruct",
    "stage2.5": "forecasting",
    "stage3": "planning",
}


def rows_of(build: Build, config: str, split: str) -> int:
    """Rows that the manifest counts for a config."""
    name, _, source = TABLES_OF_STAGES.get(config, config).partition("-")
    files = build.manifest["tables"][name][split]["files"]
    return sum(f["rows"] for f in files if not source or f"/{source}/" in f["path"])


def test_every_record_is_accounted_for(synthetic_build: Build) -> None:
    accounts = synthetic_build.manifest["sources"]
    assert set(accounts) == {
        *("planning", "tod3cap", "nucaption", "nuscenes_qa", "nux", "forecasting")
    }
    ledger = synthetic_build.dropped().to_pandas()
    for source, tables in accounts.items():
        for table, account in tables.items():
            assert account["read"] == account["kept"] + sum(account["dropped"].values()) > 0
            own = ledger[(ledger["source"] == source) & (ledger["table"] == table)]
            assert own["reason"].value_counts().to_dict() == account["dropped"]


def test_the_made_up_defects_end_where_they_should(synthetic_build: Build) -> None:
    accounts = synthetic_build.manifest["sources"]
    captions = accounts["tod3cap"]["alignment"]
    assert captions["dropped"] == {"superseded": 1, "unknown_annotation": 1}
    assert set(captions["flags"]) == {"empty_map_caption", "relation_none", "synth_final_caption"}
    assert accounts["nuscenes_qa"]["instruct"]["dropped"] == {"unknown_sample": 2}
    assert accounts["nuscenes_qa"]["instruct"]["flags"]["question_repeated_in_frame"] > 0
    assert accounts["nux"]["instruct"]["dropped"] == {"unknown_sample": 2}


def test_every_config_loads_in_datasets(
    synthetic_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    path, found = str(synthetic_build.path), configs(synthetic_build.manifest)
    assert set(TABLES_OF_STAGES) < set(found)
    assert {"alignment-tod3cap", "alignment-nucaption", "instruct-nux"} < set(found)
    for config, splits in found.items():
        for split in splits:
            n = rows_of(synthetic_build, config, split)
            whole = datasets.load_dataset(path, config, split=split, cache_dir=str(tmp_path))
            assert len(whole) == n
            stream = datasets.load_dataset(path, config, split=split, streaming=True)
            streamed = list(stream)
            assert len(streamed) == n
            assert streamed[0] == whole[0]


def test_messages_survive_datasets(synthetic_build: Build, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    row = datasets.load_dataset(
        str(synthetic_build.path), "stage2", split="mini_val", cache_dir=str(tmp_path)
    )[0]
    own = synthetic_build.table("instruct", "mini_val").slice(0, 1).to_pylist()[0]
    assert row == own
    assert [set(turn) for turn in row["messages"]] == [{"role", "content"}] * 2


def test_duckdb_and_pandas_read_a_build(synthetic_build: Build) -> None:
    path = synthetic_build.path
    counted = duckdb.sql(
        f"""
        SELECT template_type, count(*) AS n FROM '{path}/instruct/nuscenes_qa/*.parquet'
        GROUP BY template_type ORDER BY template_type
        """
    ).fetchall()
    frame = pd.read_parquet(path / "instruct/nuscenes_qa")
    assert dict(counted) == frame["template_type"].value_counts().to_dict()
    joined = duckdb.sql(
        f"""
        SELECT count(*), count(DISTINCT p.command) > 0
        FROM '{path}/instruct/*/*.parquet' i JOIN '{path}/planning/*.parquet' p USING (sample_id)
        """
    ).fetchall()
    assert joined == [(synthetic_build.table("instruct").num_rows, True)]


def test_joins_with_planning(synthetic_build: Build) -> None:
    joined = synthetic_build.with_planning("instruct", "mini_val", ["command", "sample_token"])
    planning = synthetic_build.table("planning").to_pandas().set_index("sample_token")["command"]
    assert joined.num_rows == synthetic_build.table("instruct", "mini_val").num_rows
    assert joined["command"].to_pylist() == planning[joined["sample_token"].to_pylist()].to_list()


def digests(path: Path) -> dict[str, str]:
    files = (p for p in sorted(path.rglob("*")) if p.is_file())
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 6])
def test_interrupted_and_resumed_is_the_same_to_the_byte(
    synthetic_tree: Path, synthetic_build: Build, tmp_path: Path, after: int
) -> None:
    def stop(done: Done) -> None:
        if done.finished == after:
            raise Stopped

    options: Any = {"language": synthetic_tree / "language", "version": MINI}
    with pytest.raises(Stopped):
        make_build(synthetic_tree, tmp_path / "b", report=stop, **options)
    assert not (tmp_path / "b/manifest.json").exists()
    units: list[str] = []
    make_build(synthetic_tree, tmp_path / "b", report=lambda d: units.append(d.unit), **options)
    assert len(units) == 11 - after
    assert digests(tmp_path / "b") == digests(synthetic_build.path)


@pytest.mark.parametrize(
    "executor",
    ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])],
)
def test_the_executor_does_not_change_a_byte(
    synthetic_tree: Path, synthetic_build: Build, tmp_path: Path, executor: str
) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    build = make_build(
        synthetic_tree,
        tmp_path / "b",
        "nuscenes_qa",
        "nux",
        language=synthetic_tree / "language",
        version=MINI,
        executor=executor,
        workers=2,
    )
    mine = {k: v for k, v in digests(build.path).items() if k.startswith("instruct/")}
    theirs = digests(synthetic_build.path)
    assert mine
    assert mine == {k: theirs[k] for k in mine}


def test_other_settings_or_files_are_another_build(
    synthetic_tree: Path, synthetic_build: Build, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(synthetic_build.path, copy)
    language = tmp_path / "language"
    shutil.copytree(synthetic_tree / "language", language)
    options: Any = {"language": language, "version": MINI}
    assert make_build(synthetic_tree, copy, **options).fingerprint == synthetic_build.fingerprint
    path = language / "Nu_X_val.json"
    path.write_text(path.read_text().replace("the car is", "the ego car is"))
    with pytest.raises(InputError, match="holds another build"):
        make_build(synthetic_tree, copy, **options)
    changed = make_build(synthetic_tree, copy, overwrite=True, **options)
    assert changed.fingerprint != synthetic_build.fingerprint


def test_open_build_is_lazy_and_documented() -> None:
    assert odvla_bench.open_build is sys.modules["odvla_bench.datasets.reader"].open_build
    with pytest.raises(AttributeError, match="no attribute 'opn_build'"):
        odvla_bench.opn_build  # noqa: B018


def test_the_card_names_files_and_terms(synthetic_build: Build) -> None:
    card = (synthetic_build.path / "README.md").read_text(encoding="utf-8")
    assert "| tod3cap | final_caption_bbox_token.json |" in card
    assert "unstated" in card
    assert json.dumps(synthetic_build.fingerprint).strip('"') in card


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
