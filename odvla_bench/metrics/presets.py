"""The published planning protocols, and `exact`; what each field means is in `protocols.py`.

Revisions read: ST-P3 6b11e13, UniAD 532fc33, VAD 1688c4b, OpenDriveVLA 10e8095, Agent-Driver
3ea566e, BEV-Planner 01c28d6, OmniDrive 807c86a, SparseDrive ec0225d.
"""

from __future__ import annotations

from dataclasses import replace

from odvla_bench.metrics.protocols import (
    FootprintRule,
    ObstacleRule,
    PlanningProtocol,
    RasterRule,
    TableRule,
)

_DETECTION_VEHICLES = (
    "vehicle.car",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.trailer",
    "vehicle.motorcycle",
    "vehicle.bicycle",
)
"""Categories behind the seven vehicle classes of the nuScenes detection benchmark."""
_DETECTION_PEDESTRIANS = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.police_officer",
)
_VEHICLES_AND_HUMANS = ("vehicle.*", "human.*")
_LIDAR_OF_BOSTON_CARS_M = 0.985793

_AT_HORIZON = TableRule("at_horizon", "at_horizon", "at_horizon")
_CUMULATIVE = TableRule("cumulative", "cumulative", "cumulative")
_ANY_UP_TO = TableRule("any_up_to", "cumulative", "any_up_to")

_FIXED = FootprintRule(forward_m=0.5, heading="ignored")
_HALF_CELL = "boxes are drawn on cells centred on multiples of 0.5 m but footprints are truncated"
_NO_HEADING = "the footprint is never rotated"
_SQUASHED = "footprints outside the grid are pressed onto its border cells and can collide there"
_DILUTED = "missing steps add 0 to every sum and 1 to every count: 3 s values shrink by about 15 %"

_UNIAD_RASTER = RasterRule(
    frame="lidar",
    rows="forward",
    cols="right",
    cell_m=0.5,
    n_cells=200,
    rounding="half_even",
    corner_dtype="float32",
    index_dtype="float32",
    box_point="bottom",
    missing_frame="occupied",
)

UNIAD = PlanningProtocol(
    name="uniad",
    source="UniAD 532fc33, planning_metrics",
    samples="all",
    missing_future="zero",
    ground_truth="pseudo_box_bottom",
    tables=(_AT_HORIZON, _CUMULATIVE),
    obstacles=ObstacleRule(_DETECTION_VEHICLES),
    raster=_UNIAD_RASTER,
    footprint=_FIXED,
    point="waypoint_cell",
    gt_collision="clear_flag",
    touching_collides=True,
    known_defects=(
        _DILUTED,
        f"{_HALF_CELL}: the car is tested 0.5 m too far back and 0.5 m to the left",
        _NO_HEADING,
        _SQUASHED,
        "emergency vehicles and all pedestrians are no obstacles",
    ),
)

AGENT_DRIVER_UNIAD = replace(
    UNIAD,
    name="agent-driver-uniad",
    source="Agent-Driver 3ea566e, metric_uniad",
    tables=(_AT_HORIZON,),
)

OPENDRIVEVLA = replace(
    UNIAD,
    name="opendrivevla",
    source="OpenDriveVLA 10e8095, eval_share with only_vehicle=True (as GPT-Driver)",
    raster=replace(_UNIAD_RASTER, flip_cols=True),
    known_defects=(
        _DILUTED,
        f"{_HALF_CELL}: the car is tested 0.5 m too far back; the mirrored grid also moves it one "
        "column against UniAD on the same occupancy",
        _NO_HEADING,
        _SQUASHED,
        "the table printed as ST-P3 averages over steps but keeps UniAD's samples and vehicles",
        "emergency vehicles and all pedestrians are no obstacles",
    ),
)

_VAD_RASTER = RasterRule(
    frame="lidar",
    rows="backward",
    cols="right",
    cell_m=0.5,
    n_cells=200,
    rounding="half_even",
    corner_dtype="float32",
    index_dtype="float64",
)
_VAD_UNSEEN = "objects outside 15 x 30 m at t0, without points or first seen later do not exist"

VAD = PlanningProtocol(
    name="vad",
    source="VAD 1688c4b, metric_stp3",
    samples="complete",
    missing_future="hold",
    ground_truth="lidar_origin",
    tables=(_CUMULATIVE,),
    obstacles=ObstacleRule(
        _DETECTION_VEHICLES + _DETECTION_PEDESTRIANS,
        presence="unbroken",
        motion="summed_float32",
        min_points=1,
        half_range_m=(15.0, 30.0),
    ),
    raster=_VAD_RASTER,
    footprint=_FIXED,
    point="waypoint_cell_halved_start",
    gt_collision="clear_flag",
    touching_collides=True,
    known_defects=(
        "the point collision looks 25 m ahead and 25 m to the left of the waypoint",
        f"{_HALF_CELL}: the car is tested 0.5 m to the left",
        _NO_HEADING,
        _SQUASHED,
        _VAD_UNSEEN,
    ),
)

