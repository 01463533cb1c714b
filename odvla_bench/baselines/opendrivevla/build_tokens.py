"""Visual tokens from a build's annotations, made when they are asked for.

They are privileged (see `annotation_tokens`): for tests, demos and upper bounds, not for results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.baselines.opendrivevla.annotation_tokens import (
    SETTINGS,
    MapVectors,
    annotation_features,
)
from odvla_bench.baselines.opendrivevla.features import KeyframeFeatures
from odvla_bench.baselines.opendrivevla.perception.config import CLASSES, MAP_CLASSES
from odvla_bench.baselines.opendrivevla.perception.inputs import Annotations
from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError
from odvla_bench.provenance import digest_text

_CLASS_OF_CATEGORY = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.construction": "construction_vehicle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
}
"""nuScenes category → detection class; categories that are not listed have none."""

_CLASS_OF_LAYER = {
    "lane_divider": "divider",
    "road_divider": "divider",
    "ped_crossing": "crossing",
    "boundary": "contour",
}

_BOX = ("x_m", "y_m", "z_m", "length_m", "width_m", "height_m", "yaw_rad")
AGENT_COLUMNS = (
    "category",
    "instance_id",
    *_BOX,
    "velocity_x_mps",
    "velocity_y_mps",
    "velocity_valid",
)
_ELEMENT = ("layer", "x_m", "y_m")

Array = npt.NDArray[Any]


class AnnotationTokens:
    """A `TokenSource` of all keyframes of a build's splits."""

    def __init__(self, build: Build, *splits: str) -> None:
        """Read agents and map elements.

        Args:
            build: an open build.
            splits: such as "train"; all by default.
        """
        self._build = build
        wanted = splits or tuple(build.splits())
        self._known = set(_column(build, "planning", wanted, "sample_token"))
        self._agents, self._agents_at = rows_by_keyframe(build, "agents", wanted, AGENT_COLUMNS)
        self._elements, self._elements_at = rows_by_keyframe(
            build, "map_elements", wanted, _ELEMENT
        )

    @property
    def signature(self) -> str:
        """What the tokens are made from and how."""
        return SETTINGS.signature

    @property
    def fingerprint(self) -> str:
        """Digest of the build and of how tokens are made."""
        return digest_text(self._build.fingerprint, SETTINGS.signature)

    def __getitem__(self, sample_token: str) -> KeyframeFeatures:
        """The tokens of a keyframe.

        Raises:
            InputError: the splits have no such keyframe.
        """
        if sample_token not in self._known:
            raise InputError(f"{self._build.path}: no keyframe {sample_token} in these splits.")
        agents = self._agents.slice(*self._agents_at.get(sample_token, (0, 0)))
        elements = self._elements.slice(*self._elements_at.get(sample_token, (0, 0)))
        return annotation_features(annotations_of(agents), _vectors(elements))


def annotations_of(rows: pa.Table) -> Annotations:
    """The annotated agents of a keyframe from its rows (`AGENT_COLUMNS`) of the agents table."""
    labels = np.array(
        [
            CLASSES.index(_CLASS_OF_CATEGORY[c]) if c in _CLASS_OF_CATEGORY else -1
            for c in rows["category"].to_pylist()
        ],
        np.int64,
    )
    kept = labels >= 0
    boxes = np.stack([rows[c].to_numpy() for c in _BOX], -1).astype(np.float64)
    velocity = np.stack([rows[f"velocity_{c}_mps"].to_numpy() for c in "xy"], -1)
    velocity = np.where(rows["velocity_valid"].to_numpy()[:, None], velocity, 0.0)
    instance = rows["instance_id"].to_numpy().astype(np.int64)
    return Annotations(boxes[kept], velocity[kept], labels[kept], instance[kept])


def _vectors(rows: pa.Table) -> MapVectors:
    lines, labels = [], []
    for row in rows.to_pylist():
        if (name := _CLASS_OF_LAYER.get(row["layer"])) and len(row["x_m"]) > 1:
            lines.append(np.stack([row["x_m"], row["y_m"]], -1).astype(np.float64))
            labels.append(MAP_CLASSES.index(name))
    return MapVectors(lines, np.array(labels, np.int64))


def rows_by_keyframe(
    build: Build, table: str, splits: tuple[str, ...], columns: tuple[str, ...]
) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
    """A table's rows by keyframe, and where each keyframe's begin and how many they are."""
    parts = [build.table(table, s, ("sample_token", *columns)) for s in splits]
    rows = pa.concat_tables(parts).sort_by("sample_token").combine_chunks()
    tokens = rows["sample_token"].combine_chunks()
    codes = tokens.dictionary_encode() if len(tokens) else None
    if codes is None:
        return rows, {}
    starts = np.flatnonzero(np.diff(codes.indices.to_numpy(), prepend=-1))
    counts = np.diff(np.r_[starts, len(tokens)])
    names = tokens.take(starts).to_pylist()
    at = zip(names, zip(starts.tolist(), counts.tolist(), strict=True), strict=True)
    return rows, dict(at)


def _column(build: Build, table: str, splits: tuple[str, ...], name: str) -> Iterator[str]:
    for split in splits:
        yield from build.table(table, split, (name,))[name].to_pylist()
