"""Making a build: plan the shards, make those that are missing, close with the manifest.

A build under way has a folder `.progress` with one record for every finished shard. The manifest
is written last, so a folder with a manifest is whole, and one without is not. Whoever starts the
same build again goes on from the finished shards, and the result is the same to the byte.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odvla_bench.datasets import card
from odvla_bench.datasets.builders.base import (
    BUILDERS,
    BuildRequest,
    Drop,
    Unit,
    UnitRows,
    open_context,
)
from odvla_bench.datasets.builders.requirements import Source, check_given, look_for
from odvla_bench.datasets.executor import check_executor, run_tasks
from odvla_bench.datasets.manifest import check_gates, contents
from odvla_bench.datasets.schema import DROPPED, FORMAT_VERSION, TABLES
from odvla_bench.datasets.writer import (
    TEMPORARY_PREFIX,
    FileRecord,
    write_json,
    write_table,
    write_text,
)
from odvla_bench.errors import FormatError, InputError
from odvla_bench.provenance import digest_text, package_version

MANIFEST = "manifest.json"
CARD = "README.md"
LEDGER = "dropped.parquet"
PROGRESS = ".progress"

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What a worker is told: which unit to build, from what, to where."""

    request: BuildRequest
    unit: Unit
    out: Path
    key: str


@dataclass(frozen=True)
class Done:
    """One finished unit, for whoever shows progress."""

    unit: str
    finished: int
    total: int
    rows: dict[str, int]


def find_sources(
    nuscenes_root: Path,
    sources_root: Path | None = None,
    given: Mapping[str, Path] | None = None,
) -> list[Source]:
    """All sources, and which of their files are there.

    Args:
        nuscenes_root: the nuScenes root.
        sources_root: where the language files lie, flat or in a folder a source.
        given: names such as "nuscenes_qa.val" → files that lie elsewhere.

    Raises:
        InputError: the folder, or a file that was named, is not there.
        UnknownNameError: a file is named for something that no source needs.
    """
    if sources_root is not None and not sources_root.is_dir():
        raise InputError(f"{sources_root}: no such folder. Give the one with the language files.")
    requires = {name: BUILDERS.get(name).requires for name in BUILDERS}
    check_given(given or {}, requires)
    return [
        look_for(name, needs, nuscenes_root=nuscenes_root, sources_root=sources_root, given=given)
        for name, needs in requires.items()
    ]


def build(
    request: BuildRequest,
    out: Path,
    *,
    sources: Sequence[str] = ("planning",),
    executor: str = "local",
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[Done], None] | None = None,
) -> Manifest:
    """Make a build, or go on with one, and return its manifest.

    Args:
        request: the raw data.
        out: the build's folder; new, empty, or holding the same build, whole or unfinished.
        sources: names of `BUILDERS`.
        executor: who runs the shards, see `run_tasks`.
        workers: processes at a time.
        overwrite: discard another build that lies in `out`.
        report: called after every unit.

    Raises:
        InputError: raw data that cannot be read; `out` holds something else.
        FormatError: rows lost between raw data and build.
        UnknownNameError: no such source or executor.
    """
    check_executor(executor)
    key, units = _plan(request, sources)
    if whole := _prepare(out, key, overwrite=overwrite):
        return whole
    pending = [u for u in units if not _record(out, key, u)]
    tasks = [Task(request, unit, out, key) for unit in pending]
    finished = len(units) - len(pending)
    for record in run_tasks(build_unit, tasks, executor=executor, workers=workers):
        finished += 1
        if report:
            rows: dict[str, int] = {}
            for f in record["files"]:
                table = f["path"].split("/")[0]
                rows[table] = rows.get(table, 0) + f["rows"]
            report(Done(record["unit"], finished, len(units), rows))
    return _close(out, key, request, units)


def _plan(request: BuildRequest, sources: Sequence[str]) -> tuple[str, list[Unit]]:
    """The build's key, and all its units."""
    context = open_context(request)
    wanted = {BUILDERS.get(name).name for name in sources}
    names = [name for name in BUILDERS if name in wanted]
    units = [u for name in names for u in BUILDERS.get(name).plan(context)]
    if not units:
        raise InputError(f"{request.nuscenes_root / request.version}: no scene has keyframes.")
    parts = (str(FORMAT_VERSION), package_version(), context.fingerprint(names), *names)
    return digest_text(*parts), units


def build_unit(task: Task) -> dict[str, Any]:
    """Build one unit, write its shards, and leave its record, which is returned."""
    context, unit = open_context(task.request), task.unit
    with _no_collection():
        rows = BUILDERS.get(unit.source).build(context, unit)
    if lost := rows.unaccounted():
        raise FormatError(
            f"{unit.source} {unit.name}: records unaccounted for: {lost}. "
            "This is a defect of the builder; please report it."
        )
    ledger = write_table(
        task.out, f"{PROGRESS}/{unit.source}-{unit.name}.parquet", DROPPED, _ledger(unit, rows)
    )
    record = {
        "key": task.key,
        "unit": f"{unit.source} {unit.name}",
        "files": [asdict(f) for f in _write_shards(task.out, unit, rows)],
        "ledger": asdict(ledger),
        "read": dict(rows.read),
        "dropped": _by_reason(rows.dropped),
        "flags": {name: _flags(table) for name, table in rows.tables.items()},
    }
    write_json(_record_path(task.out, unit), record)
    return record


