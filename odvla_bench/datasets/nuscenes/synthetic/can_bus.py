"""CAN bus messages of a scene, consistent with how its ego car moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.records import (
    IntArray,
    SceneRecord,
    quaternion_wxyz,
)
from odvla_bench.datasets.nuscenes.synthetic.tokens import TokenSource
from odvla_bench.geometry import FloatArray, rotation_from_quaternion, yaw_of

# The scenes whose CAN bus data the real expansion lacks.
SCENES_WITHOUT_CAN = frozenset({*range(161, 169), *range(170, 177), *range(309, 315)})
SCENES_WITHOUT_MONITOR = frozenset({419})

_WHEELBASE_M = 2.588
_STEERING_RATIO = 16.0
_WHEEL_TURN_M = 1.905
_GRAVITY_MPS2 = 9.81
_GRID_S = 0.01
_SMOOTHING = 21


class _Motion(NamedTuple):
    """The car at N message times."""

    time_us: IntArray
    position_m: FloatArray
    """(N, 3) GLOBAL."""
    yaw_rad: FloatArray
    speed_mps: FloatArray
    accel_mps2: FloatArray
    """Along the car."""
    yaw_rate_radps: FloatArray
    wheel_rad: FloatArray
    """Steering wheel angle, positive to the left."""
    wheel_radps: FloatArray
    noise: FloatArray
    """(N, 4) standard normal."""


def write_can_bus(
    folder: Path, scene: SceneRecord, messages: tuple[str, ...], seed: int, *, rate: float = 1.0
) -> None:
    """Write `scene-XXXX_<message>.json` for each kind of message; none for scenes known to lack it.

    Args:
        folder: the tree's can_bus folder; made if absent.
        scene: gives the name, the times and the motion.
        messages: of `CAN_MESSAGES`.
        seed: of the measurement noise.
        rate: share of the real rates; vehicle_monitor keeps its 2 Hz.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = int(scene.name[-4:])
    if number in SCENES_WITHOUT_CAN:
        return
    grid = _grid(scene)
    for message in messages:
        if message == "vehicle_monitor" and number in SCENES_WITHOUT_MONITOR:
            continue
        hertz, template, columns = _MESSAGES[message]
        share = 1.0 if message == "vehicle_monitor" else rate
        rng = TokenSource(seed, scene.name).generator(f"can {message}")
        motion = _at(grid, _times_us(scene.keyframe_us, hertz * share, rng), rng)
        rows = zip(
            *(c if isinstance(c, list) else c.tolist() for c in columns(motion)), strict=True
        )
        text = ", ".join([template % row for row in rows])
        (folder / f"{scene.name}_{message}.json").write_text(f"[{text}]", encoding="utf-8")


def _grid(scene: SceneRecord) -> _Motion:
    """The motion every 10 ms, from half a second before the first keyframe to after the last."""
    first, last = int(scene.keyframe_us[0]), int(scene.keyframe_us[-1])
    time_us = np.arange(first - 500_000, last + 500_000, int(_GRID_S * 1e6))
    poses = scene.ego_at(time_us)
    yaw = np.unwrap(yaw_of(rotation_from_quaternion(poses.rotation_wxyz)))
    velocity = np.gradient(poses.translation_m[:, :2], _GRID_S, axis=0)
    speed = _smooth(velocity[:, 0] * np.cos(yaw) + velocity[:, 1] * np.sin(yaw))
    yaw_rate = _smooth(np.gradient(yaw, _GRID_S))
    curvature = np.where(speed > 0.5, yaw_rate / np.maximum(speed, 0.5), 0.0)
    wheel = _smooth(np.arctan(_WHEELBASE_M * curvature) * _STEERING_RATIO)
    accel = _smooth(np.gradient(speed, _GRID_S))
    noise = np.zeros((len(yaw), 4))
    turning = np.gradient(wheel, _GRID_S)
    return _Motion(time_us, poses.translation_m, yaw, speed, accel, yaw_rate, wheel, turning, noise)


