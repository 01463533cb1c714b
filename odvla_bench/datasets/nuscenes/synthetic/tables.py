"""The thirteen tables of a nuScenes tree, streamed to disk scene by scene.

The text is laid out as the real tables are: an array of objects, one field or number a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import starmap
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.catalogue import (
    ATTRIBUTES,
    BOSTON_LIDAR_X_M,
    CATEGORIES,
    LIDARSEG_INDEX,
    SENSORS,
    VISIBILITY_LEVELS,
    Sensor,
)
from odvla_bench.datasets.nuscenes.synthetic.records import (
    Boxes,
    IntArray,
    Log,
    SceneRecord,
    quaternion_wxyz,
)
from odvla_bench.datasets.nuscenes.synthetic.town import LOCATIONS
from odvla_bench.provenance import digest_text

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
REAL_IMAGE_SIZE = (1600, 900)


def _row(**fields: str) -> str:
    """A %-template of one row from the templates of its fields."""
    return "{\n" + ",\n".join(f'"{name}": {value}' for name, value in fields.items()) + "\n}"


def _array(items: Iterable[str]) -> str:
    inner = ",\n".join(items)
    return f"[\n{inner}\n]" if inner else "[]"


_TEXT, _INT = '"%s"', "%d"
_XYZ, _WXYZ = _array(["%r"] * 3), _array(["%r"] * 4)
_SCENE = _row(
    token=_TEXT,
    log_token=_TEXT,
    nbr_samples=_INT,
    first_sample_token=_TEXT,
    last_sample_token=_TEXT,
    name=_TEXT,
    description=_TEXT,
)
_SAMPLE = _row(token=_TEXT, timestamp=_INT, prev=_TEXT, next=_TEXT, scene_token=_TEXT)
_SAMPLE_DATA = _row(
    token=_TEXT,
    sample_token=_TEXT,
    ego_pose_token=_TEXT,
    calibrated_sensor_token=_TEXT,
    timestamp=_INT,
    fileformat=_TEXT,
    is_key_frame="%s",
    height=_INT,
    width=_INT,
    filename=_TEXT,
    prev=_TEXT,
    next=_TEXT,
)
_EGO_POSE = _row(token=_TEXT, timestamp=_INT, rotation=_WXYZ, translation=_XYZ)
_CALIBRATED = _row(
    token=_TEXT, sensor_token=_TEXT, translation=_XYZ, rotation=_WXYZ, camera_intrinsic="%s"
)
_ANNOTATION = _row(
    token=_TEXT,
    sample_token=_TEXT,
    instance_token=_TEXT,
    visibility_token=_TEXT,
    attribute_tokens="%s",
    translation=_XYZ,
    size=_XYZ,
    rotation=_WXYZ,
    prev=_TEXT,
    next=_TEXT,
    num_lidar_pts=_INT,
    num_radar_pts=_INT,
)
_INSTANCE = _row(
    token=_TEXT,
    category_token=_TEXT,
    nbr_annotations=_INT,
    first_annotation_token=_TEXT,
    last_annotation_token=_TEXT,
)
_LOG = _row(token=_TEXT, logfile=_TEXT, vehicle=_TEXT, date_captured=_TEXT, location=_TEXT)
_MAP = _row(category=_TEXT, token=_TEXT, filename=_TEXT, log_tokens="%s")
_SENSOR = _row(token=_TEXT, channel=_TEXT, modality=_TEXT)
_ATTRIBUTE = _row(token=_TEXT, name=_TEXT, description=_TEXT)
_LIDARSEG_CATEGORY = _row(token=_TEXT, name=_TEXT, description=_TEXT, index=_INT)
_VISIBILITY = _row(description=_TEXT, token=_TEXT, level=_TEXT)

_FILE_ENDING = {"camera": ("jpg", "jpg"), "lidar": ("pcd", "pcd.bin"), "radar": ("pcd", "pcd")}


def fixed_token(table: str, name: str) -> str:
    """The token of a row that every tree has alike, such as a category's: 32 hex characters."""
    return digest_text("nuscenes-synthetic", table, name)


def map_filename(location: str) -> str:
    """The path of a location's mask in the tree."""
    return f"maps/{fixed_token('map', location)}.png"


