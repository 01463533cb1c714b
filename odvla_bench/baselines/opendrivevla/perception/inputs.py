"""What the perception needs of a keyframe, as plain arrays; no torch here.

The numbers that the official code reads from its prepared files are computed from poses and
calibrations: `lidar2img`, the CAN-bus vector and the motion since the previous frame.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from odvla_bench.baselines.opendrivevla.perception.config import CAMERAS, Behaviour
from odvla_bench.errors import InputError
from odvla_bench.geometry import (
    Pose,
    compose,
    invert,
    pose_from_quaternion,
    rotation_from_quaternion,
    yaw_of,
)

Array = npt.NDArray[np.floating[Any]]

_SHAPES: dict[str, tuple[int, ...]] = {
    "intrinsics": (6, 3, 3),
    "camera_rotation_wxyz": (6, 4),
    "camera_translation_m": (6, 3),
    "camera_ego_rotation_wxyz": (6, 4),
    "camera_ego_translation_m": (6, 3),
    "lidar_rotation_wxyz": (4,),
    "lidar_translation_m": (3,),
    "ego_rotation_wxyz": (4,),
    "ego_translation_m": (3,),
    "can_bus": (18,),
}


@dataclass(frozen=True)
class Annotations:
    """The annotated agents of a keyframe."""

    boxes: Array
    """(n, 7) x, y, z of the centre, length, width, height, heading; LIDAR frame, metres, radians
    counter-clockwise from +x."""
    velocity_mps: Array
    """(n, 2) x, y, LIDAR frame; 0 where unknown."""
    labels: npt.NDArray[np.int64]
    """(n) index into `CLASSES`."""
    instance_ids: npt.NDArray[np.int64]
    """(n) the build's numbers of the agents' tracks."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        shapes = {"boxes": (count, 7), "velocity_mps": (count, 2), "instance_ids": (count,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(
                    f"Annotations: `{name}` has shape {getattr(self, name).shape}, but there are "
                    f"{count} labels; it must be {shape}."
                )


@dataclass(frozen=True)
class Keyframe:
    """One keyframe's images, calibration and poses; cameras in the order of `CAMERAS`."""

    sample_token: str
    timestamp_us: int
    image_paths: tuple[Path, ...]
    """Six files."""
    intrinsics: Array
    """(6, 3, 3) pixels."""
    camera_rotation_wxyz: Array
    """(6, 4) EGO from camera."""
    camera_translation_m: Array
    """(6, 3) camera in EGO."""
    camera_ego_rotation_wxyz: Array
    """(6, 4) GLOBAL from EGO when each image was taken."""
    camera_ego_translation_m: Array
    """(6, 3) EGO in GLOBAL when each image was taken."""
    lidar_rotation_wxyz: Array
    """(4,) EGO from LIDAR."""
    lidar_translation_m: Array
    """(3,) LIDAR in EGO."""
    ego_rotation_wxyz: Array
    """(4,) GLOBAL from EGO at the LiDAR sweep, with the sign that the data set stores."""
    ego_translation_m: Array
    """(3,) EGO in GLOBAL at the LiDAR sweep."""
    can_bus: Array
    """(18,) pose message: 7-9 acceleration (m/s²), 10-12 rotation rate (rad/s), 13-15 velocity
    (m/s); what stands in 0-6 and 16-17 is replaced by the ego pose. Zeros where there is none."""
    annotations: Annotations | None = None
    """Where given, agents are matched to them; the network does not see them."""

    def __post_init__(self) -> None:
        if len(self.image_paths) != len(CAMERAS):
            raise InputError(
                f"Keyframe {self.sample_token} has {len(self.image_paths)} images; give one for "
                f"each of {', '.join(CAMERAS)}."
            )
        for name, shape in _SHAPES.items():
            array = np.asarray(getattr(self, name), np.float64)
            if array.shape != shape or not np.isfinite(array).all():
                raise InputError(
                    f"Keyframe {self.sample_token}: `{name}` has shape {array.shape}"
                    f"{'' if np.isfinite(array).all() else ' and values that are not finite'}; "
                    f"it must be {shape} of finite numbers."
                )
            object.__setattr__(self, name, array)


@dataclass(frozen=True)
class Scene:
    """The keyframes of one scene in time order."""

    token: str
    keyframes: tuple[Keyframe, ...]

    def __post_init__(self) -> None:
        times = [k.timestamp_us for k in self.keyframes]
        if not times or any(a >= b for a, b in zip(times[:-1], times[1:], strict=True)):
            raise InputError(
                f"Scene {self.token} has {len(times)} keyframes that are not in strictly rising "
                "time order; sort them by timestamp and remove duplicates."
            )


