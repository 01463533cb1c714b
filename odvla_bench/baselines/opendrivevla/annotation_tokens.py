"""Tokens without images: annotated agents and map vectors, written down as waves. No torch here.

A fixed, parameter-free encoder gives tokens of the perception's shapes, so that the language side
can be trained and tested without images or weights. What it encodes is annotation: such tokens
are privileged, and every result made with them says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from odvla_bench.baselines.opendrivevla.features import FeatureSettings, KeyframeFeatures
from odvla_bench.baselines.opendrivevla.perception.config import (
    CAMERAS,
    CLASSES,
    MAP_CLASSES,
    SCENE_GRID,
    TOKEN_WIDTH,
)
from odvla_bench.baselines.opendrivevla.perception.inputs import Annotations
from odvla_bench.errors import InputError

Array = npt.NDArray[np.float64]

SETTINGS = FeatureSettings("annotations", privileged=True, choices={"encoder": "waves-1"})
"""What these tokens are signed with."""

MAX_AGENTS = 299
MAX_ELEMENTS = 100
REACH_M = 61.2
"""Agents further away along x or y are left out, as the perception does."""
WAVES = 8
"""Sine and cosine of 1, 2, 4 … half-turns over the scale of a value."""
POINTS = 7
"""Points that a map vector is resampled to."""
GRID = 16
"""Cells along each side of the drivable area's token."""

_SECTORS_DEG = {
    "CAM_FRONT": 0.0,
    "CAM_FRONT_RIGHT": -60.0,
    "CAM_FRONT_LEFT": 60.0,
    "CAM_BACK": 180.0,
    "CAM_BACK_LEFT": 120.0,
    "CAM_BACK_RIGHT": -120.0,
}
"""Middle of each camera's sector, counter-clockwise from forward."""
_SECTOR_DEG = 60.0
_RINGS_M = (np.inf, 30.0, 12.0)
"""Outer radius of each row of scene cells; far is on top, as in an image."""


@dataclass(frozen=True)
class MapVectors:
    """Map elements near the ego vehicle, LIDAR frame, metres."""

    polylines: Sequence[Array]
    """Each (n, 2) x, y."""
    labels: npt.NDArray[np.int64]
    """(m) index into `MAP_CLASSES`."""
    drivable: npt.NDArray[np.bool_] | None = None
    """(rows, columns) cells of ±`REACH_M`, row = y, column = x; multiples of 16 each."""

    def __post_init__(self) -> None:
        if len(self.polylines) != len(self.labels):
            raise InputError(
                f"MapVectors: {len(self.polylines)} polylines, but {len(self.labels)} labels."
            )
        if self.drivable is not None and any(n % GRID for n in self.drivable.shape):
            raise InputError(
                f"MapVectors: the drivable grid is {self.drivable.shape}; both sides must be "
                f"multiples of {GRID}."
            )


def annotation_features(annotations: Annotations, vectors: MapVectors) -> KeyframeFeatures:
    """The tokens of one keyframe; agents and map elements by rising distance."""
    distance = np.hypot(*annotations.boxes[:, :2].T)
    near = np.flatnonzero((np.abs(annotations.boxes[:, :2]) <= REACH_M).all(1))
    order = near[np.argsort(distance[near], kind="stable")][:MAX_AGENTS]
    boxes, velocity = annotations.boxes[order], annotations.velocity_mps[order]
    labels, instances = annotations.labels[order], annotations.instance_ids[order]
    return KeyframeFeatures(
        scene=scene_tokens(boxes, velocity, labels),
        agents=agent_tokens(boxes, velocity, labels),
        map=map_tokens(vectors),
        instance_id=instances,
        track_id=instances,
        boxes=np.concatenate([boxes, velocity], 1).astype(np.float32),
        scores=np.ones(len(order), np.float32),
        labels=labels,
    )