AGENT_DRIVER_STP3 = replace(
    VAD,
    name="agent-driver-stp3",
    source="Agent-Driver 3ea566e, metric_stp3 on VAD's occupancy, flipped on both axes",
    samples="all",
    missing_future="zero",
    raster=replace(_VAD_RASTER, flip_rows=True, flip_cols=True),
    point="waypoint_cell",
    ground_truth="pseudo_box_bottom",
    known_defects=(
        "called ST-P3 but uses VAD's obstacles and every keyframe",
        _DILUTED,
        _NO_HEADING,
        _SQUASHED,
        _VAD_UNSEEN,
    ),
)

OPENDRIVEVLA_ALL = replace(
    AGENT_DRIVER_STP3,
    name="opendrivevla-all",
    source="OpenDriveVLA 10e8095, eval_share with only_vehicle=False (as GPT-Driver)",
    tables=(_AT_HORIZON, _CUMULATIVE),
)

STP3 = PlanningProtocol(
    name="stp3",
    source="ST-P3 6b11e13, PlanningMetric",
    samples="complete_with_2_past",
    missing_future="skip_step",
    ground_truth="lidar_origin",
    tables=(_CUMULATIVE,),
    obstacles=ObstacleRule(_VEHICLES_AND_HUMANS, presence="registered"),
    raster=RasterRule(
        frame="own_ego",
        rows="forward",
        cols="left",
        cell_m=0.5,
        n_cells=200,
        rounding="half_even",
        corner_dtype="float64",
        index_dtype="float64",
    ),
    footprint=_FIXED,
    point="waypoint_cell",
    gt_collision="clear_flag",
    touching_collides=True,
    known_defects=(
        "waypoints of the LIDAR are tested on a grid about the rear axle: about 1 m too far back",
        "the warp to t0 shifts by the forward motion with its sideways sign turned, not by the "
        "inverse motion; the two agree on circular arcs only",
        f"{_HALF_CELL}: the car is tested 0.5 m too far back and 0.5 m to the right",
        _NO_HEADING,
        _SQUASHED,
        "objects first seen in the future do not exist",
    ),
)

SPARSEDRIVE = PlanningProtocol(
    name="sparsedrive",
    source="SparseDrive ec0225d, planning_eval",
    samples="complete",
    missing_future="hold",
    ground_truth="lidar_origin",
    tables=(_CUMULATIVE,),
    obstacles=ObstacleRule(("*",), min_points=1),
    raster=None,
    footprint=FootprintRule(forward_m=0.5, heading="central"),
    point="recorded_collides",
    gt_collision="clear_flag",
    touching_collides=True,
    known_defects=(
        "obj_col is the collision of the recorded drive, not of the prediction",
        "barriers and cones are obstacles, so recorded drives collide more often",
        "a car that moves less than 0.5 m between the first and last waypoint points straight "
        "ahead, wherever it has turned",
        "where the waypoints before and after coincide, the car points to the right",
    ),
)

_FINE_FOOTPRINT = FootprintRule(
    forward_m=0.5 + _LIDAR_OF_BOSTON_CARS_M, heading="last_displacement"
)

BEV_PLANNER = PlanningProtocol(
    name="bev-planner",
    source="BEV-Planner 01c28d6, metric_stp3 with ignore_gt=False",
    samples="complete",
    missing_future="hold",
    ground_truth="lidar_origin",
    tables=(_ANY_UP_TO,),
    obstacles=ObstacleRule(_DETECTION_VEHICLES),
    raster=RasterRule(
        frame="ego",
        rows="left",
        cols="forward",
        cell_m=0.1,
        n_cells=1000,
        rounding="truncate",
        corner_dtype="float32",
        index_dtype="float32",
    ),
    footprint=_FINE_FOOTPRINT,
    point="waypoint_cell",
    gt_collision="clear_flag",
    touching_collides=True,
    map_metric="curb",
    known_defects=(
        "the Boston cars' lidar offset of 0.985793 m is used for every car",
        "the car points straight ahead at steps shorter than 1 m",
        "boundary lines beyond the grid pile up on its border",
        "emergency vehicles and all pedestrians are no obstacles",
    ),
)

OMNIDRIVE = replace(
    BEV_PLANNER,
    name="omnidrive",
    source="OmniDrive 807c86a, eval_planning",
    obstacles=ObstacleRule(("vehicle.*",), presence="unbroken"),
    raster=RasterRule(
        frame="ego",
        rows="left",
        cols="forward",
        cell_m=0.1,
        n_cells=1000,
        rounding="half_even",
        corner_dtype="float64",
        index_dtype="float64",
    ),
    map_metric="off_drivable",
    known_defects=(
        "the Boston cars' lidar offset of 0.985793 m is used for every car",
        "the car points straight ahead at steps shorter than 1 m",
        "off the drivable area: the footprint's offset is not turned with the car",
        "objects first seen in the future and all pedestrians do not exist",
    ),
)

EXACT = PlanningProtocol(
    name="exact",
    source="odvla_bench: oriented boxes against oriented boxes, only steps that exist",
    samples="any_future",
    missing_future="skip_step",
    ground_truth="lidar_origin",
    tables=(_AT_HORIZON, _ANY_UP_TO),
    obstacles=ObstacleRule(_VEHICLES_AND_HUMANS),
    raster=None,
    footprint=FootprintRule(forward_m=0.5, heading="central_held"),
    point="none",
    gt_collision="skip_step",
    touching_collides=False,
)
