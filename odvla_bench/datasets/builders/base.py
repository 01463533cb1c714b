"""What a source builder is: raw records in, rows of a build and a drop ledger out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.nuscenes.cache import fingerprint_files
from odvla_bench.datasets.nuscenes.can_bus import CanBus, load_can_bus
from odvla_bench.datasets.nuscenes.maps import Maps
from odvla_bench.datasets.nuscenes.splits import split_of_scene
from odvla_bench.datasets.nuscenes.tables import NuScenesTables, load_tables
from odvla_bench.datasets.records import RecordFile, open_records
from odvla_bench.provenance import digest_text
from odvla_bench.registry import Registry, suggest

OBJECT_FILTERS = ("all", "lidar-points", "visible", "matched")
OBJECT_CAPTIONS = ("appearance", "full")
NUCAPTION_ANSWERS = ("answer", "answer_lidar")


@dataclass(frozen=True)
class Settings:
    """Choices between several right ways to build; they are part of the build's key."""

    object_filter: str = "all"
    """Which agents get captions and forecasts: all; those with LIDAR points in their box; those
    that are at least 40 % visible; those whose boxes `matched_file` names."""
    object_caption: str = "appearance"
    """What TOD3Cap says of an agent beside its position: its looks, or everything."""
    nucaption_answer: str = "answer"
    """Which field of nuCaption is the answer; `answer_lidar` names no colours."""
    matched_file: Path | None = None
    """For the filter `matched`: a text file, one nuScenes sample_annotation token a line."""

    def __post_init__(self) -> None:
        """Refuse values that do not exist."""
        for name, known in (
            ("object_filter", OBJECT_FILTERS),
            ("object_caption", OBJECT_CAPTIONS),
            ("nucaption_answer", NUCAPTION_ANSWERS),
        ):
            if getattr(self, name) not in known:
                raise suggest(getattr(self, name), list(known), kind=name.replace("_", " "))


@dataclass(frozen=True)
class BuildRequest:
    """Where the raw data lies and how it is to be read; small, so that workers can be told."""

    nuscenes_root: Path
    version: str
    cache_dir: Path
    memory_limit: str = "2GB"
    scenes_per_shard: int = 100
    files: tuple[tuple[str, Path], ...] = ()
    """Names of requirements, such as "nuscenes_qa.val", and the files that meet them."""
    settings: Settings = Settings()


@dataclass(frozen=True)
class Unit:
    """A part of a source that is built in one go: one shard of each of its tables."""

    source: str
    split: str
    """The split of all its rows; empty where each row has its own, or will be dropped."""
    index: int
    count: int
    """Units of this source, or of it and this split, in all."""
    payload: tuple[int, ...]
    """What the builder needs to find the records, such as scene numbers."""
    part: str = ""
    """Key of the requirement whose file it reads; empty for nuScenes' own tables."""

    @property
    def name(self) -> str:
        """What the unit is called; unique among the units of its source."""
        return f"{self.split or self.part or 'unassigned'}-{self.index:05d}-of-{self.count:05d}"

    def shard(self, split: str) -> str:
        """File name of the unit's rows of a split."""
        return f"{split}-{self.index:05d}-of-{self.count:05d}.parquet"


