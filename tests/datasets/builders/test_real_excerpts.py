"""The transcribed NuScenes-QA rows against the real tables of mini_val."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import open_build

pytestmark = pytest.mark.real
FULL_ROW = {"num_hop": 0, "template_type": "exist", "split": "val"}


def test_excerpts_join_or_land_in_the_ledger(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "nuscenes-mini-val"
    excerpt = real_data / "nuscenes-qa-excerpt"
    whole = json.loads((excerpt / "NuScenes_val_questions.excerpt.json").read_text())
    known = json.loads((root / "v1.0-mini/sample.json").read_text())[0]["token"]
    partial = json.loads((excerpt / "partial_rows.json").read_text())
    # Beside the three rows as they are: the partial ones, and one made whole for a real keyframe.
    joined = {**partial[2], **FULL_ROW, "sample_token": known}
    whole["questions"] += [*partial, joined]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(whole))
    request = BuildRequest(
        root, "v1.0-mini", tmp_path / "cache", files=(("nuscenes_qa.val", path),)
    )
    build(request, tmp_path / "b", sources=["nuscenes_qa"])
    made = open_build(tmp_path / "b")
    tokens = {s["token"] for s in json.loads((root / "v1.0-mini/sample.json").read_text())}
    rows = made.table("instruct").to_pylist()
    kept = {row["source_row"]: row for row in rows}
    drops = {int(d["record"].split(":")[1]): d["reason"] for d in made.dropped().to_pylist()}
    assert sorted([*kept, *drops]) == list(range(len(whole["questions"])))
    for i, record in enumerate(whole["questions"][:3]):
        if record["sample_token"] in tokens:
            assert kept[i]["answer"] == record["answer"]
            assert kept[i]["split"] == "mini_val"
        else:
            assert drops[i] == "unknown_sample"
    # Of the partial rows one names a keyframe, of train; the others name none.
    assert drops[3] == "unknown_sample"
    assert {drops[i] for i in range(4, 10)} == {"malformed"}
    assert kept[10]["sample_token"] == known
    assert json.loads(kept[10]["raw"]) == joined
