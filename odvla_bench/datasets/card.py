"""The dataset card of a build: what Hugging Face `datasets` reads, and what a person reads."""

from __future__ import annotations

from typing import Any

from odvla_bench.datasets.schema import DROPPED, TABLES, Table

_INTRODUCTION = """\
# A build of odvla_bench

Made from nuScenes `{version}` by odvla_bench {package}, format version {format}.
Content fingerprint: `{fingerprint}`.

nuScenes and what is derived from it are licensed CC BY-NC-SA 4.0 under the nuScenes terms of use:
non-commercial use, with attribution to Motional. This build may be used and shared on those terms
only.

Frames: LIDAR is the LIDAR_TOP sensor at the keyframe (t0), x right and y forward; EGO is the rear
axle, x forward and y left; GLOBAL is the map. Values at steps that were not recorded repeat the
nearest recorded one (`planning`) or are 0 (`agents`); the `_valid` columns tell.
The driving command is computed from the recorded future: a model that is given it knows something
of the answer.

```python
import odvla_bench
build = odvla_bench.open_build("PATH")
planning = build.table("planning", split="{split}").to_pandas()
```
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


def _front_matter(manifest: dict[str, Any]) -> str:
    lines = ["---", "license: cc-by-nc-sa-4.0", "pretty_name: odvla_bench build", "configs:"]
    for name, splits in manifest["tables"].items():
        if splits:
            lines += [f"- config_name: {name}", "  data_files:"]
        for split in sorted(splits):
            lines += [f"  - split: {split}", f"    path: {name}/{split}-*.parquet"]
    return "\n".join([*lines, "---", ""])


def _counts(manifest: dict[str, Any]) -> str:
    lines = ["## Counts", "", "| source | table | read | kept | dropped |", "|---|---|---|---|---|"]
    for source, tables in manifest["sources"].items():
        for table, account in tables.items():
            drops = ", ".join(f"{n} {reason}" for reason, n in sorted(account["dropped"].items()))
            row = (source, table, account["read"], account["kept"], drops or "0")
            lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += ["", "| table | split | rows |", "|---|---|---|"]
    for table, splits in manifest["tables"].items():
        lines += [f"| {table} | {s} | {splits[s]['rows']} |" for s in sorted(splits)]
    return "\n".join([*lines, ""])


def _columns(table: Table) -> str:
    lines = [f"## `{table.name}`: {table.what}", "", "| column | type | meaning |", "|---|---|---|"]
    for column in table.columns:
        of = f" of {column.length}" if column.length else ""
        kind = str(column.type).replace("list<element: ", "list<").replace("item: ", "")
        lines.append(f"| `{column.name}` | {kind}{of} | {column.meaning} |")
    return "\n".join([*lines, ""])
