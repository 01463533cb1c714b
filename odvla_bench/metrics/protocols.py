"""What an open-loop planning protocol is: every choice that can move its numbers, by name.

A protocol fixes which samples count, what a missing future step is worth, which obstacles exist
and how they are drawn, where the car's footprint lies, what a collision of the recorded drive
does to a step, and how steps are reduced to the printed numbers. The published protocols are
presets (`metrics/presets.py`); their errors are kept and listed in `known_defects`.

Steps are 0.5, 1.0, … 3.0 s. Trajectories are in the LIDAR frame of the keyframe (x right,
y forward), metres. Sources of the constants: the public evaluation code of each project.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np

from odvla_bench.registry import Registry

N_STEPS = 6
STEP_S = 0.5
HORIZON_STEPS = (2, 4, 6)
"""Steps up to and including 1, 2 and 3 s."""
HORIZON_NAMES = ("1s", "2s", "3s")

Reduction = Literal["at_horizon", "cumulative", "any_up_to"]
"""How six steps become the value of a horizon: its own step, the mean up to it, any up to it."""


@dataclass(frozen=True)
class TableRule:
    """One printed table: a name, and how its rows are reduced over steps."""

    name: str
    l2: Literal["at_horizon", "cumulative"]
    collision: Reduction


@dataclass(frozen=True)
class ObstacleRule:
    """Which annotated boxes are obstacles, and where they are at a future step."""

    classes: tuple[str, ...]
    """nuScenes category names; one that ends in `*` is a prefix."""
    presence: Literal["annotated", "unbroken", "registered"] = "annotated"
    """`annotated`: the box exists at the step. `unbroken`: its object exists at t0 and at every
    step up to this one, and keeps the size it has at t0. `registered`: its object was seen at
    t0 or one of the two keyframes before with a visibility other than 1."""
    motion: Literal["as_annotated", "summed_float32"] = "as_annotated"
    """`summed_float32`: the pose at t0 plus the running float32 sum of float32 displacements."""
    min_points: int = 0
    """Fewest lidar and radar points of the box that decides (at its step, or at t0)."""
    half_range_m: tuple[float, float] | None = None
    """Open bounds on |x| and |y| of the centre at t0, LIDAR; None for no bounds."""

    def accepts(self, category: str) -> bool:
        """Whether boxes of a nuScenes category can be obstacles."""
        return any(
            category.startswith(c[:-1]) if c.endswith("*") else category == c for c in self.classes
        )


Axis = Literal["forward", "backward", "right", "left"]
_OPPOSITE: dict[Axis, Axis] = {
    "forward": "backward",
    "backward": "forward",
    "right": "left",
    "left": "right",
}


@dataclass(frozen=True)
class RasterRule:
    """How boxes become an occupancy grid, square and centred on the origin of its frame."""

    frame: Literal["lidar", "ego", "own_ego"]
    """Frame the boxes are drawn in; `own_ego` is each step's own flattened EGO frame, from
    which the grid is warped to t0."""
    rows: Axis
    """Direction in which the row index grows while drawing."""
    cols: Axis
    """Direction in which the column index grows while drawing."""
    cell_m: float
    n_cells: int
    """Cells along each side."""
    rounding: Literal["half_even", "truncate"]
    """How corner coordinates become vertex indices."""
    corner_dtype: Literal["float32", "float64"]
    """Arithmetic of the corners in metres; with `index_dtype` it decides ties."""
    index_dtype: Literal["float32", "float64"]
    """Arithmetic from metres to vertex indices."""
    flip_rows: bool = False
    """The drawn grid is mirrored along its rows before the metric sees it."""
    flip_cols: bool = False
    box_point: Literal["centre", "bottom"] = "centre"
    """Point of a box that places it: its centre, or its bottom centre carried through the LIDAR
    frames of its step and of t0."""
    missing_frame: Literal["empty", "occupied"] = "empty"
    """What the metric is given at a step that does not exist."""

    @property
    def given_rows(self) -> Axis:
        """Direction in which the row index grows in the grid that the metric is given."""
        return _OPPOSITE[self.rows] if self.flip_rows else self.rows

    @property
    def given_cols(self) -> Axis:
        """Direction in which the column index grows in the grid that the metric is given."""
        return _OPPOSITE[self.cols] if self.flip_cols else self.cols

    @property
    def cell_f32(self) -> np.float32:
        """Cell size as the originals hold it, metres."""
        return np.float32(self.cell_m)

    @property
    def start_f32(self) -> np.float32:
        """Centre of cell 0 as the originals hold it, metres."""
        return np.float32(-self.n_cells * self.cell_m / 2 + self.cell_m / 2)


@dataclass(frozen=True)
class FootprintRule:
    """The car's rectangle at a waypoint, and which way it points."""

    forward_m: float
    """Centre of the rectangle ahead of the waypoint, along the heading."""
    heading: Literal["ignored", "last_displacement", "central", "central_held"]
    """`ignored`: straight ahead of t0. `last_displacement`: of the step just made, straight
    ahead if it is under 1 m. `central`: central differences with the origin prepended, straight
    ahead throughout if first and last waypoint are under 0.5 m apart. `central_held`: central
    differences, each kept from the last one that spans at least 0.5 m."""
    length_m: float = 4.084
    width_m: float = 1.85


