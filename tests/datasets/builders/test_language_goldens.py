from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories.builds import expanded, make_build, write_files
from factories.small_tree import write_small_tree

from odvla_bench.datasets.reader import Build

GOLDENS = Path(__file__).parents[2] / "goldens/instructions"


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*.json")), ids=lambda p: p.stem)
def test_golden_build(tmp_path: Path, path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    language = write_files(tmp_path / "language", golden["files"])
    tree = write_files(write_small_tree(tmp_path / "tree"), golden.get("nuscenes_files", {}))
    build = make_build(tree, tmp_path / "build", path.stem, language=language)
    for table, rows in expanded(golden["rows"]).items():
        found = build.table(table).to_pylist()
        assert [r["row_id"] for r in found] == [r["row_id"] for r in rows]
        for row, wanted in zip(found, rows, strict=True):
            assert {k: _rounded(row[k]) for k in wanted} == wanted
    dropped = [
        {k: row[k] for k in wanted}
        for row, wanted in zip(build.dropped().to_pylist(), golden["dropped"], strict=True)
    ]
    assert dropped == expanded(golden["dropped"])
    accounts = build.manifest["sources"][path.stem]
    assert {t: a["read"] for t, a in accounts.items()} == golden["read"]
    for table, account in accounts.items():
        assert account["read"] == account["kept"] + sum(account["dropped"].values())
        assert account["kept"] == build.table(table).num_rows
    made = {f["path"]: f["fingerprint"] for f in files_of(build)}
    assert made == golden.get("fingerprints", made)


def files_of(build: Build) -> list[dict[str, Any]]:
    tables = build.manifest["tables"].values()
    return [file for splits in tables for split in splits.values() for file in split["files"]]


def _rounded(value: Any) -> Any:
    """Floats to a micrometre, where float32 and rotations leave no exact zeros."""
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 6) + 0.0 if isinstance(value, float) else value
