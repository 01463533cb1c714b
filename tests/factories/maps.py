"""Small map expansion files to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odvla_bench.datasets.nuscenes.map_records import LINE_LAYERS, POLYGON_LAYERS
from odvla_bench.datasets.nuscenes.maps import VectorMap, find_maps

Points = Sequence[tuple[float, float]]


class MapFile:
    """A map expansion file under construction."""

    def __init__(self) -> None:
        names = ("node", "line", "polygon", *LINE_LAYERS, *POLYGON_LAYERS)
        self.content: dict[str, Any] = {"version": "1.3", **{name: [] for name in names}}

    def nodes(self, points: Points) -> list[str]:
        layer = self.content["node"]
        first = len(layer)
        layer += [{"token": f"n{first + i}", "x": x, "y": y} for i, (x, y) in enumerate(points)]
        return [node["token"] for node in layer[first:]]

    def line(self, layer: str, token: str, points: Points, **fields: Any) -> None:
        self.content["line"].append({"token": token, "node_tokens": self.nodes(points)})
        self.content[layer].append({"token": token, "line_token": token, **fields})

    def polygon(
        self, layer: str, token: str, points: Points, holes: Sequence[Points] = (), **fields: Any
    ) -> None:
        rings = [{"node_tokens": self.nodes(hole)} for hole in holes]
        shell = self.nodes(points)
        self.content["polygon"].append(
            {"token": token, "exterior_node_tokens": shell, "holes": rings}
        )
        target = (
            {"polygon_tokens": [token]} if layer == "drivable_area" else {"polygon_token": token}
        )
        self.content[layer].append({"token": token, **target, **fields})


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def empty_map() -> dict[str, Any]:
    """A map without anything on it."""
    return MapFile().content


def street_map() -> dict[str, Any]:
    """A street along GLOBAL x from 0 to 200 m, its middle at y = 50 m.

    Two lanes of 5 m, a crossing and a light near x = 85 m, pavement to 8 m from the middle with an
    island of 2 m x 2 m at x = 150 m.
    """
    street = MapFile()
    street.polygon("lane", "north", rectangle(0, 50, 200, 55), lane_type="CAR")
    street.polygon("lane", "south", rectangle(0, 45, 200, 50), lane_type="CAR")
    street.line("road_divider", "middle", [(0, 50), (200, 50)])
    street.polygon("road_segment", "segment", rectangle(0, 45, 200, 55), is_intersection=False)
    street.polygon(
        "drivable_area", "paved", rectangle(0, 42, 200, 58), [rectangle(149, 49, 151, 51)]
    )
    street.polygon("ped_crossing", "zebra", rectangle(84, 43, 87, 53)[::-1])
    street.polygon("stop_line", "stop", rectangle(88, 50, 89, 55), stop_line_type="TRAFFIC_LIGHT")
    street.line("traffic_light", "light", [(82, 55), (82, 56)], traffic_light_type="VERTICAL")
    return street.content


def opened_map(root: Path, content: Any, location: str = "boston-seaport") -> VectorMap:
    """The map of a nuScenes root into which `content` is written first."""
    write_map(root, content, location)
    return find_maps(root, root / "cache")[location]


def write_map(root: Path, content: Any, location: str) -> None:
    """Write a map expansion file into a nuScenes root."""
    folder = root / "maps" / "expansion"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{location}.json").write_text(json.dumps(content))
