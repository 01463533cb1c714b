"""Golden scenes of the planning metrics, as the inputs that `score_planning` takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.planning import flipped, owners

from odvla_bench.geometry import pose_from_quaternion
from odvla_bench.metrics import ObstacleBoxes, boxes_from_global, boxes_from_tracks

Arrays = dict[str, np.ndarray]


def _load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def cases(golden: Path) -> Arrays:
    return _load(golden / "planning/metric_cases.npz")


@pytest.fixture(scope="session")
def tables(golden: Path) -> Arrays:
    return _load(golden / "planning/metric_tables.npz")


@pytest.fixture(scope="session")
def fine(golden: Path) -> Arrays:
    return _load(golden / "planning/fine_grid.npz")


@pytest.fixture(scope="session")
def sequences(golden: Path) -> Arrays:
    return _load(golden / "planning/sequences.npz")


@pytest.fixture(scope="session")
def fillpoly(golden: Path) -> Arrays:
    return _load(golden / "planning/fillpoly.npz")


@pytest.fixture(scope="session")
def given_occupancy(cases: Arrays) -> Arrays:
    """Occupancy that each golden protocol's metric was given, by its name in the goldens."""
    missing = np.arange(6) >= cases["n_valid"][:, None]
    uniad = np.where(missing[..., None, None], np.uint8(255), cases["occ_uniad"])
    vehicles = flipped(uniad, cols=True)
    everything = flipped(cases["occ_vad"], rows=True, cols=True)
    return {
        "stp3": cases["occ_stp3"],
        "uniad": uniad,
        "agd_uniad": uniad,
        "odv_veh": vehicles,
        "odv_veh_f64": vehicles,
        "odv_all": everything,
        "agd_stp3": everything,
        "vad": cases["occ_vad"],
        "vad_nofilter": cases["occ_vad_nofilter"],
    }


@pytest.fixture(scope="session")
def case_boxes(cases: Arrays) -> ObstacleBoxes:
    return boxes_from_tracks(
        cases["obj_xyyaw"],
        cases["obj_wl"],
        cases["obj_alive"],
        category=cases["cat_names"][cases["obj_cat"]],
        visibility=cases["obj_vis"],
        sample=owners(cases["obj_offset"]),
    )


@pytest.fixture(scope="session")
def fine_boxes(fine: Arrays) -> ObstacleBoxes:
    """The fine-grid objects, given in EGO, with a lidar at the EGO origin."""
    x, y, yaw = np.moveaxis(fine["obj_xyyaw_ego"], -1, 0)
    boxes = boxes_from_tracks(
        np.stack([-y, x, yaw + np.pi / 2], -1),
        fine["obj_wl"],
        fine["obj_alive"],
        category=fine["cat_names"][fine["obj_cat"]],
        visibility=np.full(len(x), 4),
        sample=owners(fine["obj_offset"]),
    )
    return dataclasses.replace(boxes, lidar_in_ego_m=np.zeros((len(fine["tag"]), 2)))


@pytest.fixture(scope="session")
def sequence_boxes(sequences: Arrays) -> ObstacleBoxes:
    s: dict[str, Any] = sequences
    obj, frame = np.nonzero(s["obj_alive"])
    keep = frame < s["n_frames"][owners(s["obj_offset"])[obj]]
    obj, frame = obj[keep], frame[keep]
    xy_yaw = s["obj_xyyaw_global"][obj, frame]
    return boxes_from_global(
        np.column_stack([xy_yaw[:, :2], s["obj_z"][obj]]),
        xy_yaw[:, 2],
        s["obj_wlh"][obj],
        sample=owners(s["obj_offset"])[obj],
        step=frame - 2,
        instance=obj,
        category=s["obj_cat"][obj],
        category_names=tuple(s["cat_names"].tolist()),
        visibility=s["obj_vis"][obj, frame],
        n_points=np.ones(len(obj), int),
        global_from_ego=pose_from_quaternion(s["ego_pose"][..., 3:], s["ego_pose"][..., :3]),
        ego_from_lidar=pose_from_quaternion(s["lidar2ego_rotation"], s["lidar2ego_translation"]),
    )
