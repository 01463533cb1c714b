"""Open-loop planning scores under a named protocol.

Definition of `exact`, the protocol of this project:

* A step counts if the recorded keyframe exists (`n_valid`); nothing is padded.
* Obstacles are the `vehicle.*` and `human.*` boxes annotated at that step, as oriented
  rectangles, with no filter on range, visibility or points.
* The car is a rectangle of 4.084 x 1.85 m, centred 0.5 m ahead of the LIDAR along its heading.
* Heading: with p(0) the origin and K the last existing step, the difference of step k is
  p(k + 1) - p(k - 1), and of step K p(K) - p(K - 1). If that difference itself is at least 0.5 m
  long, its direction is the heading of step k; if not, the heading of step k - 1 is kept, and
  before any such step the car points straight ahead (+y). Waypoints after K have no influence,
  neither recorded nor predicted ones, so a perfect prediction has the recorded footprints.
* A collision is an overlap; touching (to 1e-9 m) is none.
* A step at which the recorded footprint collides leaves numerator and denominator and is
  counted in `counts()["gt_collision_steps"]`. It stays in the L2.
* `at_horizon` is the rate and mean L2 at the step of 1, 2 and 3 s. `any_up_to` is the share of
  samples, among those whose step at the horizon exists and that have a counted step up to it,
  with a collision at any counted step up to it; its L2 is the mean up to the horizon.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.geometry import FloatArray
from odvla_bench.metrics.collision import drawn_hits, packed_hits, polygon_hits
from odvla_bench.metrics.displacement import BoolArray, displacement_m
from odvla_bench.metrics.footprint import (
    Probe,
    footprint_boxes,
    footprint_probe,
    headings_rad,
    point_probe,
)
from odvla_bench.metrics.inputs import (
    Plans,
    check_grid,
    check_lengths,
    check_obstacles,
    checked_plans,
    scored_samples,
)
from odvla_bench.metrics.map_compliance import curb_hits, off_drivable
from odvla_bench.metrics.obstacles import IntArray, ObstacleBoxes, select_obstacles
from odvla_bench.metrics.occupancy import ByteArray
from odvla_bench.metrics.protocols import N_STEPS, PlanningProtocol, RasterRule, get_protocol
from odvla_bench.metrics.scores import PlanningScores
from odvla_bench.metrics.signature import format_signature


class _Hits(NamedTuple):
    """Collisions of (N, 6) steps, before those of the recorded drive are cleared."""

    pred: BoolArray
    gt: BoolArray
    point: BoolArray | None
    everywhere: BoolArray
    """Frames that are occupied everywhere; looked for where the recorded drive collides."""


def score_planning(
    pred_m: FloatArray,
    gt_m: FloatArray,
    n_valid: IntArray,
    *,
    protocol: str | PlanningProtocol,
    occupancy: ByteArray | None = None,
    boxes: ObstacleBoxes | None = None,
    scene: npt.NDArray[Any] | None = None,
    n_past: IntArray | None = None,
    boundary: ByteArray | None = None,
    drivable: ByteArray | None = None,
    ground_truth: str | None = None,
) -> PlanningScores:
    """Score predicted waypoints against the recorded drive.

    The dtype of `pred_m` is kept: the point collision is decided in it, and float32 and float64
    can choose different cells.

    Args:
        pred_m: (N, 6, 2) predicted waypoints at 0.5 … 3 s, LIDAR at t0, metres, float32 or 64.
        gt_m: (N, 6, 2) recorded waypoints, likewise; steps from `n_valid` on are not read.
        n_valid: (N,) future steps that exist, 0 to 6.
        protocol: name of a preset, or a protocol.
        occupancy: (N, 6, rows, columns / 8) uint8, packed along the columns, exactly as the
            protocol's original metric is given it, flips and filled missing frames included.
        boxes: annotated boxes instead of occupancy; they are drawn or intersected here, and
            missing frames are filled here. Without either only L2 is scored.
        scene: (N,) labels for intervals clustered by scene.
        n_past: (N,) past keyframes that exist (`stp3` needs two); None: not checked.
        boundary: (N, 1000, 125) packed boundary lines for the curb collision of `bev-planner`.
        drivable: (N, 1000, 125) packed drivable area for `omnidrive`; both in EGO at t0, rows to
            the left, columns forward.
        ground_truth: where `gt_m` comes from, for the signature, e.g. `lidar_origin`.

    Returns:
        Per-step values, counts, tables and the signature.

    Raises:
        PredictionError: predictions of the wrong shape or type, or not finite; rows are named.
        InputError: any other input that does not fit.
        UnknownNameError: no protocol of that name.
    """
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    plans = checked_plans(pred_m, gt_m, n_valid, protocol)
    n = len(plans.n_valid)
    check_lengths(n, scene=scene, n_past=n_past)
    check_obstacles(n, protocol, occupancy, boxes)
    check_grid("boundary", boundary, (n,), protocol)
    check_grid("drivable", drivable, (n,), protocol)
    scored = scored_samples(plans.n_valid, n_past, protocol)
    exists = np.broadcast_to(scored[:, None], plans.real.shape) & _stepped(plans, protocol)
    distance = np.where(plans.real, displacement_m(plans.pred_m, plans.gt_m), 0.0)
    hits = _collisions(plans, protocol, occupancy, boxes)
    inputs = (
        ("obstacles", "boxes" if boxes else "none" if occupancy is None else "occupancy"),
        ("past", "unchecked" if n_past is None else "checked"),
        ("gt", ground_truth or "unstated"),
        ("dtype", plans.pred_m.dtype),
        ("n", n),
        ("scored", scored.sum()),
    )
    return PlanningScores(
        protocol=protocol,
        signature=format_signature([("protocol", protocol.name), *protocol.choices(), *inputs]),
        l2_m=np.where(scored[:, None], distance, np.nan),
        box_collision=hits and hits.pred & ~hits.gt,
        point_collision=_point_flags(hits, protocol),
        gt_collision=hits and hits.gt,
        map_flags=_map_flags(plans, protocol, boundary, drivable),
        gt_collision_sample=hits and (hits.gt & ~hits.everywhere).any(1),
        scored=scored,
        exists=exists,
        counted=exists & ~hits.gt if hits and protocol.gt_collision == "skip_step" else exists,
        n_valid=plans.n_valid,
        scene=None if scene is None else np.asarray(scene),
    )


def _stepped(plans: Plans, protocol: PlanningProtocol) -> BoolArray:
    """(N, 6) steps the protocol looks at: those that exist, or all where it fills them."""
    return plans.real if protocol.missing_future == "skip_step" else np.ones_like(plans.real)


def _collisions(
    plans: Plans,
    protocol: PlanningProtocol,
    occupancy: ByteArray | None,
    boxes: ObstacleBoxes | None,
) -> _Hits | None:
    """Collisions with whichever obstacles were given; None if none were."""
    if boxes is not None and protocol.raster is None:
        hits = _polygon_collisions(plans, protocol, boxes)
    elif boxes is not None:
        hits = _drawn_collisions(plans, protocol, boxes)
    elif occupancy is not None:
        hits = _packed_collisions(plans, protocol, occupancy)
    else:
        return None
    looked_at = _stepped(plans, protocol)
    return hits._replace(pred=hits.pred & looked_at, gt=hits.gt & looked_at)


def _probes(plans: Plans, protocol: PlanningProtocol) -> list[Probe]:
    """Footprints of prediction and recorded drive, then the point if the protocol has one."""
    probes = [
        footprint_probe(path, headings_rad(path, plans.n_valid, protocol.footprint), protocol)
        for path in (plans.pred_m, plans.gt_m)
    ]
    if protocol.point.startswith("waypoint_cell"):
        probes.append(point_probe(plans.pred_m, protocol))
    return probes


def _packed_collisions(plans: Plans, protocol: PlanningProtocol, occupancy: ByteArray) -> _Hits:
    grids = occupancy.reshape(-1, *occupancy.shape[2:])
    each = np.arange(len(grids))
    pred, gt, *point = (
        packed_hits(grids, each, probe).reshape(-1, N_STEPS) for probe in _probes(plans, protocol)
    )
    everywhere = np.zeros_like(gt)
    everywhere[gt] = (occupancy[gt] == 255).all((1, 2))
    return _Hits(pred, gt, point[0] if point else None, everywhere)


def _drawn_collisions(plans: Plans, protocol: PlanningProtocol, boxes: ObstacleBoxes) -> _Hits:
    raster = _raster(protocol)
    obstacles = select_obstacles(boxes, protocol.obstacles)
    pred, gt, *point = (
        hit.reshape(-1, N_STEPS)
        for hit in drawn_hits(boxes, obstacles, _probes(plans, protocol), raster, plans.real.size)
    )
    filled = ~plans.real & (raster.missing_frame == "occupied")
    return _Hits(pred | filled, gt | filled, point[0] if point else None, filled)


def _raster(protocol: PlanningProtocol) -> RasterRule:
    assert protocol.raster is not None, protocol.name
    return protocol.raster


def _polygon_collisions(plans: Plans, protocol: PlanningProtocol, boxes: ObstacleBoxes) -> _Hits:
    rule = protocol.footprint
    obstacles = select_obstacles(boxes, protocol.obstacles)
    pred, gt = (
        polygon_hits(
            obstacles,
            footprint_boxes(path, headings_rad(path, plans.n_valid, rule), rule).reshape(-1, 3),
            rule,
            touching=protocol.touching_collides,
        ).reshape(-1, N_STEPS)
        for path in (plans.pred_m, plans.gt_m)
    )
    return _Hits(pred, gt, None, np.zeros_like(gt))


def _point_flags(hits: _Hits | None, protocol: PlanningProtocol) -> BoolArray | None:
    """The reported point collision; SparseDrive reports that of the recorded drive's footprint."""
    if hits is None or protocol.point == "none":
        return None
    if protocol.point == "recorded_collides":
        return hits.gt
    return None if hits.point is None else hits.point & ~hits.gt


def _map_flags(
    plans: Plans,
    protocol: PlanningProtocol,
    boundary: ByteArray | None,
    drivable: ByteArray | None,
) -> BoolArray | None:
    """The protocol's rate against the map, None without its mask."""
    if protocol.map_metric == "curb" and boundary is not None:
        pred, gt, *_ = curb_hits(boundary, _probes(plans, protocol))
        return (pred & ~gt).reshape(-1, N_STEPS)
    if protocol.map_metric == "off_drivable" and drivable is not None:
        return off_drivable(plans.pred_m, drivable, protocol.footprint, _raster(protocol))
    return None
