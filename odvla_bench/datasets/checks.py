"""Leak checks of a build: overlap of splits, text of val in train, ground truth in prompts."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.instructions import EGO_STAGES
from odvla_bench.datasets.near_duplicates import MIN_WORDS, near_duplicates
from odvla_bench.datasets.prompts import PROFILES
from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.schema import STAGE_TABLES, TABLES, TRUTH

POISONED_ROWS = 20_000
"""Prompts compared of each stage and profile."""

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One check and what came of it."""

    what: str
    found: str
    status: Status


def check_build(build: Build) -> list[Check]:
    """All leak checks of a build."""
    return [*overlaps(build), *shared_texts(build), *poison(build)]


def overlaps(build: Build) -> Iterator[Check]:
    """Scenes, keyframes and row ids that rows of two splits share; none may be."""
    with duckdb.connect() as con:
        for name in TABLES:
            keys = [c for c in ("scene_name", "sample_token", "row_id") if c in _names(name)]
            for key in keys if build.splits(name) else ():
                n = sum(_shared(con, build, name, key))
                yield Check(f"{name}: {key} in two splits", f"{n:,}", "failed" if n else "ok")


def _names(table: str) -> list[str]:
    return list(TABLES[table].schema.names)


def _shared(con: duckdb.DuckDBPyConnection, build: Build, name: str, key: str) -> Iterator[int]:
    for one, other in itertools.combinations(build.splits(name), 2):
        a, b = (build.table(name, split, [key]) for split in (one, other))
        con.register("a", a)
        con.register("b", b)
        query = f"SELECT count(*) FROM (SELECT {key} FROM a INTERSECT SELECT {key} FROM b)"
        yield int(con.execute(query).fetchall()[0][0])


def shared_texts(build: Build) -> Iterator[Check]:
    """Share of long answers outside train that train has too, or nearly.

    It cannot fail: captions of one road are alike, and short or templated answers repeat. A large
    share says that a score rewards memory.
    """
    for name in ("alignment", "instruct"):
        splits = build.splits(name)
        train = next((s for s in splits if s.endswith("train")), None)
        for source in _sources(build, name) if train else ():
            known = _answers(build, name, str(train), source)
            for split in (s for s in splits if s != train):
                texts = _answers(build, name, split, source)
                if not texts or not known:
                    continue
                near = int(near_duplicates(texts, known).sum())
                found = f"{near:,} of {len(texts):,} ({near / len(texts):.1%})"
                what = f"{name}-{source}: answers of {split} nearly in {train}"
                yield Check(what, found, "warning" if near > len(texts) / 2 else "ok")


def _sources(build: Build, name: str) -> list[str]:
    splits = build.manifest["tables"][name].values()
    return sorted({f["path"].split("/")[1] for split in splits for f in split["files"]})


def _answers(build: Build, name: str, split: str, source: str) -> list[str]:
    """Different answers of `MIN_WORDS` words or more."""
    rows = build.table(name, split, ["answer"], sources=[source])["answer"]
    texts: list[str] = pc.unique(rows).to_pylist()
    return [t for t in texts if t.count(" ") + 1 >= MIN_WORDS]


def poison(build: Build) -> Iterator[Check]:
    """Whether prompts stay the same when all ground truth is replaced by noise."""
    poisoned = PoisonedBuild(build.path, build.manifest)
    for stage, table in STAGE_TABLES.items():
        for split in build.splits(table.name):
            if stage in EGO_STAGES and split not in build.splits("planning"):
                continue
            for profile in PROFILES.values():
                both = (
                    _digest(b.iter_instructions(stage, split, profile, answers=False))
                    for b in (build, poisoned)
                )
                same = next(both) == next(both)
                what = f"stage {stage}, {split}, profile {profile.name}: prompts without truth"
                yield Check(what, "unchanged" if same else "changed", "ok" if same else "failed")


def _digest(instructions: Iterator[object]) -> str:
    h = hashlib.blake2b(digest_size=16)
    for instruction in itertools.islice(instructions, POISONED_ROWS):
        h.update(repr(instruction).encode())
    return h.hexdigest()


class PoisonedBuild(Build):
    """A build that reads as another one whose ground truth is noise."""

    def _loaded(self, name: str, rows: pa.Table) -> pa.Table:
        for column in TRUTH.get(name, ()):
            if column in rows.schema.names:
                at = rows.schema.get_field_index(column)
                field = rows.schema.field(at)
                rows = rows.set_column(at, field, noise(rows[column], field.type))
        return rows


def noise(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Values of the type that have nothing to do with the column's; lists keep their lengths."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], kind)
    if pa.types.is_struct(kind):
        # Of a conversation, what the assistant says; what the user asks is no ground truth.
        roles = array.field("role")
        said = pc.equal(roles, "assistant")
        contents = pc.if_else(said, _noise_texts(len(array)), array.field("content"))
        return pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    if pa.types.is_list(kind):
        inner = noise(pa.chunked_array([array.flatten()]), kind.value_type)
        offsets = pc.subtract(array.offsets, array.offsets[0])
        return pa.ListArray.from_arrays(offsets, inner)
    if kind == pa.string():
        return _noise_texts(len(array))
    values = np.random.default_rng(0).integers(-100, 100, len(array))
    return pa.array(values > 0 if pa.types.is_boolean(kind) else values).cast(kind)


def _noise_texts(n: int) -> pa.Array:
    return pa.array([f"noise {i}" for i in range(n)], pa.string())


def failures(checks: Sequence[Check]) -> list[Check]:
    """Those that failed."""
    return [check for check in checks if check.status == "failed"]
