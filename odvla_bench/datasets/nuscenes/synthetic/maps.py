"""Map expansion files (version 1.3) and masks of the synthetic towns."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import shapely

from odvla_bench.datasets.nuscenes.synthetic.map_draft import (
    NODE_GAP_M,
    Draft,
    Record,
    Stretch,
    add_arcs,
    stretch,
)
from odvla_bench.datasets.nuscenes.synthetic.tables import map_filename
from odvla_bench.datasets.nuscenes.synthetic.town import (
    CROSSING_HALF_M,
    KERB_M,
    LANE_M,
    LANES,
    LOCATIONS,
    ROAD_HALF_M,
    WALK_M,
    Town,
    crossing_line,
    next_node,
    town,
)

_ARC_M = 8.0
_ZEBRA_M = (1.0, 4.5)
_STOP_M = (5.0, 5.8)
_LOT_M = (15.0, 33.0)
_TURNS = (0, 1, -1)


def write_maps(root: Path, blocks: int, *, expansion: bool) -> None:
    """Write the mask of each location and, if asked, its map expansion file.

    A mask has one pixel a metre where the real ones have ten, as those are 30 million pixels: it
    is there to be loaded and looked at, and nuscenes-devkit's `is_on_mask` does not hold on it.
    """
    for location in LOCATIONS:
        streets = town(location, blocks)
        layers = town_map(streets) if expansion else _paved(streets)
        _write_mask(root / map_filename(location), layers)
        if expansion:
            path = root / "maps" / "expansion" / f"{location}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(layers), encoding="utf-8")


def _paved(streets: Town) -> Record:
    """The part of a map file that a mask needs."""
    draft = Draft(streets)
    _add_drivable(draft)
    return {**draft.layers, "canvas_edge": list(streets.canvas_m)}


def town_map(streets: Town) -> Record:
    """A town as the content of a map expansion file."""
    draft = Draft(streets)
    _add_drivable(draft)
    roads = {
        (node, heading): _add_approach(draft, node, heading)
        for node in _nodes(streets)
        for heading in range(4)
        if streets.has_node(*next_node(node, heading))
    }
    for (node, heading), road in roads.items():
        if heading < 2:  # each street once, not once a direction
            _add_street(draft, node, heading, road.segment)
        _add_stop(draft, node, heading, road)
    for node in _nodes(streets):
        _add_junction(draft, node, roads)
    return {**draft.layers, **draft.tables, "canvas_edge": list(streets.canvas_m), "version": "1.3"}


class _Road(NamedTuple):
    """One direction of a street between two crossings."""

    segment: str
    block: str
    lanes: list[str]
    crossing_ahead: str
    """The pedestrian crossing at its end."""


def _nodes(streets: Town) -> list[tuple[int, int]]:
    return list(itertools.product(range(len(streets.streets_x_m)), range(len(streets.streets_y_m))))


def _add_drivable(draft: Draft) -> None:
    """The paved area as one polygon with the blocks as its holes."""
    streets = draft.streets
    strips = []
    for node in _nodes(streets):
        x, y = streets.node_m(*node)
        half = CROSSING_HALF_M
        strips.append(shapely.box(x - half, y - half, x + half, y + half))
        for heading in (0, 1):
            if streets.has_node(*next_node(node, heading)):
                outline = stretch(streets, node, heading).strip(-KERB_M, KERB_M)
                strips.append(shapely.Polygon(outline))
    paved = shapely.segmentize(shapely.union_all(strips).simplify(1e-6), NODE_GAP_M)
    rings = [shapely.get_coordinates(ring)[:-1] for ring in (paved.exterior, *paved.interiors)]
    draft.add("drivable_area", polygon_tokens=[draft.polygon(rings[0], rings[1:])])


def _add_approach(draft: Draft, node: tuple[int, int], heading: int) -> _Road:
    """A street's one direction: its block, lanes, dividers, and the zebra at its end."""
    streets, frame = draft.streets, stretch(draft.streets, node, heading)
    segment = _segment(draft, node, heading)
    side = streets.lane_side
    edges = [side * lane * LANE_M for lane in range(LANES + 1)]
    block = draft.add(
        "road_block",
        polygon_token=draft.polygon(frame.strip(edges[0], edges[-1])),
        **_edges(draft, frame, edges[0], edges[-1]),
        road_segment_token=segment,
    )
    for left_m in edges[1:-1]:
        tokens = draft.nodes(frame.lengthwise(left_m))
        line = draft.add("line", node_tokens=tokens)
        parts = _divider_parts(tokens, "SINGLE_DASHED_WHITE")
        draft.add("lane_divider", line_token=line, lane_divider_segments=parts)
    lanes = [_add_lane(draft, frame, inner, outer) for inner, outer in itertools.pairwise(edges)]
    zebra = frame.length_m - _ZEBRA_M[1], frame.length_m - _ZEBRA_M[0]
    crossing = draft.add(
        "ped_crossing",
        polygon_token=draft.polygon(frame.patch(zebra, (-KERB_M, KERB_M))),
        road_segment_token=segment,
    )
    return _Road(segment, block, lanes, crossing)


