from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from factories.builds import MINI, make_build

from odvla_bench.datasets import checks, prompts
from odvla_bench.datasets.near_duplicates import near_duplicates
from odvla_bench.datasets.reader import Build

TEXT = (
    "the scene shows a wide road with two parked cars on the left and a bus ahead of them near "
    "the crossing while three people wait on the pavement for the light to change to green"
)


def test_a_clean_build_passes(synthetic_build: Build) -> None:
    found = checks.check_build(synthetic_build)
    assert checks.failures(found) == []
    names = " ".join(check.what for check in found)
    assert "instruct: row_id in two splits" in names
    assert "stage 2.5, mini_train, profile released" in names
    assert "instruct-nucaption: answers of mini_val" in names


def test_rows_of_one_scene_in_two_splits_are_found(synthetic_build: Build, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(synthetic_build.path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    splits = manifest["tables"]["instruct"]
    splits["mini_val"]["files"].append(splits["mini_train"]["files"][0])
    found = checks.failures(list(checks.overlaps(Build(copy, manifest))))
    assert [c.what for c in found] == [
        f"instruct: {key} in two splits" for key in ("scene_name", "sample_token", "row_id")
    ]


def test_a_prompt_that_holds_ground_truth_is_found(
    synthetic_build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = prompts.EGO_FIELDS["recorded"]

    def leaky(rows: pa.Table) -> Iterator[dict[str, str]]:
        for fields, x in zip(honest(rows), rows["future_x_m"].to_pylist(), strict=True):
            yield {**fields, "history": str(x)}

    monkeypatch.setitem(prompts.EGO_FIELDS, "recorded", leaky)
    monkeypatch.setattr(prompts, "RECORDED_COLUMNS", (*prompts.RECORDED_COLUMNS, "future_x_m"))
    found = checks.failures(list(checks.poison(synthetic_build)))
    assert {c.what.split(",")[0] for c in found} == {"stage 2", "stage 2.5", "stage 3"}
    assert all("profile default" in c.what for c in found)


def test_noise_keeps_types_lengths_and_what_the_user_says(synthetic_build: Build) -> None:
    poisoned = checks.PoisonedBuild(synthetic_build.path, synthetic_build.manifest)
    for name in ("planning", "instruct", "forecasting", "agents", "alignment"):
        ours, theirs = synthetic_build.table(name), poisoned.table(name)
        assert theirs.schema == ours.schema
        same = {c for c in ours.schema.names if ours[c].equals(theirs[c])}
        assert set(ours.schema.names) - same <= set(checks.TRUTH[name])
    instruct = poisoned.table("instruct").to_pylist()[0]
    assert instruct["answer"].startswith("noise")
    assert instruct["messages"][1]["content"].startswith("noise")
    assert not instruct["messages"][0]["content"].startswith("noise")


def test_what_comes_after_a_keyframe_does_not_reach_its_prompt(
    synthetic_tree: Path, tmp_path: Path
) -> None:
    """The poison test on raw data: every pose and box from the sixth keyframe on is noise."""
    tree = tmp_path / "tree"
    shutil.copytree(synthetic_tree, tree, ignore=shutil.ignore_patterns("cache", "language"))
    poison_after(tree / MINI, 5)
    fields = {}
    for root in (synthetic_tree, tree):
        build = make_build(root, tmp_path / f"b{len(fields)}", "planning", version=MINI)
        rows = build.table("planning")
        early = rows.filter(pa.array(rows["frame_index"].to_numpy() < 5))
        assert early.num_rows == 4 * 5
        made = prompts.ego_fields(early, prompts.DEFAULT)
        fields[root] = [{k: v for k, v in f.items() if k != "command"} for f in made]
        truth = early["future_x_m"].to_pylist()
        fields[root].append({"truth": str(truth)})
    clean, poisoned = fields.values()
    assert clean[:-1] == poisoned[:-1]
    assert clean[-1] != poisoned[-1]


def poison_after(tables: Path, frame: int) -> None:
    """Move every ego pose of keyframes from `frame` on."""
    samples = json.loads((tables / "sample.json").read_text())
    scenes: dict[str, list[Any]] = {}
    for sample in sorted(samples, key=lambda s: s["timestamp"]):
        scenes.setdefault(sample["scene_token"], []).append(sample["token"])
    late = {token for tokens in scenes.values() for token in tokens[frame:]}
    data = json.loads((tables / "sample_data.json").read_text())
    poses = {d["ego_pose_token"] for d in data if d["sample_token"] in late}
    rng = np.random.default_rng(0)
    rows = json.loads((tables / "ego_pose.json").read_text())
    for row in rows:
        if row["token"] in poses:
            row["translation"] = rng.uniform(-500, 500, 3).tolist()
    (tables / "ego_pose.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (TEXT, True),
        (TEXT.upper() + "!!! 12", True),
        (TEXT.replace("green", "red"), True),
        (" ".join(reversed(TEXT.split())), False),
        (" ".join(f"word{chr(97 + i)}" for i in range(20)), False),
    ],
    ids=["same", "case", "one-word", "reversed", "other"],
)
def test_near_duplicates(text: str, near: bool) -> None:
    known = [f"an entirely different text number {i} about nothing much" for i in range(50)]
    assert near_duplicates([text], [*known, TEXT]).tolist() == [near]


def test_near_duplicates_of_nothing() -> None:
    assert near_duplicates([], [TEXT]).tolist() == []
    assert near_duplicates([TEXT], []).tolist() == [False]
