"""The thirteen tables of a nuScenes tree, streamed to disk scene by scene.

The text is laid out as the real tables are: an array of objects, one field or number a line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np

from odvla_bench.datasets.nuscenes.synthetic.catalogue import (
    ATTRIBUTES,
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
from odvla_bench.datasets.nuscenes.synthetic.rows import (
    ANNOTATION,
    ATTRIBUTE,
    CALIBRATED,
    EGO_POSE,
    INSTANCE,
    LIDARSEG_CATEGORY,
    LOG,
    MAP,
    SAMPLE,
    SAMPLE_DATA,
    SCENE,
    SENSOR,
    VISIBILITY,
    array,
)
from odvla_bench.datasets.nuscenes.synthetic.sensors import (
    FILE_ENDING,
    REAL_IMAGE_SIZE,
    data_filename,
    intrinsic,
    sensor_rotation_wxyz,
    sensor_times_us,
    sensor_token,
    sensor_translation_m,
)
from odvla_bench.datasets.nuscenes.synthetic.tokens import TokenSource, fixed_token
from odvla_bench.datasets.nuscenes.synthetic.town import LOCATIONS

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


def map_filename(location: str) -> str:
    """The path of a location's mask in the tree."""
    return f"maps/{fixed_token('map', location)}.png"


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
        level_lidar: bool = False,
    ) -> None:
        """Open the tables.

        Args:
            root: the tree's folder.
            version: the tables' folder in it.
            seed: of tokens and sensor jitter.
            sweeps: write the sensor messages between keyframes too.
            lidarseg: write the 32 categories of nuScenes-lidarseg with their index.
            image_size: width and height of the cameras' pictures, pixels.
            level_lidar: mount LIDAR_TOP without tilt, for results worked out by hand.
        """
        folder = root / version
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, TextIO] = {
            name: (folder / f"{name}.json").open("w", encoding="utf-8") for name in TABLES
        }
        self.rows = dict.fromkeys(TABLES, 0)
        self._seed, self._sweeps, self._image_size = seed, sweeps, image_size
        self._level_lidar = level_lidar
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
        self._add("scene", SCENE, [(scene_token, log_token, len(samples), *ends)])
        if not with_samples:
            return
        links = zip(["", *samples[:-1]], [*samples[1:], ""], strict=True)
        times = scene.keyframe_us.tolist()
        rows = zip(samples, times, links, strict=True)
        self._add("sample", SAMPLE, ((s, t, *link, scene_token) for s, t, link in rows))
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
                LIDARSEG_CATEGORY,
                [(fixed_token("category", n), n, d, i) for i, (n, d) in enumerate(rows)],
            )
        else:
            named = [(fixed_token("category", n), n, d) for n, d in described.items()]
            self._add("category", ATTRIBUTE, named)
        self._add(
            "attribute",
            ATTRIBUTE,
            [(fixed_token("attribute", n), n, d) for n, d in ATTRIBUTES.items()],
        )
        self._add("sensor", SENSOR, [(sensor_token(s), s.channel, s.modality) for s in SENSORS])
        levels = VISIBILITY_LEVELS.items()
        shown = [(f"{level[1:].replace('-', ' to ')} % in view", n, level) for n, level in levels]
        self._add("visibility", VISIBILITY, shown)

    def _write_logs(self) -> None:
        logs = [(fixed_token("log", log.logfile), log) for log in self._logs.values()]
        fields = [(t, g.logfile, g.vehicle, g.date_captured, g.location) for t, g in logs]
        self._add("log", LOG, fields)
        for location in LOCATIONS:
            here = [f'"{token}"' for token, log in logs if log.location == location]
            row = ("semantic_prior", fixed_token("map", location), map_filename(location))
            self._add("map", MAP, [(*row, array(here))])

    def _add_sensor_data(self, scene: SceneRecord, samples: list[str], tokens: TokenSource) -> None:
        calibrated = tokens.take("calibrated_sensor", len(SENSORS))
        for sensor, token in zip(SENSORS, calibrated, strict=True):
            self._add("calibrated_sensor", CALIBRATED, [self._mounting(sensor, scene, token)])
            clock = tokens.generator(f"clock {sensor.channel}")
            time_us, frame = sensor_times_us(sensor, scene.keyframe_us, clock, sweeps=self._sweeps)
            data = tokens.take(sensor.channel, len(time_us))
            self._add_messages(scene.log, sensor, token, data, time_us, frame, samples)
            poses = scene.ego_at(time_us)
            columns = np.hstack([poses.rotation_wxyz, poses.translation_m]).tolist()
            rows = zip(data, time_us.tolist(), columns, strict=True)
            self._add("ego_pose", EGO_POSE, ((name, us, *pose) for name, us, pose in rows))

    def _mounting(self, sensor: Sensor, scene: SceneRecord, token: str) -> tuple[object, ...]:
        """The row of a sensor's calibration."""
        matrix = "[]"
        if sensor.modality == "camera":
            lines = intrinsic(sensor, self._image_size)
            matrix = array(array(map(repr, line)) for line in lines)
        rotation = sensor_rotation_wxyz(sensor, scene.log, level_lidar=self._level_lidar)
        translation = sensor_translation_m(sensor, scene.log)
        return (token, sensor_token(sensor), *translation, *rotation, matrix)

    def _add_messages(
        self,
        log: Log,
        sensor: Sensor,
        calibrated_token: str,
        data: list[str],
        time_us: IntArray,
        frame: IntArray,
        samples: list[str],
    ) -> None:
        width, height = self._image_size if sensor.modality == "camera" else (0, 0)
        file_format = FILE_ENDING[sensor.modality][0]
        links = zip(["", *data[:-1]], [*data[1:], ""], strict=True)
        columns = zip(data, time_us.tolist(), frame.tolist(), links, strict=True)
        self._add(
            "sample_data",
            SAMPLE_DATA,
            (
                (token, samples[abs(i)], token, calibrated_token, us, file_format)
                + ("true" if i >= 0 else "false", height, width)
                + (data_filename(log, sensor, us, keyframe=i >= 0), *link)
                for token, us, i, link in columns
            ),
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
            map(_ATTRIBUTE_ARRAYS.__getitem__, boxes.attribute),
            strict=True,
        )
        points = zip(boxes.num_lidar_pts.tolist(), boxes.num_radar_pts.tolist(), strict=True)
        rows = zip(annotations, labels, place, previous, following, points, strict=True)
        self._add(
            "sample_annotation",
            ANNOTATION,
            ((a, *label, *where, p, n, *count) for a, label, where, p, n, count in rows),
        )
        first, last = (
            np.searchsorted(track, np.arange(len(instances)), side).tolist()
            for side in ("left", "right")
        )
        self._add(
            "instance",
            INSTANCE,
            (
                (
                    token,
                    fixed_token("category", name),
                    stop - start,
                    annotations[order[start]],
                    annotations[order[stop - 1]],
                )
                for token, name, start, stop in zip(
                    instances, boxes.category, first, last, strict=True
                )
            ),
        )


def _links(tokens: list[str], order: list[int], track: IntArray) -> tuple[list[str], list[str]]:
    """`prev` and `next` of each annotation: its track's neighbours, in time order."""
    previous, following = [""] * len(tokens), [""] * len(tokens)
    same = (track[1:] == track[:-1]).tolist()
    for a, b, joined in zip(order[:-1], order[1:], same, strict=True):
        if joined:
            following[a], previous[b] = tokens[b], tokens[a]
    return previous, following


_ATTRIBUTE_ARRAYS = {"": "[]"} | {
    name: array([f'"{fixed_token("attribute", name)}"']) for name in ATTRIBUTES
}