@contextmanager
def _no_collection() -> Iterator[None]:
    """No cyclic garbage collection: parsed records have no cycles, and there are millions."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _write_shards(out: Path, unit: Unit, rows: UnitRows) -> list[FileRecord]:
    """One file a table and split that the unit has rows for."""
    files = []
    for name, table in rows.tables.items():
        folder = f"{name}/{unit.source}" if TABLES[name].shared else name
        for split, part in _by_split(unit, table):
            path = f"{folder}/{unit.shard(split)}"
            files.append(write_table(out, path, TABLES[name], part, split=split))
    return files


def _by_split(unit: Unit, table: pa.Table) -> list[tuple[str, pa.Table]]:
    if unit.split or not table.num_rows:
        return [(unit.split, table)] if table.num_rows else []
    splits = sorted(pc.unique(table["split"]).to_pylist())
    if len(splits) == 1:  # as of most files; a filter would copy all
        return [(splits[0], table)]
    return [(s, table.filter(pc.equal(table["split"], s))) for s in splits]


def _ledger(unit: Unit, rows: UnitRows) -> pa.Table:
    drops = [Drop(*drop) for drop in rows.dropped]
    columns = {name: [getattr(d, name) for d in drops] for name in Drop._fields}
    columns["split"] = [split or unit.split for split in columns["split"]]
    columns["source"] = [unit.source] * len(drops)
    return pa.table({n: columns[n] for n in DROPPED.schema.names}, schema=DROPPED.schema)


def _by_reason(drops: Sequence[Drop]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for drop in drops:
        reasons = counts.setdefault(drop.table, {})
        reasons[drop.reason] = reasons.get(drop.reason, 0) + 1
    return counts


def _flags(table: pa.Table) -> dict[str, int]:
    """How many rows carry each flag."""
    if "flags" not in table.schema.names:
        return {}
    counted = pc.value_counts(pc.list_flatten(table["flags"]))
    return {c["values"]: c["counts"] for c in counted.to_pylist()}


def _record_path(out: Path, unit: Unit) -> Path:
    return out / PROGRESS / f"{unit.source}-{unit.name}.json"


def _record(out: Path, key: str, unit: Unit) -> dict[str, Any] | None:
    """The record of a unit if it is finished and its files are there."""
    path = _record_path(out, unit)
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    files = [*record["files"], record["ledger"]]
    whole = record["key"] == key and all(_is_there(out, f) for f in files)
    return record if whole else None


def _is_there(out: Path, record: dict[str, Any]) -> bool:
    path = out / record["path"]
    return path.is_file() and path.stat().st_size == record["bytes"]


def _prepare(out: Path, key: str, *, overwrite: bool) -> Manifest | None:
    """Make `out` ready for this build; returns the manifest if it is there already, whole."""
    marker = out / PROGRESS / "build.json"
    manifest = out / MANIFEST
    found = next((p for p in (manifest, marker) if p.is_file()), None)
    if found is None:
        if out.is_dir() and any(p.name != PROGRESS for p in out.iterdir()):
            raise InputError(f"{out}: not empty, and not a build. Give --out a new folder.")
    elif (held := json.loads(found.read_text(encoding="utf-8"))).get("key") != key:
        if not overwrite:
            raise InputError(
                f"{out}: holds another build (of other raw data, sources, settings or version). "
                "Give --out a new folder, or --overwrite to discard it."
            )
        _discard(out)
    elif found == manifest and all(_is_there(out, f) for f in _files(held)):
        return dict(held)
    manifest.unlink(missing_ok=True)
    write_json(marker, {"key": key, "format_version": FORMAT_VERSION})
    for leftover in out.rglob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink()
    return None


def _discard(out: Path) -> None:
    """Remove what builds write, and nothing else."""
    for name in (MANIFEST, CARD, LEDGER):
        (out / name).unlink(missing_ok=True)
    for name in (*TABLES, PROGRESS):
        shutil.rmtree(out / name, ignore_errors=True)


def _files(manifest: Manifest) -> list[dict[str, Any]]:
    tables = manifest["tables"].values()
    return [f for table in tables for split in table.values() for f in split["files"]]


def _close(out: Path, key: str, request: BuildRequest, units: Sequence[Unit]) -> Manifest:
    """Check the gates, write ledger, card and, last, the manifest; then forget the progress."""
    records = [r for u in units if (r := _record(out, key, u))]
    if len(records) != len(units):
        raise FormatError(f"{out}: shards vanished while the build ran. Run the command again.")
    context = open_context(request)
    context.forget_boxes()  # the gates need memory of their own
    gates = check_gates(out, context, units, records)
    drops = [pq.ParquetFile(out / r["ledger"]["path"]).read().cast(DROPPED.schema) for r in records]
    ledger = write_table(out, LEDGER, DROPPED, pa.concat_tables(drops))
    files = [FileRecord(**f) for r in records for f in r["files"]]
    manifest: Manifest = {
        "format_version": FORMAT_VERSION,
        "odvla_bench_version": package_version(),
        "key": key,
        "fingerprint": digest_text(*(f"{f.path} {f.fingerprint}" for f in [*files, ledger])),
        **contents(context, units, records, gates),
        "ledger": asdict(ledger),
    }
    write_text(out / CARD, card.render(manifest))
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(out / PROGRESS)
    return manifest
