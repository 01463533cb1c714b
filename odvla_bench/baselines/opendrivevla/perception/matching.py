"""Which detected agent is which annotated one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely

from odvla_bench.baselines.opendrivevla.perception.inputs import Annotations
from odvla_bench.errors import MissingDependencyError
from odvla_bench.geometry import box_corners

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
MINIMUM_IOU = 0.3
"""Overlap from which an agent's token may stand for an annotated one (the official code's)."""


def iou_3d(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, M) intersection over union of upright boxes.

    Args:
        a: (N, 7) x, y, z of the centre, length, width, height, heading; one frame, metres, radians.
        b: (M, 7) likewise.
    """
    first, second = _footprints(a), _footprints(b)
    rows, columns = shapely.STRtree(second).query(first)
    area = np.zeros((len(a), len(b)))
    area[rows, columns] = shapely.area(shapely.intersection(first[rows], second[columns]))
    top = np.minimum((a[:, 2] + a[:, 5] / 2)[:, None], b[:, 2] + b[:, 5] / 2)
    bottom = np.maximum((a[:, 2] - a[:, 5] / 2)[:, None], b[:, 2] - b[:, 5] / 2)
    common = area * (top - bottom).clip(min=0)
    volumes = a[:, 3:6].prod(-1)[:, None] + b[:, 3:6].prod(-1)
    return common / np.maximum(volumes - common, 1e-9)


def matched_instances(boxes: FloatArray, annotations: Annotations) -> IntArray:
    """(N) the instance that each box overlaps best, one to one; -1 below `MINIMUM_IOU`.

    Args:
        boxes: (N, 7) as in `iou_3d`, LIDAR frame.
        annotations: of the same keyframe.
    """
    found = np.full(len(boxes), -1, np.int64)
    if len(boxes) and len(annotations.boxes):
        overlap = iou_3d(boxes, annotations.boxes)
        rows, columns = assign(-overlap)
        good = overlap[rows, columns] >= MINIMUM_IOU
        found[rows[good]] = annotations.instance_ids[columns[good]]
    return found


def assign(cost: FloatArray) -> tuple[IntArray, IntArray]:
    """Rows and columns of the one-to-one assignment of least cost."""
    try:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError("scipy", extra="train", purpose="matching agents") from error
    rows, columns = linear_sum_assignment(cost)
    return rows, columns


def _footprints(boxes: FloatArray) -> npt.NDArray[np.object_]:
    corners = box_corners(boxes[:, :2], boxes[:, 6], boxes[:, 3], boxes[:, 4])
    return shapely.polygons(corners)