def _smooth(values: FloatArray) -> FloatArray:
    """A running mean, without change of length."""
    sums = np.cumsum(np.pad(values, (_SMOOTHING // 2 + 1, _SMOOTHING // 2), mode="edge"))
    return (sums[_SMOOTHING:] - sums[:-_SMOOTHING]) / _SMOOTHING


def _times_us(keyframe_us: IntArray, hertz: float, rng: np.random.Generator) -> IntArray:
    """Message times: the first comes after the first keyframe, as in the real data."""
    period_us = 1e6 / hertz
    first = keyframe_us[0] + int(rng.uniform(0.3, 0.95) * period_us)
    steps = np.arange(0, keyframe_us[-1] + 60_000 - first, period_us)
    return (first + steps + rng.uniform(-0.04, 0.04, len(steps)) * period_us).astype(np.int64)


def _at(grid: _Motion, time_us: IntArray, rng: np.random.Generator) -> _Motion:
    def at(column: FloatArray) -> FloatArray:
        return np.interp(time_us, grid.time_us, column)

    return _Motion(
        time_us=time_us,
        position_m=np.stack([at(column) for column in grid.position_m.T], -1),
        yaw_rad=at(grid.yaw_rad),
        speed_mps=at(grid.speed_mps),
        accel_mps2=at(grid.accel_mps2),
        yaw_rate_radps=at(grid.yaw_rate_radps),
        wheel_rad=at(grid.wheel_rad),
        wheel_radps=at(grid.wheel_radps),
        noise=rng.normal(0, 1, (len(time_us), 4)),
    )


_Columns = tuple[list[object] | FloatArray | IntArray, ...]


def _imu(m: _Motion) -> _Columns:
    """Acceleration (3), yaw quaternion's w and z, rotation rate (3), time."""
    n, orientation = m.noise, quaternion_wxyz(m.yaw_rad)
    return (
        m.accel_mps2 + 0.05 * n[:, 0],
        m.speed_mps * m.yaw_rate_radps + 0.05 * n[:, 1],
        _GRAVITY_MPS2 + 0.1 * n[:, 2],
        orientation[:, 0],
        orientation[:, 3],
        0.01 * n[:, 1],
        0.01 * n[:, 0],
        m.yaw_rate_radps + 0.002 * n[:, 3],
        m.time_us,
    )


def _pose(m: _Motion) -> _Columns:
    inertial = _imu(m)
    return (*inertial[:5], *m.position_m.T, *inertial[5:], m.speed_mps)


def _steering(m: _Motion) -> _Columns:
    return m.time_us, m.wheel_rad + 0.003 * m.noise[:, 0]


def _pedals(m: _Motion) -> tuple[IntArray, IntArray]:
    """Throttle 0 to 1000 and brake pressure 0 to 126 bar."""
    throttle = np.clip(110 * m.accel_mps2 + 4 * m.speed_mps, 0, 1000) * (m.accel_mps2 > 0.05)
    brake = np.clip(-7 * (m.accel_mps2 + 0.4), 0, 126) + 4 * (m.speed_mps < 0.1)
    return throttle.astype(np.int64), brake.astype(np.int64)


def _monitor(m: _Motion) -> _Columns:
    throttle, brake = _pedals(m)
    wheel_deg = np.round(np.degrees(m.wheel_rad), 1)
    rpm = m.speed_mps / _WHEEL_TURN_M * 60
    spread = np.tanh(m.wheel_rad / _STEERING_RATIO) * 0.25
    return (
        np.full(len(brake), 120),
        np.full(len(brake), 91),
        brake,
        1 + (brake > 0) + 2 * (brake > 5),
        np.full(len(brake), 7),
        (wheel_deg > 60).astype(np.int64),
        np.round(rpm * (1 - spread), 4),
        np.round(rpm * (1 + spread), 4),
        (wheel_deg < -60).astype(np.int64),
        wheel_deg,
        np.round(np.degrees(m.wheel_radps), 1),
        throttle,
        m.time_us,
        np.round(m.speed_mps * 3.6, 2),
        np.round(np.degrees(m.yaw_rate_radps), 1),
    )


def _sensors(m: _Motion) -> _Columns:
    throttle, brake = _pedals(m)
    steering = np.round(np.degrees(m.wheel_rad), 1)
    return np.round(0.375 + 0.036 * brake / 126, 4), steering, throttle, m.time_us


def _vehicle_info(m: _Motion) -> _Columns:
    throttle, _ = _pedals(m)
    rpm = m.speed_mps / _WHEEL_TURN_M * 60
    spread = np.tanh(m.wheel_rad / _STEERING_RATIO) * 0.25
    left, right = np.round(rpm * (1 - spread), 4), np.round(rpm * (1 + spread), 4)
    distance_m = np.cumsum(m.speed_mps * np.diff(m.time_us, append=m.time_us[-1:]) / 1e6)
    wheel_deg = np.round(np.degrees(m.wheel_rad), 1)
    torque = np.round((150 * m.accel_mps2 + 20) * 2) / 2
    still = np.zeros(len(left), np.int64)
    return (
        left,
        right,
        left,
        right,
        still,
        np.round(m.accel_mps2 * 20) / 20,
        torque,
        (100 * distance_m).astype(np.int64) % 125,
        np.round(m.speed_mps * 3.6, 2),
        throttle,
        still,
        torque,
        still,
        wheel_deg,
        np.full(len(left), -12.6),
        np.round(wheel_deg + 12.6, 1),
        np.round(m.speed_mps * m.yaw_rate_radps / _GRAVITY_MPS2 / 0.004) * 0.004,
        m.time_us,
    )


def _template(**fields: str) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"


_VECTOR = "[%r, %r, %r]"
_MESSAGES: dict[str, tuple[float, str, Callable[[_Motion], _Columns]]] = {
    "ms_imu": (
        100.0,
        _template(linear_accel=_VECTOR, q="[%r, 0.0, 0.0, %r]", rotation_rate=_VECTOR, utime="%d"),
        _imu,
    ),
    "pose": (
        50.0,
        _template(
            accel=_VECTOR,
            orientation="[%r, 0.0, 0.0, %r]",
            pos=_VECTOR,
            rotation_rate=_VECTOR,
            utime="%d",
            vel="[%r, 0.0, 0.0]",
        ),
        _pose,
    ),
    "steeranglefeedback": (100.0, _template(utime="%d", value="%r"), _steering),
    "vehicle_monitor": (
        2.0,
        _template(
            available_distance="%d",
            battery_level="%d",
            brake="%d",
            brake_switch="%d",
            gear_position="%d",
            left_signal="%d",
            rear_left_rpm="%r",
            rear_right_rpm="%r",
            right_signal="%d",
            steering="%r",
            steering_speed="%r",
            throttle="%d",
            utime="%d",
            vehicle_speed="%r",
            yaw_rate="%r",
        ),
        _monitor,
    ),
    "zoesensors": (
        800.0,
        _template(brake_sensor="%r", steering_sensor="%r", throttle_sensor="%d", utime="%d"),
        _sensors,
    ),
    "zoe_veh_info": (
        100.0,
        _template(
            FL_wheel_speed="%r",
            FR_wheel_speed="%r",
            RL_wheel_speed="%r",
            RR_wheel_speed="%r",
            left_solar="%d",
            longitudinal_accel="%r",
            meanEffTorque="%r",
            odom="%d",
            odom_speed="%r",
            pedal_cc="%d",
            regen="%d",
            requestedTorqueAfterProc="%r",
            right_solar="%d",
            steer_corrected="%r",
            steer_offset_can="%r",
            steer_raw="%r",
            transversal_accel="%r",
            utime="%d",
        ),
        _vehicle_info,
    ),
}
CAN_MESSAGES = tuple(_MESSAGES)
