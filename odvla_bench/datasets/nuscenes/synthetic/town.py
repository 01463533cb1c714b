"""Synthetic towns: a grid of streets for each nuScenes location, and paths along them.

Everything is laid out on a PLAN, where streets are straight and cross at right angles, and carried
into the GLOBAL frame by `Town.to_global`, which bends, turns and shifts the plan. The bend is
nearly isometric, so lengths along a street hold to a few per cent.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray, angle_of

LANE_M = 3.5
LANES = 2  # a direction
ROAD_HALF_M = LANES * LANE_M
KERB_M = 9.5
"""Street centre to kerb, metres: the lanes and a strip for parking."""
WALK_M = 13.0
"""Street centre to the outer edge of the walkway, metres."""
CROSSING_HALF_M = 15.5
"""Street centre to where a crossing street's lanes begin, metres."""
STOP_BEFORE_M = 9.5
"""From the ego's rear axle to that place when it stops at a stop line, metres."""

STEP_M = 0.25
_BEND_M, _BEND_WAVE_M = 6.0, 60.0
_NEAR_TURN_M, _FAR_TURN_M = 10.0, 14.0

# Headings on the plan, counter-clockwise: index + 1 is a left turn, index - 1 a right turn.
HEADINGS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


class _Site(NamedTuple):
    canvas_m: tuple[float, float]
    turn_rad: float


# Canvas sizes of the real maps (nuScenes map expansion v1.3); all else is made up.
_SITES = {
    "singapore-onenorth": _Site((1585.6, 2025.0), 0.3),
    "singapore-hollandvillage": _Site((2808.3, 2922.9), -0.5),
    "singapore-queenstown": _Site((3228.6, 3687.1), 0.9),
    "boston-seaport": _Site((2979.5, 2118.1), -0.2),
}
LOCATIONS = tuple(_SITES)


@dataclass(frozen=True)
class Town:
    """The streets of one location on the plan, and the way from the plan to GLOBAL."""

    location: str
    streets_x_m: FloatArray
    """(B,) plan x of the streets that run along y, ascending, metres."""
    streets_y_m: FloatArray
    """(B,) plan y of the streets that run along x, ascending, metres."""
    canvas_m: tuple[float, float]
    turn_rad: float

    @property
    def lane_side(self) -> int:
        """+1 where one drives on the left of the street's centre, -1 on the right."""
        return 1 if self.location.startswith("singapore") else -1

    def node_m(self, i: int, j: int) -> FloatArray:
        """(2,) the crossing of streets i and j, plan, metres."""
        return np.array([self.streets_x_m[i], self.streets_y_m[j]])

    def has_node(self, i: int, j: int) -> bool:
        """Whether streets i and j exist."""
        return 0 <= i < len(self.streets_x_m) and 0 <= j < len(self.streets_y_m)

    def to_global(self, plan_m: FloatArray) -> FloatArray:
        """(..., 2) plan points → (..., 2) GLOBAL points, metres."""
        x, y = plan_m[..., 0], plan_m[..., 1]
        bent_x = x + _BEND_M * np.sin(y / _BEND_WAVE_M)
        bent_y = y + _BEND_M * np.sin(x / _BEND_WAVE_M)
        c, s = np.cos(self.turn_rad), np.sin(self.turn_rad)
        turned = np.stack([c * bent_x - s * bent_y, s * bent_x + c * bent_y], -1)
        return turned + np.array(self.canvas_m) / 2

    def yaw_at(self, plan_m: FloatArray, heading: FloatArray) -> FloatArray:
        """(..., 2) plan points and directions there → (...) GLOBAL yaws, radians."""
        ahead = self.to_global(plan_m + 0.5 * heading) - self.to_global(plan_m - 0.5 * heading)
        return angle_of(ahead)


@functools.cache
def town(location: str, blocks: int = 7) -> Town:
    """The town of a location with `blocks` x `blocks` streets, the same at every call."""
    site = _SITES[location]
    rng = np.random.default_rng([LOCATIONS.index(location), blocks])
    gaps = rng.uniform(95, 150, (2, blocks))
    lines = np.cumsum(gaps, axis=1)
    lines -= lines.mean(axis=1, keepdims=True)
    return Town(location, lines[0], lines[1], site.canvas_m, site.turn_rad)


class Path(NamedTuple):
    """A lane-true way along the plan, a point every 0.25 m."""

    xy_m: FloatArray
    """(P, 2) plan points, metres."""
    heading: FloatArray
    """(P, 2) unit directions on the plan."""
    curvature: FloatArray
    """(P,) 1/m, positive to the left."""
    stops: npt.NDArray[np.intp]
    """Point indices just before each crossing."""

    @property
    def length_m(self) -> float:
        """Arc length, metres."""
        return STEP_M * (len(self.xy_m) - 1)