def _segment(draft: Draft, node: tuple[int, int], heading: int) -> str:
    """The road segment of a street, the same for both directions."""
    ends = sorted([node, next_node(node, heading)])
    key = ("road_segment", *ends)
    if key not in draft.once:
        frame = stretch(draft.streets, node, heading)
        draft.once[key] = draft.add(
            "road_segment",
            polygon_token=draft.polygon(frame.strip(-ROAD_HALF_M, ROAD_HALF_M)),
            is_intersection=False,
            drivable_area_token=draft.layers["drivable_area"][0]["token"],
        )
    return draft.once[key]


def _edges(draft: Draft, frame: Stretch, left_a_m: float, left_b_m: float) -> Record:
    """The lines across the start and the end of a lane or block."""
    across = np.array([left_a_m, left_b_m])
    start, end = np.zeros(2), np.full(2, frame.length_m)
    return {
        "from_edge_line_token": draft.line(frame.points(start, across)),
        "to_edge_line_token": draft.line(frame.points(end, across)),
    }


def _divider_parts(nodes: list[str], kind: str) -> list[Record]:
    return [{"node_token": token, "segment_type": kind} for token in nodes]


def _add_lane(draft: Draft, frame: Stretch, inner_m: float, outer_m: float) -> str:
    left_m, right_m = max(inner_m, outer_m), min(inner_m, outer_m)
    kinds = {0.0: "DOUBLE_SOLID_WHITE", ROAD_HALF_M: "NIL"}
    sides = {
        f"{name}_lane_divider_segments": _divider_parts(
            draft.nodes(frame.lengthwise(edge)), kinds.get(abs(edge), "SINGLE_DASHED_WHITE")
        )
        for name, edge in (("left", left_m), ("right", right_m))
    }
    token = draft.add(
        "lane",
        polygon_token=draft.polygon(frame.strip(inner_m, outer_m)),
        lane_type="CAR",
        **_edges(draft, frame, inner_m, outer_m),
        **sides,
    )
    count = max(int(frame.length_m / _ARC_M), 1) + 1
    middle = frame.points(np.linspace(0, frame.length_m, count), (inner_m + outer_m) / 2)
    add_arcs(draft, token, middle, np.tile(frame.forward, (count, 1)))
    return token


def _add_street(draft: Draft, node: tuple[int, int], heading: int, segment: str) -> None:
    """What both directions share: the centre line, the walkways and a car park at some."""
    frame = stretch(draft.streets, node, heading)
    line = draft.line(frame.lengthwise(0.0))
    draft.add("road_divider", line_token=line, road_segment_token=segment)
    for sign in (-1, 1):
        draft.add("walkway", polygon_token=draft.polygon(frame.strip(sign * KERB_M, sign * WALK_M)))
    if sum(node) % 3 == heading:
        lot = frame.patch((20.0, frame.length_m - 20.0), _LOT_M)
        draft.add(
            "carpark_area",
            polygon_token=draft.polygon(lot),
            orientation=float(draft.streets.yaw_at(lot[0], frame.left)),
            road_block_token=draft.layers["road_block"][0]["token"],
        )