def agent_tokens(
    boxes: Array, velocity_mps: Array, labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(n, 256) tokens of agents; arguments as in `Annotations`."""
    values = np.concatenate([boxes[:, :6], velocity_mps], 1)
    scales = np.array([REACH_M, REACH_M, 10, 20, 20, 20, 40, 40])
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1)
    return _padded(_one_hot(labels, len(CLASSES)), heading, _waves(values / scales))


def map_tokens(vectors: MapVectors) -> npt.NDArray[np.float32]:
    """(m + 1, 256) tokens of map elements by rising distance, then of the drivable area."""
    lines = [_resampled(np.asarray(line, np.float64)) for line in vectors.polylines]
    points = np.stack(lines) if lines else np.zeros((0, POINTS, 2))
    order = np.argsort(np.hypot(*points.transpose(2, 0, 1)).min(1), kind="stable")[:MAX_ELEMENTS]
    flat = points[order].reshape(len(order), 2 * POINTS) / REACH_M
    kind = _one_hot(vectors.labels[order], len(MAP_CLASSES))
    elements = _padded(kind, _waves(flat))
    return np.concatenate([elements, _drivable_token(vectors.drivable)[None]])


def scene_tokens(
    boxes: Array, velocity_mps: Array, labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(90, 256) tokens of what stands in each camera's sector: 3 rings × 5 bearings."""
    rows, columns = SCENE_GRID
    bearing = np.rad2deg(np.arctan2(-boxes[:, 0], boxes[:, 1]))
    distance = np.hypot(boxes[:, 0], boxes[:, 1])
    ring = np.searchsorted(-np.array(_RINGS_M), -distance, side="right") - 1
    middle = np.array([_SECTORS_DEG[camera] for camera in CAMERAS])
    left = middle[:, None] + _SECTOR_DEG / 2 - bearing
    column = np.floor((left % 360) / (_SECTOR_DEG / columns)).astype(np.int64)
    camera, box = np.nonzero(column < columns)
    cell = (camera * rows + ring[box]) * columns + column[camera, box]
    places = np.indices((len(CAMERAS), rows, columns)).reshape(3, -1)
    counts = np.zeros((places.shape[1], len(CLASSES)))
    nearest, moving = np.full(len(counts), 2 * REACH_M), np.zeros((len(counts), 2))
    np.add.at(counts, (cell, labels[box]), 1)
    np.minimum.at(nearest, cell, distance[box])
    np.add.at(moving, cell, velocity_mps[box])
    moving /= np.maximum(counts.sum(1, keepdims=True), 1)
    place = [middle[places[0]] / 180, places[1] / rows, places[2] / columns]
    numbers = np.column_stack([nearest / (2 * REACH_M), moving / 40, *place])
    return _padded(np.log1p(counts), _waves(numbers))


def _waves(values: Array) -> Array:
    """(n, k) values, about -1…1 → (n, k * (1 + 2 waves)): themselves, sines and cosines."""
    angle = values[..., None] * (np.pi / 2 * 2.0 ** np.arange(WAVES))
    parts = np.concatenate([values[..., None], np.sin(angle), np.cos(angle)], -1)
    return parts.reshape(len(values), parts.shape[1] * parts.shape[2])


def _padded(*parts: Array) -> npt.NDArray[np.float32]:
    joined = np.concatenate(parts, 1).astype(np.float32)
    return np.pad(joined, ((0, 0), (0, TOKEN_WIDTH - joined.shape[1])))


def _one_hot(labels: npt.NDArray[np.int64], count: int) -> Array:
    return np.eye(count)[labels]


def _resampled(line: Array) -> Array:
    """(n, 2) → (7, 2) points at equal distances along the line."""
    along = np.concatenate([[0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    at = np.linspace(0, along[-1], POINTS)
    return np.stack([np.interp(at, along, line[:, i]) for i in range(2)], 1)


def _drivable_token(drivable: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float32]:
    if drivable is None:
        return np.zeros(TOKEN_WIDTH, np.float32)
    rows, columns = (n // GRID for n in drivable.shape)
    share = drivable.reshape(GRID, rows, GRID, columns).mean((1, 3))
    return share.reshape(TOKEN_WIDTH).astype(np.float32)