@dataclass(frozen=True)
class PlanningProtocol:
    """One way to score open-loop plans; every field can move a number."""

    name: str
    source: str
    """Whose protocol it is, and the revision its behaviour was read from."""
    samples: Literal["all", "complete", "complete_with_2_past", "any_future"]
    """Keyframes scored: every one; those with all six future steps; those that also have two
    past keyframes; those with at least one future step."""
    missing_future: Literal["zero", "hold", "skip_step"]
    """A step that does not exist is counted with an L2 of 0 and the recorded drive at the
    origin; or repeats the last recorded position; or does not count."""
    ground_truth: Literal["lidar_origin", "pseudo_box_bottom"]
    """Point of the car whose recorded path the original pipeline feeds: the lidar's origin, or
    0.78 m below it (the bottom centre of a box at the lidar), which differs on tilted cars."""
    tables: tuple[TableRule, ...]
    """Printed tables, the primary one first."""
    obstacles: ObstacleRule
    raster: RasterRule | None
    """None where boxes are intersected as polygons."""
    footprint: FootprintRule
    point: Literal["waypoint_cell", "waypoint_cell_halved_start", "recorded_collides", "none"]
    """What the point collision tests: the cell under the waypoint; the same with half the
    grid's start (25 m off); nothing, it repeats the recorded drive's collision; not reported."""
    gt_collision: Literal["clear_flag", "skip_step"]
    """A step at which the recorded footprint collides: its flags are cleared but it stays in
    the denominator, or it leaves numerator and denominator."""
    touching_collides: bool
    """Whether polygons that share a border but no area collide; rasters cannot tell."""
    map_metric: Literal["none", "curb", "off_drivable"] = "none"
    """Additional rate against a map mask."""
    known_defects: tuple[str, ...] = ()
    """Errors of the original that the preset reproduces."""

    def choices(self) -> Iterator[tuple[str, str]]:
        """Every choice that can move a number as (name, value) pairs, for the signature."""
        skipped = {"name", "source", "known_defects"}
        for field in fields(self):
            if field.name not in skipped:
                yield from _flatten(field.name, getattr(self, field.name))


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A choice as pairs; nested rules give one pair a field, `rule.field`."""
    if isinstance(value, TableRule):
        yield name, f"{value.name}({value.l2},{value.collision})"
    elif is_dataclass(value):
        for field in fields(value):
            yield from _flatten(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        yield name, "+".join(text for item in value for _, text in _flatten(name, item))
    else:
        yield name, str(value).lower() if isinstance(value, bool | None) else str(value)


PROTOCOLS: Registry[PlanningProtocol] = Registry(
    "planning protocol",
    {
        name: f"odvla_bench.metrics.presets:{name.upper().replace('-', '_')}"
        for name in (
            "exact",
            "opendrivevla",
            "opendrivevla-all",
            "uniad",
            "stp3",
            "vad",
            "agent-driver-uniad",
            "agent-driver-stp3",
            "sparsedrive",
            "bev-planner",
            "omnidrive",
        )
    },
)
"""The presets by name."""


def get_protocol(name: str) -> PlanningProtocol:
    """The preset of that name.

    Raises:
        UnknownNameError: no such preset; the message lists what exists.
    """
    return PROTOCOLS.get(name)
