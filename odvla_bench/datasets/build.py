"""Making a build: plan the shards, make those that are missing, close with the manifest.

A build under way has a folder `.progress` with one record for every finished shard. The manifest
is written last, so a folder with a manifest is whole, and one without is not. Whoever starts the
same build again goes on from the finished shards, and the result is the same to the byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from odvla_bench.datasets import card
from odvla_bench.datasets.builders.base import BUILDERS, BuildRequest, Unit, open_context
from odvla_bench.datasets.executor import run_tasks
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
    """
    context = open_context(request)
    units = [u for name in sources for u in BUILDERS.get(name).plan(context)]
    if not units:
        raise InputError(f"{request.nuscenes_root / request.version}: no scene has keyframes.")
    key = digest_text(
        str(FORMAT_VERSION), package_version(), context.fingerprint(), *sorted(sources)
    )
    if whole := _prepare(out, key, overwrite=overwrite):
        return whole
    pending = [u for u in units if not _record(out, key, u)]
    tasks = [Task(request, unit, out, key) for unit in pending]
    finished = len(units) - len(pending)
    for record in run_tasks(build_unit, tasks, executor=executor, workers=workers):
        finished += 1
        if report:
            rows = {f["path"].split("/")[0]: f["rows"] for f in record["files"]}
            report(Done(record["unit"], finished, len(units), rows))
    return _close(out, key, request, units)


def build_unit(task: Task) -> dict[str, Any]:
    """Build one unit, write its shards, and leave its record, which is returned."""
    context = open_context(task.request)
    rows = BUILDERS.get(task.unit.source).build(context, task.unit)
    if lost := rows.unaccounted():
        raise FormatError(
            f"{task.unit.source} {task.unit.name}: records unaccounted for: {lost}. "
            "This is a defect of the builder; please report it."
        )
    files = [
        write_table(task.out, f"{name}/{task.unit.name}.parquet", TABLES[name], table)
        for name, table in rows.tables.items()
        if table.num_rows
    ]
    record = {
        "key": task.key,
        "unit": f"{task.unit.source} {task.unit.name}",
        "split": task.unit.split,
        "files": [asdict(f) for f in files],
        "read": dict(rows.read),
        "dropped": [asdict(d) for d in rows.dropped],
    }
    write_json(_record_path(task.out, task.unit), record)
    return record


def _record_path(out: Path, unit: Unit) -> Path:
    return out / PROGRESS / f"{unit.source}-{unit.name}.json"


def _record(out: Path, key: str, unit: Unit) -> dict[str, Any] | None:
    """The record of a unit if it is finished and its files are there."""
    path = _record_path(out, unit)
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    whole = record["key"] == key and all(_is_there(out, f) for f in record["files"])
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
    """Write ledger, card and, last, the manifest; then forget the progress."""
    records = [r for u in units if (r := _record(out, key, u))]
    if len(records) != len(units):
        raise FormatError(f"{out}: shards vanished while the build ran. Run the command again.")
    ledger = write_table(out, LEDGER, DROPPED, _ledger(units, records))
    files = [FileRecord(**f) for r in records for f in r["files"]]
    context = open_context(request)
    manifest: Manifest = {
        "format_version": FORMAT_VERSION,
        "odvla_bench_version": package_version(),
        "key": key,
        "fingerprint": digest_text(*(f"{f.path} {f.fingerprint}" for f in [*files, ledger])),
        "nuscenes": {
            "version": request.version,
            "tables_fingerprint": context.nuscenes.fingerprint,
            "can_bus_fingerprint": context.can_bus.fingerprint,
            "scenes_with_can_bus": context.can_bus.n_scenes,
        },
        "sources": _accounts(units, records),
        "tables": _tables(records),
        "ledger": asdict(ledger),
    }
    write_text(out / CARD, card.render(manifest))
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(out / PROGRESS)
    return manifest


def _ledger(units: Sequence[Unit], records: Sequence[dict[str, Any]]) -> pa.Table:
    rows = [
        {"source": unit.source, "split": unit.split, **drop}
        for unit, record in zip(units, records, strict=True)
        for drop in record["dropped"]
    ]
    return pa.Table.from_pylist(rows, schema=DROPPED.schema)


def _accounts(units: Sequence[Unit], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For every source and table: records read, rows kept, records dropped by reason."""
    accounts: dict[str, Any] = {}
    for unit, record in zip(units, records, strict=True):
        for table, read in record["read"].items():
            account = accounts.setdefault(unit.source, {}).setdefault(
                table, {"read": 0, "kept": 0, "dropped": {}}
            )
            drops = [d["reason"] for d in record["dropped"] if d["table"] == table]
            account["read"] += read
            account["kept"] += read - len(drops)
            for reason in drops:
                account["dropped"][reason] = account["dropped"].get(reason, 0) + 1
    return accounts


def _tables(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Table → split → rows and files; every table is listed, also one without rows."""
    tables: dict[str, Any] = {name: {} for name in TABLES}
    for record in records:
        for file in record["files"]:
            name = file["path"].split("/")[0]
            split = tables[name].setdefault(record["split"], {"rows": 0, "files": []})
            split["rows"] += file["rows"]
            split["files"].append(file)
    return tables
