"""Captioned boxes of a build's keyframes beside predicted ones (TOD3Cap).

Where predictions name the detection class of each box, both sides are filtered as by nuScenes'
detection evaluation and TOD3Cap's released scorer: boxes beyond their class's range are dropped,
and true ones without points or of no detection class. Only cycles in racks stay, which no build
knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from odvla_bench.datasets.reader import Build
from odvla_bench.errors import PredictionError
from odvla_bench.geometry import FloatArray, Pose, compose, pose_from_quaternion, transform_points
from odvla_bench.metrics.dense_captioning import (
    CLASS_RANGE_M,
    Boxes,
    Frame,
    kept_by_detection_rules,
)
from odvla_bench.metrics.text.corpus import IntArray

CLASS_OF_CATEGORY = {
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


class DenseFrames(NamedTuple):
    """Keyframes to score."""

    frames: list[Frame]
    scenes: list[str]
    """The scene of each keyframe."""
    filtered: bool
    """Whether both sides were filtered by the detection rules."""


class _Side(NamedTuple):
    """Boxes of one keyframe with what is known of each."""

    boxes: Boxes
    texts: Sequence[Any]
    names: Sequence[str | None]
    """Detection classes."""
    points: IntArray | None = None
    """LIDAR and radar points of true boxes."""

    def filtered(self, ego_offset_from_lidar: Pose) -> _Side:
        """The boxes that the detection rules keep."""
        named = [i for i, name in enumerate(self.names) if name is not None]
        offset = transform_points(ego_offset_from_lidar, self.boxes.center_m[named])
        kept = kept_by_detection_rules(
            [str(self.names[i]) for i in named],
            np.hypot(offset[:, 0], offset[:, 1]),
            None if self.points is None else self.points[named],
        )
        rows = np.array(named, np.int64)[kept]
        boxes = Boxes(*(values[rows] for values in self.boxes))
        return _Side(boxes, [self.texts[i] for i in rows], [])


def dense_frames(
    build: Build,
    captions: pa.Table,
    split: str,
    preds: Path,
    found: Mapping[str, Mapping[str, Any]],
) -> DenseFrames:
    """The keyframes that have captions, with all their annotated boxes.

    Args:
        build: whose `agents` are the true boxes.
        captions: rows of its `alignment` table.
        split: of the build.
        preds: where the predictions come from, for messages.
        found: prediction records by sample token: `boxes`, `captions`, and in all or none `names`.

    Raises:
        PredictionError: keyframes that are not to be scored, or boxes, captions and names that do
            not go together.
    """
    scene = _column(captions, "sample_token", "scene_name")
    if unknown := [token for token in found if token not in scene]:
        raise PredictionError(
            f"{preds}: {len(unknown)} keyframes are not to be scored, for example {unknown[:5]}."
        )
    filtered = any("names" in record for record in found.values())
    offsets = _ego_offsets(build, split) if filtered else {}
    truth = _truth(build, split, scene, _column(captions, "annotation_token", "answer"))
    frames = []
    for sample in scene:
        where = f"{preds}, keyframe {sample}"
        sides = [_predicted(where, found.get(sample, {}), named=filtered), truth[sample]]
        if filtered:
            sides = [side.filtered(offsets[sample]) for side in sides]
        frames.append(Frame(sides[0].boxes, sides[0].texts, sides[1].boxes, sides[1].texts))
    return DenseFrames(frames, list(scene.values()), filtered)


def _column(table: pa.Table, key: str, value: str) -> dict[str, Any]:
    return dict(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))


def _ego_offsets(build: Build, split: str) -> dict[str, Pose]:
    """For each keyframe, what takes points of LIDAR to their offset from the car along GLOBAL."""
    table = build.table("planning", split)
    columns = ("ego_rotation_wxyz", "lidar_rotation_wxyz", "lidar_translation_m")
    ego, lidar, origin = (np.array(table[name].to_pylist(), np.float64) for name in columns)
    turn = pose_from_quaternion(ego, np.zeros_like(origin))
    pose = compose(turn, pose_from_quaternion(lidar, origin))
    return {token: pose.at(i) for i, token in enumerate(table["sample_token"].to_pylist())}


def _truth(
    build: Build, split: str, samples: Mapping[str, str], caption: Mapping[str, str]
) -> dict[str, _Side]:
    """The annotated boxes of each keyframe."""
    agents = build.table("agents", split)
    rows: dict[str, list[int]] = {token: [] for token in samples}
    for i, token in enumerate(agents["sample_token"].to_pylist()):
        if token in rows:
            rows[token].append(i)
    boxes = _boxes(agents)
    points = agents["n_lidar_points"].to_numpy() + agents["n_radar_points"].to_numpy()
    texts = [caption.get(token) for token in agents["annotation_token"].to_pylist()]
    names = [CLASS_OF_CATEGORY.get(category) for category in agents["category"].to_pylist()]
    return {
        sample: _Side(
            Boxes(*(values[of] for values in boxes)),
            [texts[i] for i in of],
            [names[i] for i in of],
            points[of],
        )
        for sample, of in rows.items()
    }


def _array(table: pa.Table, name: str) -> FloatArray:
    return table[name].to_numpy().astype(np.float64)


def _boxes(agents: pa.Table) -> Boxes:
    center, size = (
        np.stack([_array(agents, f"{name}_m") for name in names], -1)
        for names in (("x", "y", "z"), ("width", "length", "height"))
    )
    return Boxes(center, size, _array(agents, "yaw_rad"))


def _predicted(where: str, record: Mapping[str, Any], *, named: bool) -> _Side:
    boxes, captions = record.get("boxes") or [], record.get("captions") or []
    names = record.get("names") or [] if named else [None] * len(captions)
    try:
        values = np.array(boxes, np.float64).reshape(-1, 7)
    except (ValueError, TypeError) as error:
        raise PredictionError(
            f"{where}: boxes are not lists of seven numbers: x, y, z, width, length, height, yaw."
        ) from error
    if len(values) != len(captions) or not np.isfinite(values).all():
        raise PredictionError(
            f"{where}: {len(values)} boxes and {len(captions)} captions; "
            "give one caption a box, and finite numbers."
        )
    if not all(isinstance(text, str) for text in captions):
        raise PredictionError(f"{where}: a caption is not a string; give an empty one for none.")
    if len(names) != len(captions) or (named and not set(names) <= CLASS_RANGE_M.keys()):
        raise PredictionError(
            f"{where}: `names` is not one of {', '.join(CLASS_RANGE_M)} for each box. Give it in "
            "all keyframes, or in none to score all boxes."
        )
    return _Side(Boxes(values[:, :3], values[:, 3:6], values[:, 6]), list(captions), names)
