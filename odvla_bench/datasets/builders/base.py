"""What a source builder is: raw records in, rows of a build and a drop ledger out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from odvla_bench.datasets.nuscenes.can_bus import CanBus, load_can_bus
from odvla_bench.datasets.nuscenes.tables import NuScenesTables, load_tables
from odvla_bench.provenance import digest_text
from odvla_bench.registry import Registry


@dataclass(frozen=True)
class BuildRequest:
    """Where the raw data lies and how it is to be read; small, so that workers can be told."""

    nuscenes_root: Path
    version: str
    cache_dir: Path
    memory_limit: str = "2GB"
    scenes_per_shard: int = 100


@dataclass(frozen=True)
class Unit:
    """A part of a source that is built in one go: one shard of each of its tables."""

    source: str
    split: str
    """The split its rows go to; empty for records that belong to none and will be dropped."""
    index: int
    count: int
    """Units of this source and split in all."""
    payload: tuple[int, ...]
    """What the builder needs to find the records, such as scene numbers."""

    @property
    def name(self) -> str:
        """The shard's file name without extension."""
        return f"{self.split or 'unassigned'}-{self.index:05d}-of-{self.count:05d}"


@dataclass(frozen=True)
class Drop:
    """A raw record that yields no row."""

    table: str
    record: str
    reason: str
    """A fixed word, to count by."""
    detail: str
    """A sentence for a person."""


@dataclass(frozen=True)
class UnitRows:
    """What became of a unit's records."""

    tables: Mapping[str, pa.Table]
    read: Mapping[str, int]
    """Raw records read for each table; equals rows kept plus records dropped."""
    dropped: Sequence[Drop] = field(default_factory=tuple)

    def unaccounted(self) -> dict[str, int]:
        """Tables where read is not kept + dropped, with the difference; empty when all is well."""
        kept = Counter({name: rows.num_rows for name, rows in self.tables.items()})
        kept.update(drop.table for drop in self.dropped)
        return {t: n - kept[t] for t, n in self.read.items() if n != kept[t]}


@dataclass(frozen=True)
class Context:
    """The raw data of a request, opened when first used."""

    request: BuildRequest

    @cached_property
    def nuscenes(self) -> NuScenesTables:
        """The nuScenes tables."""
        r = self.request
        return load_tables(
            r.nuscenes_root, r.version, cache_dir=r.cache_dir, memory_limit=r.memory_limit
        )

    @cached_property
    def can_bus(self) -> CanBus:
        """The CAN bus; without messages where the expansion is absent."""
        r = self.request
        return load_can_bus(
            r.nuscenes_root, self.nuscenes.scenes, r.cache_dir, memory_limit=r.memory_limit
        )

    def fingerprint(self) -> str:
        """Digest of all raw contents and of the settings that can change a row."""
        shards = str(self.request.scenes_per_shard)
        nuscenes = self.nuscenes
        return digest_text(nuscenes.version, nuscenes.fingerprint, self.can_bus.fingerprint, shards)


@lru_cache(maxsize=1)
def open_context(request: BuildRequest) -> Context:
    """The context of a request; one stays open in each process."""
    return Context(request)


class SourceBuilder(Protocol):
    """Builds the rows of one source."""

    name: str
    tables: tuple[str, ...]
    """Names of the tables it writes."""

    def plan(self, context: Context) -> list[Unit]:
        """All units, in a fixed order."""

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """The rows of one unit."""


BUILDERS: Registry[Any] = Registry(
    "source",
    {"planning": "odvla_bench.datasets.builders.planning:BUILDER"},
)
"""Source name → `SourceBuilder`; a further source is one entry and one file."""
