"""The instruction sets from raw files of full size: CPU, memory, and how far from the floor.

    python -m benchmarks.instructions [--work FOLDER] [--repeat 5] [--sources tod3cap,nucaption]

The floor of a source is a program that parses the bytes of its files with the standard library's
json and writes the finished tables with pyarrow, zstd-3, both without garbage collection and
without anything else: no look at nuScenes, no check, no fingerprint. It starts with what it needs
to make a table, which makes pyarrow import pandas. Reading the tables that it writes is not
counted. "Fixed" is our build of files that hold one record each. Trees and language files are made
up and kept in --work; nuScenes' own tables are in the cache before anything is measured; the
language files' digests and indices and the maps are not.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.measure import Usage, cpu, in_own_process, markdown, peak, seconds
from odvla_bench.datasets.build import find_sources
from odvla_bench.datasets.nuscenes.synthetic import AgentOptions, SyntheticConfig, write_nuscenes
from odvla_bench.datasets.nuscenes.tables import load_tables
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.records import RecordFile, open_records
from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files

VERSION = "v1.0-trainval"
SOURCES = ("nuscenes_qa", "nucaption", "map_captions", "nux", "forecasting", "tod3cap")
PARSED_RECORDS = 100_000
"""At a time; all at once would not fit into memory."""

BUILD = """
import json, shutil, sys
from pathlib import Path
from odvla_bench.datasets.build import build, find_sources
from odvla_bench.datasets.builders.base import BuildRequest
root, version, language, work, source = sys.argv[1:]
cache = Path(work) / "cache"
for name in ("records", "maps"):
    shutil.rmtree(cache / name, ignore_errors=True)
