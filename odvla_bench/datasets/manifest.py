"""What a build's manifest says of its contents: inputs, accounts, tables, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from odvla_bench.datasets.builders.base import BUILDERS, Context, Unit
from odvla_bench.datasets.gates import (
    TRAINVAL_KEYFRAMES,
    Count,
    Gate,
    answers_gate,
    content_gates,
    count_gate,
    stage_2_gate,
)
from odvla_bench.datasets.nuscenes.cache import fingerprint_files
from odvla_bench.datasets.schema import TABLES
from odvla_bench.errors import FormatError

Record = dict[str, Any]
"""What a finished unit left behind, see `build.build_unit`."""


def contents(
    context: Context, units: Sequence[Unit], records: Sequence[Record], gates: Sequence[Gate]
) -> dict[str, Any]:
    """The manifest's entries that follow from the raw data and the finished units."""
    request = context.request
    return {
        "nuscenes": {
            "version": request.version,
            "tables_fingerprint": context.nuscenes.fingerprint,
            "can_bus_fingerprint": context.can_bus.fingerprint,
            "scenes_with_can_bus": context.can_bus.n_scenes,
        },
        "settings": {k: str(v or "") for k, v in asdict(request.settings).items()},
        "inputs": _inputs(context, {u.source for u in units}),
        "sources": _accounts(units, records),
        "gates": [asdict(gate) for gate in gates],
        "tables": _tables(records),
    }


def _inputs(context: Context, sources: set[str]) -> list[dict[str, Any]]:
    """The files that were read beside nuScenes', with their digests and licences."""
    inputs = []
    for name in (n for n in BUILDERS if n in sources):
        files = context.files(name)
        for need in (n for n in BUILDERS.get(name).requires if n.key in files):
            path = files[need.key]
            digest = fingerprint_files({"file": path}, context.request.cache_dir)
            facts = {"source": name, "key": need.key, "file": path.name, "license": need.license}
            inputs.append({**facts, "bytes": path.stat().st_size, "fingerprint": digest})
    return inputs


def check_gates(
    out: Path, context: Context, units: Sequence[Unit], records: Sequence[Record]
) -> list[Gate]:
    """The gates of a build whose shards are all written.

    Raises:
        FormatError: one does not hold; all are listed.
    """
    whole = context.nuscenes.samples.num_rows == TRAINVAL_KEYFRAMES
    needs = {f"{n}.{r.key}": r for n in BUILDERS for r in BUILDERS.get(n).requires}
    counts = {n: _count(context, n, r.table, units, records) for n, r in needs.items()}
    found = {n: c for n, c in counts.items() if c is not None}
    made = (count_gate(n, needs[n], c, whole_nuscenes=whole) for n, c in found.items())
    gates = [g for g in made if g]
    if total := stage_2_gate(needs, found, gates):
        gates.append(total)
    written = {f["path"].rpartition("/")[0] for r in records for f in r["files"]}
    with_ids = {folder.split("/")[0] for folder in written}
    gates += content_gates(
        out, [n for n, t in TABLES.items() if n in with_ids and "row_id" in t.schema.names]
    )
    if "instruct/nuscenes_qa" in written:
        complete = any(g.what == "nuscenes_qa.train" and g.status == "ok" for g in gates)
        gates.append(answers_gate(out, complete))
    if failed := [g for g in gates if g.status == "failed"]:
        lines = [f"{g.what}: expected {g.expected}, found {g.found}. {g.note}" for g in failed]
        raise FormatError("\n  ".join([f"{out}: the build does not pass its gates:", *lines]))
    return gates


def _count(
    context: Context,
    name: str,
    table: str,
    units: Sequence[Unit],
    records: Sequence[Record],
) -> Count | None:
    """What became of the records of the file that meets a requirement; None where none was read."""
    source, _, part = name.partition(".")
    own = [
        r
        for u, r in zip(units, records, strict=True)
        if (u.source, u.part) == (source, part) and table in r["read"]
    ]
    if not own:
        return None
    read = sum(r["read"][table] for r in own)
    drops = [r["dropped"].get(table, {}) for r in own]
    size = context.files(source)[part].stat().st_size
    filtered = sum(d.get("filtered", 0) for d in drops)
    return Count(read, read - sum(sum(d.values()) for d in drops), filtered, size)


def _accounts(units: Sequence[Unit], records: Sequence[Record]) -> dict[str, Any]:
    """For every source and table: records read, kept, dropped by reason, and flags of the kept."""
    accounts: dict[str, Any] = {}
    for unit, record in zip(units, records, strict=True):
        for table, read in record["read"].items():
            account = accounts.setdefault(unit.source, {}).setdefault(
                table, {"read": 0, "kept": 0, "dropped": {}, "flags": {}}
            )
            drops = record["dropped"].get(table, {})
            account["read"] += read
            account["kept"] += read - sum(drops.values())
            for kind, counts in (("dropped", drops), ("flags", record["flags"].get(table, {}))):
                for name, n in counts.items():
                    account[kind][name] = account[kind].get(name, 0) + n
    return accounts


def _tables(records: Sequence[Record]) -> dict[str, Any]:
    """Table → split → rows and files; every table is listed, also one without rows."""
    tables: dict[str, Any] = {name: {} for name in TABLES}
    for record in records:
        for file in record["files"]:
            name = file["path"].split("/")[0]
            split = tables[name].setdefault(file["split"], {"rows": 0, "files": []})
            split["rows"] += file["rows"]
            split["files"].append(file)
    return tables