@dataclass(frozen=True)
class FrameInputs:
    """What the network takes of a keyframe beside its images; all float64."""

    lidar2img: Array
    """(6, 4, 4) LIDAR frame to pixels times depth."""
    can_bus: Array
    """(18,) 0-2 motion since the previous frame (GLOBAL, metres), 3-6 orientation, 7-15 as in
    `Keyframe`, 16 heading (radians, 0…2 pi), 17 turn since the previous frame (degrees)."""
    rotation: Array
    """(3, 3) this LIDAR frame from the previous one."""
    translation_m: Array
    """(3,) the previous LIDAR origin in this LIDAR frame."""
    seconds: Array
    """() since the previous frame."""

    @staticmethod
    def stack(frames: list[FrameInputs]) -> FrameInputs:
        """The same of several scenes, with a leading axis."""
        names = [f.name for f in fields(FrameInputs)]
        return FrameInputs(*(np.stack([getattr(f, name) for f in frames]) for name in names))


def frame_inputs(
    keyframe: Keyframe,
    previous: Keyframe | None,
    behaviour: Behaviour,
    before: Keyframe | None = None,
) -> FrameInputs:
    """The inputs of a keyframe.

    Args:
        keyframe: the keyframe.
        previous: its predecessor in the scene; None for the first.
        behaviour: how the first keyframe's motion is taken.
        before: the last keyframe of the scene before in time order; only behaviours that let it
            leak into the first keyframe look at it.
    """
    reference = previous or keyframe
    motion = compose(invert(global_from_lidar(keyframe)), global_from_lidar(reference))
    leaks = previous is None and behaviour.first_delta_from_previous_scene
    return FrameInputs(
        lidar2img=lidar2img(keyframe),
        can_bus=can_bus_motion(keyframe, before if leaks else reference),
        rotation=motion.rotation,
        translation_m=motion.translation_m,
        seconds=np.asarray((keyframe.timestamp_us - reference.timestamp_us) / 1e6),
    )


def scene_inputs(
    scene: Scene, behaviour: Behaviour, before: Keyframe | None = None
) -> list[FrameInputs]:
    """The inputs of a scene's keyframes; arguments as in `frame_inputs`."""
    previous = (None, *scene.keyframes[:-1])
    return [
        frame_inputs(keyframe, last, behaviour, before)
        for keyframe, last in zip(scene.keyframes, previous, strict=True)
    ]


def can_bus_motion(keyframe: Keyframe, previous: Keyframe | None) -> Array:
    """(18,) CAN-bus vector of a keyframe with position and turn relative to `previous`.

    Without `previous` both are absolute, as the official code has them in its very first frame.
    """
    vector = keyframe.can_bus.copy()
    vector[:3] = keyframe.ego_translation_m
    vector[3:7] = keyframe.ego_rotation_wxyz
    yaw_deg = _yaw_deg(keyframe)
    vector[-2], vector[-1] = np.deg2rad(yaw_deg), yaw_deg
    if previous is not None:
        vector[:3] -= previous.ego_translation_m
        vector[-1] -= _yaw_deg(previous)
    return vector


def lidar2img(keyframe: Keyframe) -> Array:
    """(6, 4, 4) from the LIDAR frame to pixels times depth, through each image's own ego pose."""
    global_from_camera = compose(
        pose_from_quaternion(keyframe.camera_ego_rotation_wxyz, keyframe.camera_ego_translation_m),
        pose_from_quaternion(keyframe.camera_rotation_wxyz, keyframe.camera_translation_m),
    )
    camera_from_lidar = compose(invert(global_from_camera), global_from_lidar(keyframe))
    matrix = np.zeros((len(CAMERAS), 4, 4))
    matrix[:, :3, :3] = keyframe.intrinsics @ camera_from_lidar.rotation
    matrix[:, :3, 3] = np.einsum("nij,nj->ni", keyframe.intrinsics, camera_from_lidar.translation_m)
    matrix[:, 3, 3] = 1
    return matrix


def global_from_lidar(keyframe: Keyframe) -> Pose:
    """The LIDAR sensor's pose at its sweep."""
    return compose(
        pose_from_quaternion(keyframe.ego_rotation_wxyz, keyframe.ego_translation_m),
        pose_from_quaternion(keyframe.lidar_rotation_wxyz, keyframe.lidar_translation_m),
    )


def _yaw_deg(keyframe: Keyframe) -> float:
    """Heading in GLOBAL, 0…360 degrees."""
    yaw = np.rad2deg(yaw_of(rotation_from_quaternion(keyframe.ego_rotation_wxyz)))
    return float(yaw if yaw >= 0 else yaw + 360)
