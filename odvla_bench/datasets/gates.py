"""Gates: what must hold before a build is declared whole.

The published sizes of the sources are known. A file with exactly that many records is taken for
the published one, and then every record must have found its keyframe; a file with fewer or more
is another edition or a part, which is said and not refused. Row ids are unique and no scene has
rows in two splits, whatever the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odvla_bench.datasets.builders.requirements import Requirement

TRAINVAL_KEYFRAMES = 34_149
STAGE_2_TRAIN = ("nuscenes_qa", "nucaption", "nux")
"""Sources whose train files make up stage 2; 566,579 records, the paper's 566k."""

_FEW = ("scene_name", "split")
"""Columns that repeat so much that they are read as numbers of their values."""

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Gate:
    """One thing that was checked."""

    what: str
    expected: str
    found: str
    status: Status
    note: str = ""


@dataclass(frozen=True)
class Count:
    """What became of the records of one file."""

    read: int
    kept: int
    filtered: int
    """Left out on purpose, by a filter of the settings."""
    bytes: int


def count_gate(name: str, need: Requirement, count: Count, *, whole_nuscenes: bool) -> Gate | None:
    """Whether a file is the published one, and if so, whether all its records were kept."""
    if need.records is None:
        return None
    expected, found = f"{need.records:,}", f"read {count.read:,}, kept {count.kept:,}"
    if count.read != need.records:
        official = need.bytes is not None and count.bytes == need.bytes
        note = (
            "the file has the published size, but another number of records"
            if official
            else "a part or another edition of the published file"
        )
        return Gate(name, expected, found, "failed" if official else "warning", note)
    if count.kept + count.filtered == need.records:
        return Gate(name, expected, found, "ok")
    if not whole_nuscenes:
        return Gate(name, expected, found, "warning", "nuScenes is not the whole trainval set")
    return Gate(name, expected, found, "failed", "records were dropped, see dropped.parquet")


def stage_2_gate(
    needs: Mapping[str, Requirement], counts: Mapping[str, Count], gates: Sequence[Gate]
) -> Gate | None:
    """Whether stage 2 has the size of the paper's, where all its train files are complete."""
    names = [f"{source}.train" for source in STAGE_2_TRAIN]
    status = {gate.what: gate.status for gate in gates}
    if any(status.get(name, "warning") == "warning" for name in names):
        return None
    expected = sum(needs[name].records or 0 for name in names)
    kept = sum(counts[name].kept for name in names)
    ok = kept == expected
    return Gate("stage2.train", f"{expected:,}", f"{kept:,}", "ok" if ok else "failed")


def content_gates(build: Path, tables: Iterable[str]) -> list[Gate]:
    """Checks of what was written: unique row ids, and no scene in two splits."""
    gates = []
    for table in tables:
        rows = _read(build / table, "row_id", *_FEW)
        repeated = rows.num_rows - len(pc.unique(rows["row_id"]))
        gates.append(_none(f"{table}: repeated row ids", repeated))
        gates.append(_none(f"{table}: scenes in two splits", _in_two_splits(rows)))
    return gates


def _in_two_splits(rows: pa.Table) -> int:
    """How many scenes have rows in more than one split."""
    scene, split = (rows[name].combine_chunks() for name in _FEW)
    kinds = len(split.dictionary)
    both = np.unique(scene.indices.to_numpy().astype(np.int64) * kinds + split.indices.to_numpy())
    return int((np.unique(both // kinds, return_counts=True)[1] > 1).sum())


def answers_gate(build: Path, complete: bool) -> Gate:  # noqa: FBT001
    """How many different answers NuScenes-QA has."""
    answers = _read(build / "instruct" / "nuscenes_qa", "answer")["answer"]
    found = len(pc.unique(answers))
    status: Status = "ok" if found == 30 else "failed" if complete else "warning"
    return Gate("nuscenes_qa: different answers", "30", str(found), status)


def _none(what: str, found: int) -> Gate:
    return Gate(what, "0", f"{found:,}", "failed" if found else "ok")


def _read(folder: Path, *columns: str) -> pa.Table:
    """Some columns of all files under a folder."""
    files = sorted(folder.rglob("*.parquet"))
    tables = [pq.ParquetFile(f, read_dictionary=_FEW).read(list(columns)) for f in files]
    return pa.concat_tables(tables).unify_dictionaries()