def sensor_times_us(
    sensor: Sensor, keyframe_us: IntArray, rng: np.random.Generator, *, sweeps: bool
) -> tuple[IntArray, IntArray]:
    """When a sensor measures in a scene.

    Args:
        sensor: the channel.
        keyframe_us: (K,) keyframe times, microseconds.
        rng: decides the jitter.
        sweeps: also the messages between keyframes.

    Returns:
        (N,) times, ascending, microseconds, and (N,) keyframe indices: i for keyframe i's own
        message, and -i for a sweep before keyframe i, the one it is filed under.
    """
    frames = len(keyframe_us)
    per = np.resize(sensor.per_keyframe, frames - 1) if sweeps else np.ones(frames - 1, np.int64)
    per = np.append(per, 1)
    frame = np.repeat(np.arange(frames), per)
    step = np.arange(len(frame)) - np.repeat(np.cumsum(per) - per, per)
    gap_us = np.append(np.diff(keyframe_us), 0)
    time = keyframe_us[frame] + gap_us[frame] * step // per[frame] + sensor.lag_us
    if sensor.modality != "lidar":  # keyframes first: their times are the same without sweeps
        time[step == 0] += rng.integers(-700, 700, frames)
        time[step > 0] += rng.integers(-700, 700, len(frame) - frames)
    return time, np.where(step == 0, frame, -(frame + 1))


