"""A nuScenes tree small enough to check by hand: the language builders' goldens are made on it.

EGO looks along GLOBAL x; LIDAR_TOP sits 1 m ahead of and 2 m above EGO's origin. A point at
GLOBAL (gx, gy, gz) is therefore at x = ego_y - gy, y = gx - ego_x - 1 of the LIDAR frame.

    scene-0061 (train)  keyframes a…1 to a…4, half a second apart, ego at x 100, 105, 110, 115
    scene-0103 (val)    keyframes b…1 and b…2, ego at x 0 and 2
    scene-9999          keyframe c…1; no official split names the scene
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

VERSION = "v1.0-trainval"
HALF = math.sqrt(0.5)
FORWARD = [1.0, 0.0, 0.0, 0.0]
LEFTWARD = [HALF, 0.0, 0.0, HALF]

EGO_X_M = {"a": (100.0, 105.0, 110.0, 115.0), "b": (0.0, 2.0), "c": (0.0,)}
SCENES = {"a": "scene-0061", "b": "scene-0103", "c": "scene-9999"}
CATEGORIES = ("vehicle.car", "human.pedestrian.adult", "movable_object.barrier", "vehicle.truck")
# Instance, keyframe, GLOBAL place, heading, LIDAR points, visibility.
BOXES = (
    (1, "a1", (111.0, 197.0, 1.0), FORWARD, 5, "4"),
    (1, "a2", (113.0, 197.0, 1.0), FORWARD, 5, "4"),
    (2, "a1", (104.5, 202.25, 1.0), FORWARD, 0, "1"),
    (2, "a3", (104.5, 202.25, 1.0), FORWARD, 3, "3"),
    (3, "b1", (-7.0, 200.0, 0.5), FORWARD, 9, "2"),
    (3, "b2", (-7.0, 200.0, 0.5), FORWARD, 9, "2"),
    (4, "a1", (100.0, 210.0, 1.0), LEFTWARD, 7, "4"),
    (4, "a2", (98.0, 211.0, 1.0), LEFTWARD, 7, "4"),
    (4, "a4", (98.0, 212.0, 1.0), LEFTWARD, 7, "4"),
)


def token(name: str) -> str:
    """`a1` → a000…01."""
    return name[0] + name[1:].rjust(31, "0")


def box_token(instance: int, frame: str) -> str:
    """The annotation of an instance in a keyframe: instance 1 in a2 → d00…0a2001."""
    return "d" + f"{frame}{instance:03d}".rjust(31, "0")


def write_small_tree(root: Path) -> Path:
    """Write the tables; returns the root."""
    tables: dict[str, list[dict[str, Any]]] = {
        "log": [{"token": "1" * 32, "logfile": "l", "vehicle": "v", "location": "boston-seaport"}],
        "sensor": [{"token": "2" * 32, "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": "3" * 32,
                "sensor_token": "2" * 32,
                "translation": [1.0, 0.0, 2.0],
                "rotation": [HALF, 0.0, 0.0, -HALF],
                "camera_intrinsic": [],
            }
        ],
        "category": [
            {"token": token(f"e{i}"), "name": name} for i, name in enumerate(CATEGORIES, 1)
        ],
        "instance": [
            {"token": token(f"f{i}"), "category_token": token(f"e{i}")} for i in range(1, 5)
        ],
        "attribute": [],
        "scene": [
            {"token": token(f"{s}0"), "log_token": "1" * 32, "name": name, "description": ""}
            for s, name in SCENES.items()
        ],
        "sample": [],
        "sample_data": [],
        "ego_pose": [],
        "sample_annotation": [_annotation(*box) for box in BOXES],
    }
    for scene, places in EGO_X_M.items():
        for i, x in enumerate(places, 1):
            _add_keyframe(tables, scene, i, x)
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return root


def _add_keyframe(
    tables: dict[str, list[dict[str, Any]]], scene: str, number: int, ego_x_m: float
) -> None:
    key, time_us = token(f"{scene}{number}"), 1_000_000 + 500_000 * number
    tables["sample"].append({"token": key, "scene_token": token(f"{scene}0"), "timestamp": time_us})
    tables["ego_pose"].append(
        {"token": key, "translation": [ego_x_m, 200.0, 0.0], "rotation": FORWARD}
    )
    tables["sample_data"].append(
        {
            "token": key,
            "sample_token": key,
            "ego_pose_token": key,
            "calibrated_sensor_token": "3" * 32,
            "filename": "",
            "timestamp": time_us,
            "is_key_frame": True,
            "height": 0,
            "width": 0,
        }
    )


def _annotation(
    instance: int,
    frame: str,
    place: tuple[float, float, float],
    heading: list[float],
    points: int,
    visibility: str,
) -> dict[str, Any]:
    return {
        "token": box_token(instance, frame),
        "sample_token": token(frame),
        "instance_token": token(f"f{instance}"),
        "visibility_token": visibility,
        "translation": list(place),
        "rotation": heading,
        "size": [2.0, 4.0, 1.5],
        "attribute_tokens": [],
        "num_lidar_pts": points,
        "num_radar_pts": 0,
    }