digests = json.loads((cache / "digests.json").read_text())
kept = {key: value for key, value in digests.items() if not key.startswith(language)}
(cache / "digests.json").write_text(json.dumps(kept))
found = find_sources(Path(root), Path(language))
files = tuple((f"{s.name}.{k}", p) for s in found for k, p in s.found.items() if s.name == source)
request = BuildRequest(Path(root), version, cache, files=files)
build(request, Path(work) / source, sources=[source], overwrite=True)
"""

FLOOR = """
import json, sys, time
import pyarrow, pyarrow.parquet
pyarrow.array(["a"])
start = time.process_time()
from pathlib import Path
from benchmarks.instructions import parse_s, write_s
work, source = Path(sys.argv[1]), sys.argv[2]
print(json.dumps([start, parse_s(work, source) + write_s(work / source)]))
"""

MAKE = """
import sys
from pathlib import Path
from benchmarks.instructions import make_raw_data
make_raw_data(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=850)
    parser.add_argument("--agents", type=float, default=72)
    parser.add_argument("--sources", default=",".join(SOURCES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        # In a process of its own: a child's peak memory starts from its parent's.
        in_own_process(MAKE, str(work), str(options.scenes), str(options.agents), repeat=1)
        print(run(work, options.sources.split(","), options.repeat))


def make_raw_data(work: Path, scenes: int, agents: float) -> None:
    """A tree and language files, whole and of one record each, unless they are there."""
    root = work / "nuscenes"
    if not (root / VERSION).is_dir():
        write_nuscenes(
            root,
            SyntheticConfig(
                version=VERSION,
                n_scenes=scenes,
                sweeps=False,
                can_bus=False,
                blocks=15,
                agents=AgentOptions(per_keyframe=agents),
            ),
        )
    load_tables(root, VERSION, cache_dir=work / "cache")
    if not (work / "language").is_dir():
        config = LanguageConfig(captions_per_keyframe=7)
        write_language_files(work / "language", root, VERSION, config, cache_dir=work / "cache")
    if not (work / "one").is_dir():
        for source in find_sources(root, work / "language"):
            for path in source.found.values() if source.name in SOURCES else ():
                if path.is_relative_to(work / "language"):
                    write_first_record(records_of(work, source.name, path), work)


def write_first_record(file: RecordFile, work: Path) -> None:
    """A file with the first record only, of the same name under `one`."""
    first = next(file.read(("sample_token",), 0, 1))
    key, raw = first.keys[0].as_py(), first.raws[0].as_py()
    text = f'{{"{key}": {raw}}}' if file.keyed else f"[{raw}]"
    if file.path.name.startswith("NuScenes"):
        text = f'{{"questions": {text}}}'
    target = work / "one" / file.path.relative_to(work / "language")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def records_of(work: Path, source: str, path: Path) -> RecordFile:
    return open_records(path, work / "cache", key="questions" if source == "nuscenes_qa" else "")


def run(work: Path, sources: list[str], repeat: int) -> str:
    """One row a source; each is also printed when it is done."""
    rows = []
    for source in sources:
        rows.append(_row(source, work, repeat))
        print(*rows[-1], sep=" | ", flush=True)
    header = ("source", "rows", "MB raw", "MB Parquet", "CPU s", "peak MB", "fixed, CPU s")
    floor = ("floor, CPU s", "its start", "ratio", "without fixed and start")
    return markdown((*header, *floor), rows)


def _row(source: str, work: Path, repeat: int) -> list[object]:
    # Both sides in turn, so that what else the machine does touches both.
    ours: list[Usage] = []
    fixed: list[Usage] = []
    floor: list[Usage] = []
    starts: list[Usage] = []
    from_language_files = source not in ("map_captions", "forecasting")
    for _ in range(repeat):
        ours += _build(source, work, "language")
        start, rest = _floor(source, work)
        floor.append(Usage(start + rest))
        starts.append(Usage(start))
        fixed += _build(source, work, "one", out="fixed") if from_language_files else []
    build = open_build(work / source)
    tables = build.manifest["tables"].values()
    files = [f for table in tables for split in table.values() for f in split["files"]]
    growing = (cpu(ours) - cpu(fixed)) / (cpu(floor) - cpu(starts)) if fixed else 0.0
    return [
        source,
        f"{sum(f['rows'] for f in files):,}",
        f"{sum(i['bytes'] for i in build.manifest['inputs']) / 1e6:,.0f}",
        f"{sum(f['bytes'] for f in files) / 1e6:,.0f}",
        seconds(ours),
        f"{peak(ours):,.0f}",
        f"{cpu(fixed):.2f}" if fixed else "-",
        seconds(floor),
        f"{cpu(starts):.2f}",
        f"{cpu(ours) / cpu(floor):.2f}",
        f"{growing:.2f}" if fixed else "-",
    ]


def _floor(source: str, work: Path) -> tuple[float, float]:
    """CPU seconds of the floor's start, and of its parsing and writing."""
    command = [sys.executable, "-c", FLOOR, str(work), source]
    start, rest = json.loads(subprocess.check_output(command, text=True))
    return start, rest


def _build(source: str, work: Path, language: str, out: str = "") -> list[Usage]:
    place = work / out if out else work
    shutil.rmtree(place / source, ignore_errors=True)
    (place / "cache").parent.mkdir(exist_ok=True)
    if out and not (place / "cache").exists():
        (place / "cache").symlink_to(work / "cache")
    arguments = (work / "nuscenes", VERSION, work / language, place, source)
    return in_own_process(BUILD, *map(str, arguments), repeat=1)


def parse_s(work: Path, source: str) -> float:
    """CPU seconds of `json.loads` on the bytes of a source's files."""
    total = 0.0
    for found in find_sources(work / "nuscenes", work / "language"):
        for path in found.found.values() if found.name == source else ():
            if path.is_relative_to(work / "language"):
                total += sum(map(loads_s, _pieces(records_of(work, source, path))))
            else:
                total += loads_s(path.read_bytes())
    return total


def _pieces(file: RecordFile) -> Iterator[bytes]:
    """The file's bytes in pieces that are JSON each."""
    opening, closing = (b"{", b"}") if file.keyed else (b"[", b"]")
    cuts = [*file.cuts[:-1:PARSED_RECORDS].tolist(), int(file.cuts[-1])]
    with file.path.open("rb") as f:
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            f.seek(start + 1)
            yield opening + f.read(stop - start - 1) + closing


def loads_s(content: bytes) -> float:
    gc.disable()
    start = time.process_time()
    json.loads(content)
    taken = time.process_time() - start
    gc.enable()
    return taken


def write_s(build: Path) -> float:
    """CPU seconds of writing the build's shards again, and nothing else."""
    total = 0.0
    for path in sorted(build.rglob("*-of-*.parquet")):
        table = pq.ParquetFile(path).read()
        with tempfile.NamedTemporaryFile() as target:
            start = time.process_time()
            pq.write_table(
                table,
                target.name,
                compression="zstd",
                compression_level=3,
                row_group_size=65_536,
            )
            total += time.process_time() - start
    return total


if __name__ == "__main__":
    main()