class TreeWriter:
    """Writes `root/version/*.json` a scene at a time; a context manager that closes the arrays."""

    def __init__(
        self,
        root: Path,
        version: str,
        *,
        seed: int,
        sweeps: bool,
        lidarseg: bool = False,
        image_size: tuple[int, int] = REAL_IMAGE_SIZE,
    ) -> None:
        """Open the tables.

        Args:
            root: the tree's folder.
            version: the tables' folder in it.
            seed: of tokens and sensor jitter.
            sweeps: write the sensor messages between keyframes too.
            lidarseg: write the 32 categories of nuScenes-lidarseg with their index.
            image_size: width and height of the cameras' pictures, pixels.
        """
        folder = root / version
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, TextIO] = {
            name: (folder / f"{name}.json").open("w", encoding="utf-8") for name in TABLES
        }
        self.rows = dict.fromkeys(TABLES, 0)
        self._seed, self._sweeps, self._image_size = seed, sweeps, image_size
        self._logs: dict[str, Log] = {}
        self._write_fixed(lidarseg=lidarseg)

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._write_logs()
        for name, file in self._files.items():
            file.write("\n]" if self.rows[name] else "[]")
            file.close()

    def add_scene(self, scene: SceneRecord, *, with_samples: bool = True) -> None:
        """Write a scene's rows, or only its row of `scene`, as in a partial copy of the data."""
        tokens = TokenSource(self._seed, scene.name)
        self._logs[scene.log.logfile] = scene.log
        scene_token, *samples = tokens.take("sample", 1 + len(scene.keyframe_us))
        log_token = fixed_token("log", scene.log.logfile)
        ends = (samples[0], samples[-1], scene.name, scene.description)
        self._add("scene", _SCENE, [(scene_token, log_token, len(samples), *ends)])
        if not with_samples:
            return
        links = zip(["", *samples[:-1]], [*samples[1:], ""], strict=True)
        times = scene.keyframe_us.tolist()
        rows = zip(samples, times, links, strict=True)
        self._add("sample", _SAMPLE, ((s, t, *link, scene_token) for s, t, link in rows))
        self._add_sensor_data(scene, samples, tokens)
        if scene.boxes is not None:
            self._add_boxes(scene.boxes, samples, tokens)

    def _add(self, table: str, template: str, rows: Iterable[tuple[object, ...]]) -> None:
        text = [template % row for row in rows]
        if text:
            self._files[table].write(",\n" if self.rows[table] else "[\n")
            self._files[table].write(",\n".join(text))
            self.rows[table] += len(text)

    def _write_fixed(self, *, lidarseg: bool) -> None:
        described = {c.name: c.description for c in CATEGORIES}
        if lidarseg:
            rows = [
                (n, described.get(n, "A label of points, not of boxes.")) for n in LIDARSEG_INDEX
            ]
            self._add(
                "category",
                _LIDARSEG_CATEGORY,
                [(fixed_token("category", n), n, d, i) for i, (n, d) in enumerate(rows)],
            )
        else:
            named = [(fixed_token("category", n), n, d) for n, d in described.items()]
            self._add("category", _ATTRIBUTE, named)
        self._add(
            "attribute",
            _ATTRIBUTE,
            [(fixed_token("attribute", n), n, d) for n, d in ATTRIBUTES.items()],
        )
        self._add("sensor", _SENSOR, [(sensor_token(s), s.channel, s.modality) for s in SENSORS])
        levels = VISIBILITY_LEVELS.items()
        shown = [(f"{level[1:].replace('-', ' to ')} % in view", n, level) for n, level in levels]
        self._add("visibility", _VISIBILITY, shown)

    def _write_logs(self) -> None:
        logs = [(fixed_token("log", log.logfile), log) for log in self._logs.values()]
        fields = [(t, g.logfile, g.vehicle, g.date_captured, g.location) for t, g in logs]
        self._add("log", _LOG, fields)
        for location in LOCATIONS:
            here = [f'"{token}"' for token, log in logs if log.location == location]
            row = ("semantic_prior", fixed_token("map", location), map_filename(location))
            self._add("map", _MAP, [(*row, _array(here))])

    def _add_sensor_data(self, scene: SceneRecord, samples: list[str], tokens: TokenSource) -> None:
        calibrated = tokens.take("calibrated_sensor", len(SENSORS))
        for sensor, calibrated_token in zip(SENSORS, calibrated, strict=True):
            mounting = _mounting(sensor, scene.log, self._image_size)
            self._add("calibrated_sensor", _CALIBRATED, [(calibrated_token, *mounting)])
            rng = tokens.generator(f"clock {sensor.channel}")
            time_us, frame = sensor_times_us(sensor, scene.keyframe_us, rng, sweeps=self._sweeps)
            data = tokens.take(sensor.channel, len(time_us))
            size = self._image_size if sensor.modality == "camera" else (0, 0)
            rows = _data_rows(scene.log, sensor, time_us, frame, data)
            owned = ((samples[abs(f)], row) for f, row in zip(frame.tolist(), rows, strict=True))
            self._add(
                "sample_data",
                _SAMPLE_DATA,
                (
                    (token, sample, token, calibrated_token, *when, size[1], size[0], *rest)
                    for sample, (token, when, rest) in owned
                ),
            )
            poses = scene.ego_at(time_us)
            columns = np.hstack([poses.rotation_wxyz, poses.translation_m]).tolist()
            times = time_us.tolist()
            self._add(
                "ego_pose",
                _EGO_POSE,
                ((t, us, *p) for t, us, p in zip(data, times, columns, strict=True)),
            )

    def _add_boxes(self, boxes: Boxes, samples: list[str], tokens: TokenSource) -> None:
        annotations = tokens.take("sample_annotation", len(boxes.keyframe))
        instances = tokens.take("instance", len(boxes.category))
        order = np.lexsort([boxes.keyframe, boxes.track])
        track = boxes.track[order]
        previous, following = _links(annotations, order.tolist(), track)
        place = np.hstack(
            [boxes.center_m, boxes.size_m[boxes.track], quaternion_wxyz(boxes.yaw_rad)]
        ).tolist()
        labels = zip(
            (samples[k] for k in boxes.keyframe.tolist()),
            (instances[t] for t in boxes.track.tolist()),
            (v or "" for v in boxes.visibility.tolist()),
            map(_attribute_array, boxes.attribute),
            strict=True,
        )
        points = zip(boxes.num_lidar_pts.tolist(), boxes.num_radar_pts.tolist(), strict=True)
        rows = zip(annotations, labels, place, previous, following, points, strict=True)
        self._add(
            "sample_annotation",
            _ANNOTATION,
            ((a, *label, *where, p, n, *count) for a, label, where, p, n, count in rows),
        )
        first = np.searchsorted(track, np.arange(len(instances)))
        last = np.searchsorted(track, np.arange(len(instances)), side="right") - 1
        self._add(
            "instance",
            _INSTANCE,
            (
                (
                    token,
                    fixed_token("category", name),
                    j - i + 1,
                    annotations[order[i]],
                    annotations[order[j]],
                )
                for token, name, i, j in zip(instances, boxes.category, first, last, strict=True)
            ),
        )


class TokenSource:
    """Random tokens and generators of one scene, each purpose with a stream of its own."""

    def __init__(self, seed: int, scene: str) -> None:
        """Fix the seed; streams of other scenes and purposes are independent."""
        self._seed, self._scene = seed, scene

    def generator(self, purpose: str) -> np.random.Generator:
        """The stream of a purpose, from its start."""
        key = int(digest_text(str(self._seed), self._scene, purpose), 16)
        return np.random.default_rng(key)

    def take(self, purpose: str, count: int) -> list[str]:
        """The first `count` tokens of a purpose, 32 hex characters each."""
        text = self.generator(f"token {purpose}").bytes(16 * count).hex()
        return [text[i : i + 32] for i in range(0, 32 * count, 32)]


