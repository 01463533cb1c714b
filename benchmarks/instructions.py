"""The instruction sets from raw files of full size: CPU, memory, and how far from the floor.

    python -m benchmarks.instructions [--work FOLDER] [--repeat 3] [--scenes 850] [--agents 68]

The floor of a source is parsing its JSON with the standard library and writing the finished
tables with pyarrow, zstd-3, without a fingerprint. Trees and language files are made up and kept
in --work; nuScenes' own tables are in the cache before anything is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.measure import Usage, cpu, in_own_process, markdown, peak, seconds
from odvla_bench.datasets.build import find_sources
from odvla_bench.datasets.nuscenes.synthetic import AgentOptions, SyntheticConfig, write_nuscenes
from odvla_bench.datasets.nuscenes.tables import load_tables
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.records import open_records
from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files

VERSION = "v1.0-trainval"
SOURCES = ("tod3cap", "nuscenes_qa", "nucaption", "nux", "forecasting")
PARSED_RECORDS = 100_000

BUILD = """
import shutil, sys
from pathlib import Path
from odvla_bench.datasets.build import build, find_sources
from odvla_bench.datasets.builders.base import BuildRequest
root, version, language, work, source = sys.argv[1:]
cache = Path(work) / "cache"
shutil.rmtree(cache / "records", ignore_errors=True)
found = find_sources(Path(root), Path(language))
files = tuple((f"{s.name}.{k}", p) for s in found if s.name == source for k, p in s.found.items())
request = BuildRequest(Path(root), version, cache, files=files)
build(request, Path(work) / source, sources=[source], overwrite=True)
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
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=850)
    parser.add_argument("--agents", type=float, default=68)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        # In a process of its own: a child's peak memory starts from its parent's.
        in_own_process(MAKE, str(work), str(options.scenes), str(options.agents), repeat=1)
        print(run(work, options.repeat))


def make_raw_data(work: Path, scenes: int, agents: float) -> None:
    """A tree and language files, unless they are there."""
    root = work / "nuscenes"
    if not (root / VERSION).is_dir():
        write_nuscenes(
            root,
            SyntheticConfig(
                version=VERSION,
                n_scenes=scenes,
                sweeps=False,
                can_bus=False,
                maps=False,
                agents=AgentOptions(per_keyframe=agents),
            ),
        )
    load_tables(root, VERSION, cache_dir=work / "cache")
    if not (work / "language").is_dir():
        config = LanguageConfig(captions_per_keyframe=7)
        write_language_files(work / "language", root, VERSION, config, cache_dir=work / "cache")


def run(work: Path, repeat: int) -> str:
    """One row a source."""
    measured = {}
    for source in SOURCES:
        target = work / source
        runs: list[Usage] = []
        for _ in range(repeat):
            shutil.rmtree(target, ignore_errors=True)
            arguments = (work / "nuscenes", VERSION, work / "language", work, source)
            runs += in_own_process(BUILD, *map(str, arguments), repeat=1)
        measured[source] = runs
    rows = [_row(source, work, runs, repeat) for source, runs in measured.items()]
    header = ("source", "rows", "MB raw", "MB Parquet", "CPU s", "peak MB", "floor, CPU s", "ratio")
    return markdown(header, rows)


def _row(source: str, work: Path, runs: list[Usage], repeat: int) -> list[object]:
    build = open_build(work / source)
    files = [
        f for table in build.manifest["tables"].values() for s in table.values() for f in s["files"]
    ]
    raw = sum(i["bytes"] for i in build.manifest["inputs"])
    floor = [Usage(parse_s(work, source) + write_s(work / source)) for _ in range(repeat)]
    return [
        source,
        f"{sum(f['rows'] for f in files):,}",
        f"{raw / 1e6:,.0f}",
        f"{sum(f['bytes'] for f in files) / 1e6:,.0f}",
        seconds(runs),
        f"{peak(runs):,.0f}",
        seconds(floor),
        f"{cpu(runs) / cpu(floor):.1f}",
    ]


def parse_s(work: Path, source: str) -> float:
    """CPU seconds of `json.loads` on all records, extrapolated from the first ones of a file."""
    total = 0.0
    for found in find_sources(work / "nuscenes", work / "language"):
        for path in found.found.values() if found.name == source else ():
            key = "questions" if source == "nuscenes_qa" else ""
            file = open_records(path, work / "cache", key=key)
            n = min(len(file), PARSED_RECORDS)
            records = itertools.chain.from_iterable(file.read(0, n))
            text = "[" + ",".join(r.raw for r in records) + "]"
            start = time.process_time()
            json.loads(text)
            total += (time.process_time() - start) * len(file) / n
    return total


def write_s(build: Path) -> float:
    """CPU seconds of writing the build's shards again, and nothing else."""
    total = 0.0
    for path in sorted(build.rglob("*-of-*.parquet")):
        table = pq.read_table(path)
        with tempfile.NamedTemporaryFile() as target:
            start = time.process_time()
            pq.write_table(table, target.name, compression="zstd", row_group_size=65_536)
            total += time.process_time() - start
    return total


if __name__ == "__main__":
    main()
