"""Annotated agents that rows are made for: by token, by filter, and where they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Settings
from odvla_bench.datasets.nuscenes.tables import numpy_columns, poses
from odvla_bench.errors import InputError
from odvla_bench.geometry import FloatArray, compose, invert, transform_points

_TOKEN = re.compile(r"[0-9a-f]{32}")
_MIN_VISIBILITY = 2


def passes_filter(annotations: pa.Table, settings: Settings) -> npt.NDArray[np.bool_]:
    """Which annotations the filter of the settings lets through.

    Args:
        annotations: rows of `NuScenesTables.annotations`.
        settings: name the filter and, for "matched", its file.

    Raises:
        InputError: the filter needs a file that is not given or not a list of tokens.
    """
    name = settings.object_filter
    if name == "lidar-points":
        mask = pc.greater(annotations["n_lidar_points"], 0)
    elif name == "visible":
        mask = pc.greater_equal(annotations["visibility"], _MIN_VISIBILITY)
    elif name == "matched":
        mask = pc.is_in(annotations["token"], pa.array(_matched(settings.matched_file)))
    else:
        return np.ones(annotations.num_rows, bool)
    return np.asarray(mask.to_numpy(zero_copy_only=False), bool)


def _matched(path: Path | None) -> list[str]:
    if path is None:
        raise InputError(
            "The object filter 'matched' needs the list of matched boxes. Name it with "
            "--matched-file: a text file, one sample_annotation token a line."
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    tokens = []
    with path.open(encoding="utf-8", errors="replace") as f:
        for number, line in enumerate(f, 1):
            token = line.strip()
            if token and not _TOKEN.fullmatch(token):
                raise InputError(
                    f"{path}:{number}: {token[:40]!r} is no nuScenes token. Write one "
                    "sample_annotation token a line, 32 hexadecimal digits."
                )
            tokens.append(token)
    return [t for t in tokens if t]


class Places(NamedTuple):
    """Where M box centres are at the time of their keyframes."""

    lidar_m: FloatArray
    """(M, 3) LIDAR frame at t0: right, forward, up, metres."""
    ego_m: FloatArray
    """(M, 3) EGO frame at t0: forward, left, up, metres."""


def places_of(context: Context, annotations: pa.Table) -> Places:
    """Where the boxes of some annotations are, seen from the car."""
    samples = context.nuscenes.samples
    numbers = [n for n in samples.schema.names if n.startswith(("ego_", "lidar_"))]
    samples = samples.select(numbers).take(annotations["sample_id"])
    global_from_ego = poses(samples, "ego_")
    global_from_lidar = compose(global_from_ego, poses(samples, "lidar_"))
    centre = numpy_columns(annotations, "x_m", "y_m", "z_m")
    return Places(
        transform_points(invert(global_from_lidar), centre),
        transform_points(invert(global_from_ego), centre),
    )


def object_columns(context: Context, annotations: pa.Table) -> dict[str, Any]:
    """The columns that name the agents of some annotations."""
    instances = context.nuscenes.instances.take(annotations["instance_id"])
    return {
        "instance_id": annotations["instance_id"],
        "instance_token": instances["token"],
        "annotation_token": annotations["token"],
        "category": instances["category"],
    }