@functools.cache
def _unit_turn() -> FloatArray:
    """(81, 2) a left quarter turn from (0, 0) to (1, 1) whose curvature ramps up and down."""
    u = np.linspace(0, 1, 2001)
    curvature = np.interp(u, [0, 0.3, 0.7, 1], [0, 1, 1, 0])
    angle = np.concatenate([[0.0], np.cumsum((curvature[1:] + curvature[:-1]) / 2)])
    angle *= np.pi / 2 / angle[-1]
    steps = np.stack([np.cos(angle), np.sin(angle)], -1)
    points = np.concatenate([[[0.0, 0.0]], np.cumsum((steps[1:] + steps[:-1]) / 2, axis=0)])
    return (points / points[-1])[:: (len(u) - 1) // 80]


def random_path(
    streets: Town,
    rng: np.random.Generator,
    *,
    node: tuple[int, int],
    heading: int,
    lane: int,
    length_m: float,
    start_m: float = 0.0,
) -> Path:
    """A way that leaves a crossing and turns or goes straight at the next ones by chance.

    Args:
        streets: the town.
        rng: decides the turns.
        node: the crossing it leaves, street indices; the next one in `heading` must exist.
        heading: index into `HEADINGS`.
        lane: 0 is next to the street's centre.
        length_m: at least this long, metres.
        start_m: how far after the crossing it begins, metres.
    """
    offset_m = streets.lane_side * (lane + 0.5) * LANE_M
    i, j = node
    points = [streets.node_m(i, j) + left_of(heading) * offset_m + HEADINGS[heading] * start_m]
    stops: list[FloatArray] = []
    reach_m = -start_m
    while True:
        before_m, (i, j) = streets.node_m(i, j), next_node((i, j), heading)
        reach_m += float(np.abs(streets.node_m(i, j) - before_m).sum())
        lane_line = streets.node_m(i, j) + left_of(heading) * offset_m
        stops.append(lane_line - HEADINGS[heading] * (CROSSING_HALF_M + STOP_BEFORE_M))
        if reach_m >= length_m:
            break
        turn = _choose_turn(streets, rng, (i, j), heading)
        if turn:
            points.extend(_turn_points(streets, (i, j), heading, turn, offset_m))
        heading = (heading + turn) % 4
    points.append(lane_line)
    return _resampled(np.array(points), stops)


def left_of(heading: int) -> FloatArray:
    """(2,) the plan direction to the left of a heading."""
    return HEADINGS[(heading + 1) % 4]


def next_node(node: tuple[int, int], heading: int) -> tuple[int, int]:
    """The crossing one block from `node` in a heading, whether or not it exists."""
    return node[0] + int(HEADINGS[heading][0]), node[1] + int(HEADINGS[heading][1])


def _choose_turn(
    streets: Town, rng: np.random.Generator, node: tuple[int, int], heading: int
) -> int:
    """0 straight, 1 left, -1 right: one that stays in town."""
    weight_of = {0: 0.5, 1: 0.25, -1: 0.25}
    options = [t for t in weight_of if streets.has_node(*next_node(node, (heading + t) % 4))]
    weights = np.array([weight_of[t] for t in options])
    return int(rng.choice(options, p=weights / weights.sum()))


def _turn_points(
    streets: Town, node: tuple[int, int], heading: int, turn: int, offset_m: float
) -> FloatArray:
    """(81, 2) plan points of a quarter turn at a crossing from lane line to lane line."""
    new_heading = (heading + turn) % 4
    corner = streets.node_m(*node) + (left_of(heading) + left_of(new_heading)) * offset_m
    size_m = _NEAR_TURN_M if turn == streets.lane_side else _FAR_TURN_M
    forward, sideways = HEADINGS[heading], HEADINGS[new_heading]
    curve = _unit_turn() * size_m
    start = corner - forward * size_m
    return start + curve[:, :1] * forward + curve[:, 1:] * sideways


def crossing_line(
    streets: Town, node: tuple[int, int], heading: int, turn: int, offset_m: float
) -> FloatArray:
    """(N, 2) plan points of a lane's middle over a crossing, every 0.25 m from edge to edge."""
    center, reach_m = streets.node_m(*node), CROSSING_HALF_M
    new_heading = (heading + turn) % 4
    first = center + left_of(heading) * offset_m - HEADINGS[heading] * reach_m
    last = center + left_of(new_heading) * offset_m + HEADINGS[new_heading] * reach_m
    curve = _turn_points(streets, node, heading, turn, offset_m) if turn else np.zeros((0, 2))
    return _evenly(np.concatenate([[first], curve, [last]]))


def _evenly(points: FloatArray) -> FloatArray:
    """(N, 2) points every 0.25 m along a polyline."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    s = np.arange(0, along[-1] + STEP_M / 2, STEP_M)
    return np.stack([np.interp(s, along, points[:, k]) for k in (0, 1)], -1)


def _resampled(points: FloatArray, stops: list[FloatArray]) -> Path:
    xy = _evenly(points)
    tangent = np.gradient(xy, STEP_M, axis=0)
    yaw = np.unwrap(angle_of(tangent))
    stop_index = [int(np.argmin(((xy - stop) ** 2).sum(1))) for stop in stops]
    heading = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    return Path(xy, heading, np.gradient(yaw, STEP_M), np.array(stop_index, dtype=np.intp))
