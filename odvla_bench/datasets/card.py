"""The dataset card of a build: what Hugging Face `datasets` reads, and what a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odvla_bench.datasets.schema import DROPPED, STAGE_TABLES, TABLES, Table

_INTRODUCTION = """\
# A build of odvla_bench

Made from nuScenes `{version}` by odvla_bench {package}, format version {format}.
Content fingerprint: `{fingerprint}`.

nuScenes and what is derived from it are licensed CC BY-NC-SA 4.0 under the nuScenes terms of use:
non-commercial use, with attribution to Motional. This build may be used and shared on those terms
only. What the sources say of their own text stands in the column `license` and in the table of
inputs; two of them state no terms, so their text is not to be passed on.

Frames: LIDAR is the LIDAR_TOP sensor at the keyframe (t0), x right and y forward; EGO is the rear
axle, x forward and y left; GLOBAL is the map. Values at steps that were not recorded repeat the
nearest recorded one (`planning`) or are 0 (`agents`); the `_valid` columns tell.
The driving command is computed from the recorded future: a model that is given it knows something
of the answer.

```python
import odvla_bench
build = odvla_bench.open_build("PATH")
planning = build.table("planning", split="{split}").to_pandas()
for instruction in build.iter_instructions("3", "{split}"):
    ...
```

With Hugging Face `datasets`, every table is a config, every source of a table that several write
(`<table>-<source>`), and every stage's mix: `load_dataset("PATH", "stage2", split="{split}")`.
Stages 1 and 2 hold text: the first line of a user turn lists what the model is shown, and the
ego state is written at load. Stages 2.5 and 3 hold numbers that a waypoint codec writes as text.
"""


def render(manifest: dict[str, Any]) -> str:
    """The card's text: front matter with one config a table, then counts and columns."""
    splits = sorted({split for table in manifest["tables"].values() for split in table})
    introduction = _INTRODUCTION.format(
        version=manifest["nuscenes"]["version"],
        package=manifest["odvla_bench_version"],
        format=manifest["format_version"],
        fingerprint=manifest["fingerprint"],
        split=splits[-1] if splits else "val",
    )
    parts = [_front_matter(manifest), introduction, _counts(manifest)]
    parts += [_columns(table) for table in (*TABLES.values(), DROPPED)]
    return "\n".join(parts)


def configs(manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Config → split → pattern of its files: tables, sources of shared tables, stages."""
    found: dict[str, dict[str, str]] = {}
    for name, splits in manifest["tables"].items():
        shared = TABLES[name].shared
        for split in sorted(splits):
            pattern = f"{name}/*/{split}-*.parquet" if shared else f"{name}/{split}-*.parquet"
            found.setdefault(name, {})[split] = pattern
            for source in _sources(splits[split]) if shared else ():
                one = found.setdefault(f"{name}-{source}", {})
                one[split] = f"{name}/{source}/{split}-*.parquet"
    stages = {f"stage{stage}": found.get(t.name, {}) for stage, t in STAGE_TABLES.items()}
    return {**found, **{name: splits for name, splits in stages.items() if splits}}


def _sources(split: dict[str, Any]) -> list[str]:
    return sorted({file["path"].split("/")[1] for file in split["files"]})


def _front_matter(manifest: dict[str, Any]) -> str:
    lines = ["---", "license: cc-by-nc-sa-4.0", "pretty_name: odvla_bench build", "configs:"]
    for name, splits in configs(manifest).items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", ""])


def _counts(manifest: dict[str, Any]) -> str:
    accounts = [
        (source, table, a["read"], a["kept"], _tally(a["dropped"]), _tally(a["flags"]))
        for source, tables in manifest["sources"].items()
        for table, a in tables.items()
    ]
    rows = [
        (table, split, splits[split]["rows"])
        for table, splits in manifest["tables"].items()
        for split in sorted(splits)
    ]
    inputs = [
        (i["source"], i["file"], f"{i['bytes']:,}", i["fingerprint"], i["license"])
        for i in manifest["inputs"]
    ]
    gates = [
        (g["what"], g["expected"], g["found"], g["status"], g["note"]) for g in manifest["gates"]
    ]
    parts = [
        "## Counts\n",
        _grid(("source", "table", "read", "kept", "dropped", "flags"), accounts),
        _grid(("table", "split", "rows"), rows),
    ]
    if inputs:
        header = ("source", "file", "bytes", "fingerprint", "license of its text")
        parts += ["## Inputs\n", _grid(header, inputs)]
    if gates:
        parts += ["## Gates\n", _grid(("gate", "expected", "found", "status", "note"), gates)]
    settings = [(k, f"`{v}`") for k, v in manifest["settings"].items() if v]
    return "\n".join([*parts, "## Settings\n", _grid(("setting", "value"), settings)])


def _tally(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "0"


def _grid(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([*lines, ""])


def _columns(table: Table) -> str:
    rows = []
    for column in table.columns:
        of = f" of {column.length}" if column.length else ""
        kind = str(column.type).replace("list<element: ", "list<").replace("item: ", "")
        rows.append((f"`{column.name}`", f"{kind}{of}", column.meaning))
    title = f"## `{table.name}`: {table.what}\n"
    return "\n".join([title, _grid(("column", "type", "meaning"), rows)])
