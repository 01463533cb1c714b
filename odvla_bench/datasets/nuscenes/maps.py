"""Vector maps: the layers of a nuScenes map as geometry, and what lies in patches of it.

The expansion's JSON is read once; its geometry goes into a content-keyed cache as WKB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from odvla_bench.datasets.nuscenes.cache import fingerprint_files, new_directory
from odvla_bench.datasets.nuscenes.map_json import BOUNDARY, CROSSING_EDGES, Elements, read_map
from odvla_bench.datasets.nuscenes.map_layers import Layer
from odvla_bench.datasets.nuscenes.map_records import LINE_LAYERS, POLYGON_LAYERS
from odvla_bench.datasets.nuscenes.patches import Clipped, Patches
from odvla_bench.provenance import digest_text
from odvla_bench.registry import suggest

SCHEMA_VERSION = 2
"""Raised whenever the cached geometry or its meaning changes."""

LAYERS = (*LINE_LAYERS, *POLYGON_LAYERS, CROSSING_EDGES, BOUNDARY)


@dataclass(frozen=True)
class VectorMap:
    """The layers of one location's map, each read from the cache when first asked for."""

    location: str
    file: Path
    """The cache's Parquet file: layer, token, kind, WKB in GLOBAL metres."""

    @cached_property
    def _elements(self) -> pa.Table:
        return pq.ParquetFile(self.file).read()

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        return {}

    def layer(self, name: str) -> Layer:
        """A layer by name.

        Raises:
            UnknownNameError: no such layer.
        """
        if name not in LAYERS:
            raise suggest(name, list(LAYERS), kind="map layer")
        if name not in self._layers:
            rows = self._elements.filter(pc.equal(self._elements["layer"], name))
            token, kind, wkb = (rows[c].to_numpy().astype(object) for c in ("token", "kind", "wkb"))
            self._layers[name] = Layer(name, token, kind, shapely.from_wkb(wkb))
        return self._layers[name]

    def query(self, patches: Patches, layers: Iterable[str] = LAYERS) -> dict[str, Clipped]:
        """What lies in each patch, layer by layer, in the patches' own frames.

        Args:
            patches: where to look.
            layers: names of `LAYERS`: the map's own; `ped_crossing_edge`, the two long edges of
                each crossing; `boundary`, the border of the union of road segments and lanes, up
                to `BOUNDARY_INSET_M` from the patch's edge, the road on its right.
        """
        return {name: self.layer(name).query(patches) for name in layers}

    @cached_property
    def skipped(self) -> dict[str, list[str]]:
        """Layer → tokens of records that have no valid geometry."""
        rows = pq.ParquetFile(self.file.with_name("skipped.parquet")).read().to_pylist()
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["layer"], []).append(row["token"])
        return found


@dataclass(frozen=True)
class Maps(Mapping[str, VectorMap]):
    """The maps that a nuScenes root has, by location; those whose file is absent are not in it."""

    files: Mapping[str, Path]
    cache_parent: Path
    _open: dict[str, VectorMap] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the contents of all files."""
        return digest_text(*(f"{name} {self._key(name)}" for name in self))

    def _key(self, location: str) -> str:
        files = {location: self.files[location]}
        return fingerprint_files(files, self.cache_parent, f"map {SCHEMA_VERSION}")

    def __getitem__(self, location: str) -> VectorMap:
        if location not in self._open:
            folder = self.cache_parent / "maps" / self._key(location)
            if not folder.is_dir():
                _write(read_map(self.files[location]), folder)
            self._open[location] = VectorMap(location, folder / "elements.parquet")
        return self._open[location]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.files))

    def __len__(self) -> int:
        return len(self.files)


def find_maps(root: Path, cache_parent: Path) -> Maps:
    """The maps under `root/maps/expansion`; a nuScenes root without them is normal.

    Opening one raises InputError if its file is damaged.

    Args:
        root: the nuScenes root.
        cache_parent: the cache directory that holds the tables' caches.
    """
    files = sorted((root / "maps" / "expansion").glob("*.json"))
    return Maps({path.stem: path for path in files}, cache_parent)


def _write(layers: dict[str, Elements], folder: Path) -> None:
    elements = [
        pa.table(
            {
                "layer": pa.repeat(name, len(found.token)),
                "token": pa.array(found.token, pa.string()),
                "kind": pa.array(found.kind, pa.string()),
                "wkb": pa.array(shapely.to_wkb(found.geometry), pa.binary()),
            }
        )
        for name, found in layers.items()
    ]
    skipped = [(name, token) for name, found in layers.items() for token in found.skipped]
    names, tokens = zip(*skipped, strict=True) if skipped else ((), ())
    with new_directory(folder) as work:
        pq.write_table(pa.concat_tables(elements), work / "elements.parquet", compression="lz4")
        texts = {"layer": pa.array(names, pa.string()), "token": pa.array(tokens, pa.string())}
        pq.write_table(pa.table(texts), work / "skipped.parquet")
