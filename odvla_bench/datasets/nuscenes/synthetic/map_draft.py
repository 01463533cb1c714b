"""Layers of a map expansion file under construction, and stretches of street to fill them with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.tokens import fixed_token
from odvla_bench.datasets.nuscenes.synthetic.town import (
    CROSSING_HALF_M,
    HEADINGS,
    Town,
    left_of,
    next_node,
)
from odvla_bench.geometry import FloatArray, wrap_angle

Record = dict[str, Any]
_LAYERS = (
    "polygon",
    "line",
    "node",
    "drivable_area",
    "road_segment",
    "road_block",
    "lane",
    "lane_connector",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
    "road_divider",
    "lane_divider",
    "traffic_light",
)
NODE_GAP_M = 10.0


class Draft:
    """Layers under construction; equal points share a node, as in the real maps."""

    def __init__(self, streets: Town) -> None:
        """Start with empty layers."""
        self.streets = streets
        self.layers: dict[str, list[Record]] = {layer: [] for layer in _LAYERS}
        self.tables: dict[str, Record] = {"arcline_path_3": {}, "connectivity": {}}
        self._nodes: dict[tuple[float, float], str] = {}
        self.once: dict[tuple[object, ...], str] = {}

    def add(self, layer: str, **fields: Any) -> str:
        """Append a record to a layer; its token, with dashes as in the real maps."""
        text = fixed_token(layer, f"{self.streets.location} {len(self.layers[layer])}")
        token = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        self.layers[layer].append({"token": token, **fields})
        return token

    def nodes(self, plan_m: FloatArray) -> list[str]:
        """Node tokens of (N, 2) plan points."""
        keys = [(round(x, 2), round(y, 2)) for x, y in plan_m.tolist()]
        new = [key for key in dict.fromkeys(keys) if key not in self._nodes]
        if new:
            for key, (x, y) in zip(new, self.streets.to_global(np.array(new)), strict=True):
                self._nodes[key] = self.add("node", x=float(x), y=float(y))
        return [self._nodes[key] for key in keys]

    def line(self, plan_m: FloatArray) -> str:
        """A line through (N, 2) plan points; its token."""
        return self.add("line", node_tokens=self.nodes(plan_m))

    def polygon(self, plan_m: FloatArray, holes: Iterable[FloatArray] = ()) -> str:
        """An area inside (N, 2) plan points, less its holes; its token."""
        return self.add(
            "polygon",
            exterior_node_tokens=self.nodes(plan_m),
            holes=[{"node_tokens": self.nodes(hole)} for hole in holes],
        )


class Stretch(NamedTuple):
    """The stretch of street that leaves a node in a heading, up to the next crossing."""

    origin_m: FloatArray
    forward: FloatArray
    left: FloatArray
    length_m: float

    def points(self, ahead_m: FloatArray, left_m: FloatArray | float) -> FloatArray:
        """(N, 2) plan points from distances past the crossing and to the left of the centre."""
        sideways = np.broadcast_to(left_m, np.shape(ahead_m))
        points: FloatArray = self.origin_m + np.outer(ahead_m, self.forward)
        return points + np.outer(sideways, self.left)

    def lengthwise(self, left_m: float) -> FloatArray:
        """(N, 2) plan points of a line along the whole stretch."""
        count = max(int(self.length_m // NODE_GAP_M), 1) + 1
        return self.points(np.linspace(0, self.length_m, count), left_m)

    def strip(self, left_a_m: float, left_b_m: float) -> FloatArray:
        """(N, 2) plan outline of a band along the whole stretch."""
        return np.concatenate([self.lengthwise(left_a_m), self.lengthwise(left_b_m)[::-1]])

    def patch(self, ahead_m: tuple[float, float], left_m: tuple[float, float]) -> FloatArray:
        """(4, 2) plan outline of a rectangle."""
        (a, b), (c, d) = ahead_m, left_m
        return self.points(np.array([a, b, b, a]), np.array([c, c, d, d]))


def stretch(streets: Town, node: tuple[int, int], heading: int) -> Stretch:
    """The stretch of street from a crossing to the next one in a heading."""
    start, end = streets.node_m(*node), streets.node_m(*next_node(node, heading))
    forward = HEADINGS[heading]
    length_m = float(np.abs(end - start).sum()) - 2 * CROSSING_HALF_M
    return Stretch(start + forward * CROSSING_HALF_M, forward, left_of(heading), length_m)


def add_arcs(draft: Draft, token: str, plan_m: FloatArray, heading: FloatArray) -> None:
    """A lane's centre as circular arcs between points, each from one heading to the next."""
    xy, yaw = draft.streets.to_global(plan_m), draft.streets.yaw_at(plan_m, heading)
    length = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    turn = wrap_angle(np.diff(yaw))
    poses = np.column_stack([xy, yaw]).tolist()
    draft.tables["arcline_path_3"][token] = [
        {
            "start_pose": start,
            "end_pose": end,
            "shape": "LSR" if bend >= 0 else "RSL",
            "radius": arc / max(abs(bend), 1e-6),
            "segment_length": [arc, 0.0, 0.0],
        }
        for start, end, arc, bend in zip(
            poses[:-1], poses[1:], length.tolist(), turn.tolist(), strict=True
        )
    ]
    draft.tables["connectivity"][token] = {"incoming": [], "outgoing": []}