class Drop(NamedTuple):
    """A raw record that yields no row."""

    table: str
    record: str
    reason: str
    """A fixed word, to count by."""
    detail: str
    """A sentence for a person."""
    split: str = ""
    """Where it is known; by default the unit's."""


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

    @cached_property
    def maps(self) -> Maps:
        """The vector maps that are among the request's files, by location."""
        return Maps(self.files("map_captions"), self.request.cache_dir)

    @cached_property
    def keyframes(self) -> Keyframes:
        """The keyframes by token."""
        return Keyframes.of(self.nuscenes)

    @cached_property
    def annotation_rows(self) -> dict[str, int]:
        """Annotation token → row of `nuscenes.annotations`."""
        return {t: i for i, t in enumerate(self.nuscenes.annotations["token"].to_pylist())}

    def forget_boxes(self) -> None:
        """Free the memory of what is largest; it is read again if it is asked for."""
        vars(self).pop("annotation_rows", None)
        vars(self.nuscenes).pop("annotations", None)

    def files(self, source: str) -> dict[str, Path]:
        """The files of a source by the keys of their requirements."""
        named = (name.partition(".") + (path,) for name, path in self.request.files)
        return {key: path for owner, _, key, path in named if owner == source}

    def records(self, source: str, part: str, *, key: str = "") -> RecordFile:
        """The records of a source's JSON file, see `open_records`."""
        return open_records(self.files(source)[part], self.request.cache_dir, key=key)

    def fingerprint(self, sources: Sequence[str]) -> str:
        """Digest of all raw contents and of the settings that can change a row of the sources."""
        request, nuscenes = self.request, self.nuscenes
        files = {f"{s}.{key}": p for s in sorted(sources) for key, p in self.files(s).items()}
        matched = request.settings.matched_file
        if matched is not None and matched.is_file():
            files["matched"] = matched
        return digest_text(
            nuscenes.version,
            nuscenes.fingerprint,
            self.can_bus.fingerprint,
            str(request.scenes_per_shard),
            fingerprint_files(files, request.cache_dir),
            repr(replace(request.settings, matched_file=None)),
        )


@dataclass(frozen=True, eq=False)
class Keyframes:
    """What a record that names a keyframe needs to know of it; lists run over `sample_id`."""

    sample_id: dict[str, int]
    """Token → number."""
    token: list[str]
    scene_name: list[str]
    split: list[str]
    """Split of the scene in the version built; empty where there is none."""
    official_split: list[str]
    """Its split in the whole data set, which the language sources go by."""
    has_lidar: list[bool]

    def fits(self, part: str) -> npt.NDArray[np.bool_]:
        """Which keyframes a record may name whose file is of a split, any one if that is empty.

        One more, False, for the index -1.
        """
        fits = self._usable if not part else self._usable & (self._official == part)
        return np.append(fits, False)

    @cached_property
    def _usable(self) -> npt.NDArray[np.bool_]:
        return np.array(self.has_lidar, bool) & np.array([bool(split) for split in self.split])

    @cached_property
    def _official(self) -> npt.NDArray[np.str_]:
        return np.array(self.official_split)

    @cached_property
    def columns(self) -> pa.Table:
        """The columns `sample_token`, `scene_name` and `split` of a table of rows."""
        names = {"sample_token": self.token, "scene_name": self.scene_name, "split": self.split}
        return pa.table({name: pa.array(values, pa.string()) for name, values in names.items()})

    @classmethod
    def of(cls, nuscenes: NuScenesTables) -> Keyframes:
        """The keyframes of a version."""
        token = nuscenes.samples["token"].to_pylist()
        names = nuscenes.scenes["name"].to_pylist()
        split = [split_of_scene(name, nuscenes.version) for name in names]
        official = [split_of_scene(name, "") for name in names]
        scene = nuscenes.samples["scene_id"].to_pylist()
        return cls(
            {t: i for i, t in enumerate(token)},
            token,
            [names[s] for s in scene],
            [split[s] for s in scene],
            [official[s] for s in scene],
            nuscenes.samples["has_lidar"].to_pylist(),
        )


@lru_cache(maxsize=1)
def open_context(request: BuildRequest) -> Context:
    """The context of a request; one stays open in each process."""
    return Context(request)


class SourceBuilder(Protocol):
    """Builds the rows of one source."""

    name: str
    tables: tuple[str, ...]
    """Names of the tables it writes."""
    requires: tuple[Requirement, ...]
    """Files beside nuScenes' tables; a source is built if one of them is there."""

    def plan(self, context: Context) -> list[Unit]:
        """All units, in a fixed order."""

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """The rows of one unit."""


_SOURCES = ("planning", "tod3cap", "nucaption", "nuscenes_qa", "nux", "map_captions", "forecasting")

BUILDERS: Registry[SourceBuilder] = Registry(
    "source", {name: f"odvla_bench.datasets.builders.{name}:BUILDER" for name in _SOURCES}
)
"""Source name → `SourceBuilder`; a further source is one entry and one file."""