def sensor_token(sensor: Sensor) -> str:
    """The token of a sensor's row."""
    return fixed_token("sensor", sensor.channel)


def data_filename(log: Log, sensor: Sensor, time_us: int, *, keyframe: bool) -> str:
    """The path of a message's file in the tree."""
    folder = "samples" if keyframe else "sweeps"
    ending = _FILE_ENDING[sensor.modality][1]
    return f"{folder}/{sensor.channel}/{log.logfile}__{sensor.channel}__{time_us}.{ending}"


def intrinsic(sensor: Sensor, image_size: tuple[int, int]) -> list[list[float]]:
    """A camera's 3 x 3 matrix, pixels."""
    scale = image_size[0] / REAL_IMAGE_SIZE[0]
    focal = sensor.focal_px * scale
    return [[focal, 0.0, 812.6 * scale], [0.0, focal, 491.4 * scale], [0.0, 0.0, 1.0]]


def sensor_rotation_wxyz(sensor: Sensor, log: Log) -> list[float]:
    """EGO from sensor as a quaternion; cameras look along their z with x right and y down."""
    if sensor.modality == "lidar":
        tilt = (0.019, 0.006) if log.vehicle == "n015" else (-0.004, 0.012)
        return quaternion_wxyz(np.asarray(sensor.yaw_rad), *tilt).tolist()
    if sensor.modality == "radar":
        return quaternion_wxyz(np.asarray(sensor.yaw_rad)).tolist()
    c, s = np.cos(sensor.yaw_rad / 2), np.sin(sensor.yaw_rad / 2)
    return (np.array([c + s, -c - s, c - s, s - c]) / 2).tolist()


def sensor_translation_m(sensor: Sensor, log: Log) -> tuple[float, float, float]:
    """The sensor's position in EGO, metres."""
    x, y, z = sensor.translation_m
    boston = sensor.modality == "lidar" and log.vehicle == "n008"
    return (BOSTON_LIDAR_X_M if boston else x), y, z


def _mounting(sensor: Sensor, log: Log, image_size: tuple[int, int]) -> tuple[object, ...]:
    matrix = "[]"
    if sensor.modality == "camera":
        matrix = _array(_array(map(repr, line)) for line in intrinsic(sensor, image_size))
    pose = (*sensor_translation_m(sensor, log), *sensor_rotation_wxyz(sensor, log))
    return (sensor_token(sensor), *pose, matrix)


_DataRow = tuple[str, tuple[int, str, str], tuple[str, str, str]]


def _data_rows(
    log: Log, sensor: Sensor, time_us: IntArray, frame: IntArray, tokens: list[str]
) -> Iterator[_DataRow]:
    """Token, (time, format, keyframe flag) and (file, prev, next) of a channel's messages."""
    kind = _FILE_ENDING[sensor.modality][0]
    columns = (
        tokens,
        time_us.tolist(),
        (frame >= 0).tolist(),
        ["", *tokens[:-1]],
        [*tokens[1:], ""],
    )

    def row(token: str, us: int, is_key: bool, before: str, after: str) -> _DataRow:  # noqa: FBT001
        name = data_filename(log, sensor, us, keyframe=is_key)
        return token, (us, kind, "true" if is_key else "false"), (name, before, after)

    return starmap(row, zip(*columns, strict=True))


def _links(tokens: list[str], order: list[int], track: IntArray) -> tuple[list[str], list[str]]:
    """`prev` and `next` of each annotation: its track's neighbours, in time order."""
    previous, following = [""] * len(tokens), [""] * len(tokens)
    same = (track[1:] == track[:-1]).tolist()
    for a, b, joined in zip(order[:-1], order[1:], same, strict=True):
        if joined:
            following[a], previous[b] = tokens[b], tokens[a]
    return previous, following


def _attribute_array(name: str) -> str:
    return _ATTRIBUTE_ARRAYS[name]


_ATTRIBUTE_ARRAYS = {"": "[]"} | {
    name: _array([f'"{fixed_token("attribute", name)}"']) for name in ATTRIBUTES
}
