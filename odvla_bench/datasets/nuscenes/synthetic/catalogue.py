"""The fixed vocabulary of a nuScenes tree: categories, attributes, sensors and their mounting."""

from __future__ import annotations

import math
from typing import NamedTuple


class Category(NamedTuple):
    """One annotated class."""

    name: str
    kind: str
    """How it moves and which attributes it has: "vehicle", "cycle", "human", else "object"."""
    weight: int
    """Instances among ten thousand; roughly the shares of trainval's annotations."""
    size_m: tuple[float, float, float]
    """Mean width, length, height."""
    description: str


CATEGORIES = (
    Category("human.pedestrian.adult", "human", 1784, (0.67, 0.73, 1.77), "A grown person."),
    Category("human.pedestrian.child", "human", 18, (0.51, 0.53, 1.38), "A child."),
    Category("human.pedestrian.wheelchair", "human", 4, (0.73, 1.05, 1.35), "A wheelchair."),
    Category("human.pedestrian.stroller", "human", 9, (0.60, 0.94, 1.16), "A pushchair."),
    Category(
        "human.pedestrian.personal_mobility",
        "human",
        4,
        (0.65, 1.10, 1.70),
        "A person on a small vehicle such as a scooter.",
    ),
    Category("human.pedestrian.police_officer", "human", 6, (0.70, 0.75, 1.81), "An officer."),
    Category("human.pedestrian.construction_worker", "human", 79, (0.70, 0.75, 1.73), "A worker."),
    Category("animal", "object", 7, (0.36, 0.71, 0.52), "An animal."),
    Category("vehicle.car", "vehicle", 4231, (1.95, 4.62, 1.73), "A car, van or jeep."),
    Category("vehicle.motorcycle", "cycle", 108, (0.77, 2.11, 1.47), "A motorcycle."),
    Category("vehicle.bicycle", "cycle", 102, (0.60, 1.70, 1.28), "A bicycle."),
    Category("vehicle.bus.bendy", "vehicle", 16, (2.93, 9.23, 3.50), "A part of a bendy bus."),
    Category("vehicle.bus.rigid", "vehicle", 125, (2.94, 11.20, 3.49), "A bus of one part."),
    Category("vehicle.truck", "vehicle", 759, (2.51, 6.93, 2.84), "A lorry or pick-up."),
    Category("vehicle.construction", "vehicle", 126, (2.73, 6.37, 3.19), "A building machine."),
    Category("vehicle.emergency.ambulance", "vehicle", 1, (2.30, 6.11, 2.60), "An ambulance."),
    Category("vehicle.emergency.police", "vehicle", 5, (1.99, 4.90, 1.80), "A police car."),
    Category("vehicle.trailer", "vehicle", 213, (2.90, 12.28, 3.87), "A trailer."),
    Category("movable_object.barrier", "object", 1303, (2.53, 0.50, 0.98), "A road barrier."),
    Category("movable_object.trafficcone", "object", 840, (0.41, 0.42, 1.07), "A traffic cone."),
    Category(
        "movable_object.pushable_pullable",
        "object",
        211,
        (0.56, 0.63, 1.03),
        "A thing to push or pull, such as a bin.",
    ),
    Category("movable_object.debris", "object", 26, (1.03, 1.20, 0.70), "A thing in the way."),
    Category("static_object.bicycle_rack", "object", 23, (3.00, 8.00, 1.40), "A bicycle rack."),
)

# nuScenes-lidarseg's names beyond the 23, with the place of all 32 in its index.
LIDARSEG_INDEX = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)

ATTRIBUTES = {
    "vehicle.moving": "It drives.",
    "vehicle.stopped": "It stands for a moment, its driver aboard.",
    "vehicle.parked": "It stands for long.",
    "cycle.with_rider": "Somebody rides it.",
    "cycle.without_rider": "Nobody is on it.",
    "pedestrian.sitting_lying_down": "The person sits or lies.",
    "pedestrian.standing": "The person stands.",
    "pedestrian.moving": "The person walks.",
}

VISIBILITY_LEVELS = {1: "v0-40", 2: "v40-60", 3: "v60-80", 4: "v80-100"}


class Sensor(NamedTuple):
    """One sensor channel, its mounting and its clock."""

    channel: str
    modality: str
    translation_m: tuple[float, float, float]
    """Position in EGO."""
    yaw_rad: float
    """Where it looks in EGO, counter-clockwise from straight ahead."""
    focal_px: float
    """Focal length at 1600 x 900; 0 if not a camera."""
    per_keyframe: tuple[int, int]
    """Messages from one keyframe to the next, alternately."""
    lag_us: int
    """Its keyframe's time less the LIDAR_TOP's."""


# Mounting after the real cars to a centimetre; rates: cameras 12 Hz, radars 13 Hz, lidar 20 Hz.
SENSORS = (
    Sensor("CAM_FRONT", "camera", (1.70, 0.02, 1.51), 0.0, 1266.0, (6, 6), -35_200),
    Sensor("CAM_BACK", "camera", (0.03, 0.0, 1.58), 3.141, 809.0, (6, 6), -10_100),
    Sensor("CAM_BACK_LEFT", "camera", (1.04, 0.48, 1.59), 1.902, 1257.0, (6, 6), -200),
    Sensor("CAM_FRONT_LEFT", "camera", (1.52, 0.49, 1.51), 0.960, 1273.0, (6, 6), -42_900),
    Sensor("CAM_FRONT_RIGHT", "camera", (1.55, -0.49, 1.50), -0.980, 1261.0, (6, 6), -27_200),
    Sensor("CAM_BACK_RIGHT", "camera", (1.01, -0.48, 1.56), -1.926, 1260.0, (6, 6), -19_600),
    Sensor("LIDAR_TOP", "lidar", (0.943713, 0.0, 1.84023), -math.pi / 2, 0.0, (10, 10), 0),
    Sensor("RADAR_FRONT", "radar", (3.412, 0.0, 0.5), 0.003, 0.0, (6, 7), 12_000),
    Sensor("RADAR_FRONT_RIGHT", "radar", (2.422, -0.8, 0.77), -1.588, 0.0, (7, 6), -9_000),
    Sensor("RADAR_FRONT_LEFT", "radar", (2.422, 0.8, 0.78), 1.542, 0.0, (6, 7), 4_000),
    Sensor("RADAR_BACK_LEFT", "radar", (-0.562, 0.628, 0.53), 3.044, 0.0, (7, 6), 17_000),
    Sensor("RADAR_BACK_RIGHT", "radar", (-0.562, -0.618, 0.53), -3.074, 0.0, (6, 7), -14_000),
)

BOSTON_LIDAR_X_M = 0.985793
"""LIDAR_TOP's x in EGO on the Boston car, n008; the Singapore car's is in `SENSORS`."""
