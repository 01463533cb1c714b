"""Metrics: pure functions on arrays and strings; no file is opened here.

Public names are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ObstacleBoxes": "obstacles",
    "PlanningProtocol": "protocols",
    "PlanningScores": "scores",
    "boxes_from_global": "boxes",
    "boxes_from_tracks": "boxes",
    "compare_scores": "scores",
    "get_protocol": "protocols",
    "rasterise_boxes": "occupancy",
    "rasterise_obstacles": "occupancy",
    "rasterise_polylines": "occupancy",
    "score_planning": "planning",
    "with_build": "signature",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