def _add_stop(draft: Draft, node: tuple[int, int], heading: int, road: _Road) -> None:
    """The line to stop at, before the crossing that a direction ends in."""
    frame = stretch(draft.streets, node, heading)
    edge = draft.streets.lane_side * ROAD_HALF_M
    ahead = frame.length_m - _STOP_M[1], frame.length_m - _STOP_M[0]
    end = next_node(node, heading)
    kind = ("TRAFFIC_LIGHT", "PED_CROSSING", "STOP_SIGN")[(end[0] + 2 * end[1]) % 3]
    lights = [_add_light(draft, frame, edge, road)] if kind == "TRAFFIC_LIGHT" else []
    draft.add(
        "stop_line",
        polygon_token=draft.polygon(frame.patch(ahead, (0.0, edge))),
        stop_line_type=kind,
        ped_crossing_tokens=[road.crossing_ahead] if kind == "PED_CROSSING" else [],
        traffic_light_tokens=lights,
        road_block_token=road.block,
    )


def _add_light(draft: Draft, frame: Stretch, edge_m: float, road: _Road) -> str:
    spot = frame.points(np.full(2, frame.length_m + 1.0), np.array([1.0, 1.3]) * edge_m)
    x, y = draft.streets.to_global(spot[0]).tolist()
    yaw = float(draft.streets.yaw_at(spot[0], frame.forward))
    level = {"rx": 0.0, "ry": 0.0, "rz": 0.0}
    bulbs = [
        {
            "color": colour,
            "shape": "CIRCLE",
            "rel_pos": {"tx": 0.0, "ty": 0.0, "tz": height, **level},
            "to_road_block_tokens": [],
        }
        for colour, height in (("RED", 0.6), ("YELLOW", 0.3), ("GREEN", 0.0))
    ]
    return draft.add(
        "traffic_light",
        line_token=draft.line(spot),
        traffic_light_type="VERTICAL",
        from_road_block_token=road.block,
        items=bulbs,
        pose={"tx": x, "ty": y, "tz": 3.0, **level, "rz": yaw},
    )


def _add_junction(
    draft: Draft, node: tuple[int, int], roads: dict[tuple[tuple[int, int], int], _Road]
) -> None:
    """The paved square where streets cross, and the lanes' connections over it."""
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * CROSSING_HALF_M
    draft.add(
        "road_segment",
        polygon_token=draft.polygon(draft.streets.node_m(*node) + square),
        is_intersection=True,
        drivable_area_token=draft.layers["drivable_area"][0]["token"],
    )
    for heading, turn, lane in itertools.product(range(4), _TURNS, range(LANES)):
        before = next_node(node, (heading + 2) % 4)
        arrives, leaves = roads.get((before, heading)), roads.get((node, (heading + turn) % 4))
        if arrives and leaves:
            ends = arrives.lanes[lane], leaves.lanes[lane]
            _add_connector(draft, node, heading, turn, lane, ends)


def _add_connector(
    draft: Draft, node: tuple[int, int], heading: int, turn: int, lane: int, ends: tuple[str, str]
) -> None:
    """A lane over a crossing, between the lanes of tokens `ends`."""
    offset_m = draft.streets.lane_side * (lane + 0.5) * LANE_M
    middle = crossing_line(draft.streets, node, heading, turn, offset_m)
    tangent = np.gradient(middle, axis=0)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    keep = np.linspace(0, len(middle) - 1, 7 if turn else 3).astype(int)
    middle, tangent = middle[keep], tangent[keep]
    aside = np.stack([-tangent[:, 1], tangent[:, 0]], -1) * LANE_M / 2
    outline = np.concatenate([middle + aside, (middle - aside)[::-1]])
    token = draft.add("lane_connector", polygon_token=draft.polygon(outline))
    add_arcs(draft, token, middle, tangent)
    links = draft.tables["connectivity"]
    links[token] = {"incoming": [ends[0]], "outgoing": [ends[1]]}
    links[ends[0]]["outgoing"].append(token)
    links[ends[1]]["incoming"].append(token)


def _write_mask(path: Path, layers: Record) -> None:
    """A picture of the drivable area, white on black, north up, one pixel a metre."""
    width, height = (int(edge) for edge in layers["canvas_edge"])
    xy = {node["token"]: (node["x"], height - node["y"]) for node in layers["node"]}
    paved = {token for area in layers["drivable_area"] for token in area["polygon_tokens"]}
    rings = [
        np.round([xy[token] for token in tokens]).astype(np.int32)
        for polygon in layers["polygon"]
        if polygon["token"] in paved
        for tokens in (
            polygon["exterior_node_tokens"],
            *(hole["node_tokens"] for hole in polygon["holes"]),
        )
    ]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, rings, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)
