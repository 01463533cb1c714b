from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from factories.builds import make_build, write_files
from factories.small_tree import write_small_tree

from odvla_bench.datasets import manifest
from odvla_bench.datasets.builders import base
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.gates import STAGE_2_TRAIN, Count, Gate, count_gate, stage_2_gate
from odvla_bench.errors import FormatError

NEED = Requirement("val", ("f",), "there", "MIT", "9 MB", "instruct", records=100, bytes=5_000)


@pytest.mark.parametrize(
    ("count", "whole", "status"),
    [
        (Count(100, 100, 0, 5_000), True, "ok"),
        (Count(100, 60, 40, 4_000), True, "ok"),
        (Count(100, 99, 0, 5_000), True, "failed"),
        (Count(100, 99, 0, 5_000), False, "warning"),
        (Count(99, 99, 0, 4_000), True, "warning"),
        (Count(101, 101, 0, 6_000), True, "warning"),
        (Count(99, 99, 0, 5_000), True, "failed"),
    ],
    ids=["whole", "filtered", "lost", "lost-on-mini", "part", "more", "official-size"],
)
def test_count_gate(count: Count, whole: bool, status: str) -> None:
    gate = count_gate("s.val", NEED, count, whole_nuscenes=whole)
    assert gate is not None
    assert gate.status == status
    assert (gate.expected, gate.found) == ("100", f"read {count.read}, kept {count.kept}")


def test_no_known_count_no_gate() -> None:
    need = dataclasses.replace(NEED, records=None)
    assert count_gate("s.val", need, Count(1, 1, 0, 1), whole_nuscenes=True) is None


def test_stage_2_has_the_papers_size() -> None:
    needs = {f"{n}.{r.key}": r for n in STAGE_2_TRAIN for r in base.BUILDERS.get(n).requires}
    counts = {f"{n}.train": needs[f"{n}.train"].records or 0 for n in STAGE_2_TRAIN}
    found = {n: Count(c, c, 0, 0) for n, c in counts.items()}
    gates = [Gate(n, "", "", "ok") for n in counts]
    total = stage_2_gate(needs, found, gates)
    assert total is not None
    assert (total.expected, total.found, total.status) == ("566,579", "566,579", "ok")
    partial = [*gates[1:], dataclasses.replace(gates[0], status="warning")]
    assert stage_2_gate(needs, found, partial) is None


def test_published_counts() -> None:
    counts = {
        f"{name}.{need.key}": need.records
        for name in ("nuscenes_qa", "nucaption", "nux", "tod3cap")
        for need in base.BUILDERS.get(name).requires
    }
    assert counts == {
        "nuscenes_qa.train": 376_604,
        "nuscenes_qa.val": 83_337,
        "nucaption.train": 161_845,
        "nucaption.val": None,
        "nux.train": 28_130,
        "nux.val": 6_019,
        "tod3cap.captions": 1_165_741,
    }


def test_a_build_that_loses_official_records_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the published number of records, nuScenes is whole, and one does not join."""
    builder = base.BUILDERS.get("nux")
    train = dataclasses.replace(builder.requires[0], records=2)
    monkeypatch.setattr(type(builder), "requires", (train, builder.requires[1]))
    monkeypatch.setattr(manifest, "TRAINVAL_KEYFRAMES", 7)
    files = {"Nu_X_train.json": ['{"@a1": {"narration": "n", "reasoning": "r"}, "@a9": {}}']}
    language = write_files(tmp_path / "language", files)
    root = write_small_tree(tmp_path / "tree")
    with pytest.raises(FormatError, match=r"nux.train: expected 2, found read 2, kept 1"):
        make_build(root, tmp_path / "b", "nux", language=language)
    assert not (tmp_path / "b/manifest.json").exists()
    monkeypatch.setattr(manifest, "TRAINVAL_KEYFRAMES", 34_149)
    build = make_build(root, tmp_path / "b", "nux", language=language)
    gates = {g["what"]: g["status"] for g in build.manifest["gates"]}
    assert gates["nux.train"] == "warning"
    assert gates["instruct: repeated row ids"] == "ok"
