"""What curb and drivable-area rates measure a plan against, as plain arrays in the EGO frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import shapely

from odvla_bench.datasets.nuscenes.map_json import BOUNDARY
from odvla_bench.datasets.nuscenes.maps import VectorMap
from odvla_bench.datasets.nuscenes.patches import Patches
from odvla_bench.datasets.nuscenes.paths import Geometries, IntArray
from odvla_bench.geometry import FloatArray, Pose

CURB_AREA_M = (102.4, 50.0)
"""Where BEV-Planner looks for curbs: 102.4 m along the ego's heading, 50 m across."""
CURB_POINTS = 20
DRIVABLE_SIZE_M = 100.0
DRIVABLE_CELL_M = 0.1


@dataclass(frozen=True)
class Polylines:
    """Lines of equally many points around keyframes."""

    keyframe: IntArray
    """(L,) rows of the keyframes, ascending."""
    xy_m: FloatArray
    """(L, P, 2) points, EGO frame of the keyframe, metres."""


def boundary_polylines(
    vector_map: VectorMap,
    global_from_ego: Pose,
    *,
    size_m: tuple[float, float] = CURB_AREA_M,
    points: int = CURB_POINTS,
) -> Polylines:
    """The road's boundary around keyframes, each line resampled to points equally far apart.

    BEV-Planner's curb collisions (01c28d6) take these lines, drawn one cell of 0.1 m wide. Unlike
    there, a keyframe without any boundary has no line, and not those of a place in Boston.

    Args:
        vector_map: the map that all keyframes lie on.
        global_from_ego: (N) EGO in GLOBAL.
        size_m: extent of the area, centred on the ego, along EGO x (forward) and y (left).
        points: points a line, ends included.
    """
    patches = Patches.around(global_from_ego, size_m)
    found = vector_map.layer(BOUNDARY).query(patches)
    share = np.linspace(0, 1, points)
    at = shapely.line_interpolate_point(found.geometry[:, None], share, normalized=True)
    return Polylines(found.patch, shapely.get_coordinates(at).reshape(-1, points, 2))


def drivable_masks(
    vector_map: VectorMap,
    global_from_ego: Pose,
    *,
    size_m: float = DRIVABLE_SIZE_M,
    cell_m: float = DRIVABLE_CELL_M,
) -> npt.NDArray[np.bool_]:
    """Rasters of the drivable area around keyframes, drawn as nuscenes-devkit draws them.

    OmniDrive's boundary rate reads them. A vertex at p falls into cell round((p + size_m / 2) /
    cell_m), and the cells of outlines are filled; those of holes are not. At the default size a
    keyframe takes 1 MB: ask for some hundreds at a time.

    Args:
        vector_map: the map that all keyframes lie on.
        global_from_ego: (N) EGO in GLOBAL.
        size_m: edge of the square area, centred on the ego.
        cell_m: edge of a cell.

    Returns:
        (N, S, S) whether a cell is drivable: rows rise with EGO y (left), columns with EGO x
        (forward), S = size_m / cell_m.
    """
    cells = round(size_m / cell_m)
    found = vector_map.layer("drivable_area").query(
        Patches.around(global_from_ego, (size_m, size_m))
    )
    masks = np.zeros((len(global_from_ego.translation_m), cells, cells), np.uint8)
    # All outlines of an area before all its holes, as the devkit has it.
    keys, start = np.unique(np.stack([found.patch, found.element]), axis=1, return_index=True)
    for keyframe, area in zip(keys[0], np.split(found.geometry, start)[1:], strict=True):
        _fill(masks[keyframe], area, size_m, cell_m)
    return masks.astype(bool)


def _fill(mask: npt.NDArray[np.uint8], area: Geometries, size_m: float, cell_m: float) -> None:
    outlines = shapely.get_exterior_ring(area)
    holes = np.concatenate([shapely.get_rings(part)[1:] for part in area])
    for rings, value in ((outlines, 1), (holes, 0)):
        cells = [(shapely.get_coordinates(ring) + size_m / 2) / cell_m for ring in rings]
        cv2.fillPoly(mask, [xy.round().astype(np.int32) for xy in cells], value)
