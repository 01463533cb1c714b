"""`odvla-bench build-data`: raw data → a build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out, print_table, progress


def build_data(
    *,
    nuscenes_root: options.NuScenesRoot,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the build.")],
    version: options.Version = "v1.0-trainval",
    sources: Annotated[str, typer.Option(help="Comma-separated sources to build.")] = "planning",
    cache_dir: options.CacheDir = None,
    memory_limit: options.MemoryLimit = "2GB",
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time (local).")] = 1,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a build from a nuScenes root; started again after a stop, it goes on."""
    from odvla_bench.datasets.build import build
    from odvla_bench.datasets.builders.base import BuildRequest
    from odvla_bench.datasets.nuscenes.cache import default_cache_dir

    request = BuildRequest(
        nuscenes_root.resolve(), version, (cache_dir or default_cache_dir()).resolve(), memory_limit
    )
    names = [name.strip() for name in sources.split(",") if name.strip()]
    with progress("build-data") as advance:
        manifest = build(
            request,
            out_dir,
            sources=names,
            executor=executor,
            workers=workers,
            overwrite=overwrite,
            report=lambda d: advance(d.finished, d.total, f"{d.unit}: {d.rows}"),
        )
    print_counts(out_dir, manifest)


def print_counts(path: Path, manifest: dict[str, object]) -> None:
    """Print what a build holds and what it left out."""
    tables: dict[str, dict[str, dict[str, int]]] = manifest["tables"]  # type: ignore[assignment]
    rows = [
        (table, split, tables[table][split]["rows"])
        for table in tables
        for split in sorted(tables[table])
    ]
    print_table(f"{path}", ("table", "split", "rows"), rows, numbers_from=2)
    dropped: int = manifest["ledger"]["rows"]  # type: ignore[index]
    note = f"{dropped} raw records dropped, see {path / 'dropped.parquet'}" if dropped else "none"
    out.print(f"fingerprint {manifest['fingerprint']}   dropped: {note}")
