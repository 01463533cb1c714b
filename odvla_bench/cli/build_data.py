"""`odvla-bench build-data`: raw data → a build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out, print_table, progress

if TYPE_CHECKING:
    from odvla_bench.datasets.builders.requirements import Source

_FILTERS = "all, lidar-points, visible, or matched (see --matched-file)."


def build_data(
    *,
    nuscenes_root: options.NuScenesRoot,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the build.")],
    version: options.Version = "v1.0-trainval",
    sources: Annotated[
        str,
        typer.Option(
            help="Comma-separated sources to build.", show_default="all whose files are found"
        ),
    ] = "",
    sources_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the language files, flat or with a folder a source."),
    ] = None,
    source_file: Annotated[
        list[str] | None,
        typer.Option(help="A file that lies elsewhere, such as nuscenes_qa.val=PATH; repeatable."),
    ] = None,
    object_filter: Annotated[
        str, typer.Option(help=f"Agents that get captions and forecasts: {_FILTERS}")
    ] = "all",
    matched_file: Annotated[
        Path | None,
        typer.Option(help="Text file of matched boxes, one sample_annotation token a line."),
    ] = None,
    object_caption: Annotated[
        str, typer.Option(help="What TOD3Cap says beside the position: appearance, or full.")
    ] = "appearance",
    nucaption_answer: Annotated[
        str, typer.Option(help="nuCaption's field: answer, or answer_lidar (without colours).")
    ] = "answer",
    cache_dir: options.CacheDir = None,
    memory_limit: options.MemoryLimit = "2GB",
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time (local).")] = 1,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a build from a nuScenes root and language files; started again, it goes on."""
    from odvla_bench.datasets.build import build, find_sources
    from odvla_bench.datasets.builders.base import BuildRequest, Settings
    from odvla_bench.provenance import default_cache_dir

    found = find_sources(nuscenes_root, sources_root, _given(source_file or []))
    chosen = _choose(found, [name.strip() for name in sources.split(",") if name.strip()])
    _print_sources(found, chosen)
    request = BuildRequest(
        nuscenes_root.resolve(),
        version,
        (cache_dir or default_cache_dir()).resolve(),
        memory_limit,
        files=tuple((f"{s.name}.{k}", path) for s in chosen for k, path in s.found.items()),
        settings=Settings(object_filter, object_caption, nucaption_answer, matched_file),
    )
    with progress("build-data") as advance:
        manifest = build(
            request,
            out_dir,
            sources=[source.name for source in chosen],
            executor=executor,
            workers=workers,
            overwrite=overwrite,
            report=lambda d: advance(d.finished, d.total, f"{d.unit}: {d.rows}"),
        )
    print_counts(out_dir, manifest)
    _print_gates(manifest["gates"])


def _given(texts: Sequence[str]) -> dict[str, Path]:
    from odvla_bench.errors import InputError

    given = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise InputError(f"--source-file {text!r}: write it like nuscenes_qa.val=PATH.")
        given[name] = Path(path)
    return given


def _choose(found: Sequence[Source], names: Sequence[str]) -> list[Source]:
    """The sources named, or all that are available where none is."""
    from odvla_bench.errors import InputError
    from odvla_bench.registry import suggest

    by_name = {source.name: source for source in found}
    for name in names:
        if name not in by_name:
            raise suggest(name, list(by_name), kind="source")
        if not by_name[name].available:
            raise InputError(
                f"Source {name!r} cannot be built. {by_name[name].why} Name their folder with "
                "--sources-root, or a file with --source-file."
            )
    return [s for s in found if (s.name in names if names else s.available)]


def _print_sources(found: Sequence[Source], chosen: Sequence[Source]) -> None:
    rows = []
    for source in found:
        state = "in part" if source.missing else "yes"
        if source not in chosen:
            state = "not asked for" if source.available else "no"
        files = ", ".join(path.name for path in source.found.values())
        rows.append((source.name, state, files, source.why))
    print_table("Sources", ("source", "built", "files", "missing"), rows, numbers_from=4)


def _print_gates(gates: Sequence[dict[str, Any]]) -> None:
    names = ("what", "expected", "found", "status", "note")
    rows = [[gate[name] for name in names] for gate in gates]
    if rows:
        print_table("Gates", ("gate", *names[1:]), rows, numbers_from=5)


def print_counts(path: Path, manifest: dict[str, Any]) -> None:
    """Print what a build holds and what it left out."""
    tables: dict[str, dict[str, dict[str, int]]] = manifest["tables"]
    rows = [
        (table, split, tables[table][split]["rows"])
        for table in tables
        for split in sorted(tables[table])
    ]
    print_table(f"{path}", ("table", "split", "rows"), rows, numbers_from=2)
    dropped: int = manifest["ledger"]["rows"]
    note = f"{dropped} raw records dropped, see {path / 'dropped.parquet'}" if dropped else "none"
    out.print(f"fingerprint {manifest['fingerprint']}   dropped: {note}")
