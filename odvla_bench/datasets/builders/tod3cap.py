"""TOD3Cap → stage 1: what each agent looks like, and where it is.

The position is that of the nuScenes box in the LIDAR frame. The file's own offsets are in another
frame (x forward, y left) and only checked against it; a row that is off by more than a metre is
flagged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    BadRecordError,
    TextRow,
    check_current,
    clause,
    convert,
    fields_of,
    sample_of,
    sentence,
    text_of,
    text_table,
)
from odvla_bench.datasets.builders.objects import object_columns, passes_filter, places_of
from odvla_bench.datasets.builders.requirements import UNSTATED, Requirement
from odvla_bench.datasets.nuscenes.tables import CAMERA_CHANNELS
from odvla_bench.datasets.prompts import DEFAULT
from odvla_bench.datasets.records import RawRecord
from odvla_bench.datasets.schema import ALIGNMENT
from odvla_bench.geometry import FloatArray

RECORDS_PER_SHARD = 65_536
MAX_RESIDUAL_M = 1.0
_FARTHEST_M = 1e6
_PART = "captions"
_NOTHING = ("", "none", "null", "nan", "n/a", "unknown")
_DETERMINER = re.compile(r"(?:an?|the|some|several|many|one|two|three|four|five)\b")
_ASPECTS = ("appearance", "motion", "environment", "relation")


class TOD3CapBuilder:
    """One row an annotated box that the file describes."""

    name = "tod3cap"
    tables = (ALIGNMENT.name,)
    requires = (
        Requirement(
            _PART,
            ("final_caption_bbox_token.json",),
            "Google Drive folder linked from github.com/jxbbb/TOD3Cap, or release v1.0 of "
            "github.com/Robot-K/Hint-AD",
            UNSTATED,
            "1.5 GB",
            ALIGNMENT.name,
            1_165_741,
        ),
    )

    def plan(self, context: Context) -> list[Unit]:
        """Stretches of `RECORDS_PER_SHARD` records."""
        n = len(context.records(self.name, _PART))
        starts = range(0, n, RECORDS_PER_SHARD)
        ends = [min(start + RECORDS_PER_SHARD, n) for start in starts]
        return [
            Unit(self.name, "", i, len(starts), stretch, _PART)
            for i, stretch in enumerate(zip(starts, ends, strict=True))
        ]

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """The captions of one stretch; of a key that comes twice, the last one."""
        file, describe = context.records(self.name, _PART), _Describer.of(context, self.name)
        first, last = unit.payload
        tables, drops = [], []
        for chunk in file.read(first, last):
            found, bad = convert(chunk, describe, ALIGNMENT)
            tables.append(_table(context, found))
            drops += bad
        table = pa.concat_tables([ALIGNMENT.schema.empty_table(), *tables])
        return UnitRows({ALIGNMENT.name: table}, {ALIGNMENT.name: last - first}, drops)


BUILDER = TOD3CapBuilder()


class _Described(NamedTuple):
    """What one record says, checked."""

    record: RawRecord
    annotation: int
    """Row of the nuScenes annotation."""
    sample: int
    view: str
    offset_m: tuple[float, float]
    """Forward and left, EGO, as the file has it; NaN where it has none."""
    appearance: str
    motion: str
    environment: str
    relation: str
    flags: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Describer:
    """Turns records into `_Described`."""

    context: Context
    superseded: set[int]
    row_of_token: Mapping[str, int]
    passes: npt.NDArray[np.bool_]
    sample_id: npt.NDArray[np.int32]
    instance_id: npt.NDArray[np.int32]
    instance_tokens: Sequence[str]
    categories: Sequence[str]

    @classmethod
    def of(cls, context: Context, source: str) -> _Describer:
        nuscenes = context.nuscenes
        annotations = nuscenes.annotations
        return cls(
            context,
            set(context.records(source, _PART).superseded.tolist()),
            context.annotation_rows,
            passes_filter(annotations, context.request.settings),
            annotations["sample_id"].to_numpy(),
            annotations["instance_id"].to_numpy(),
            nuscenes.instances["token"].to_pylist(),
            nuscenes.instances["category"].to_pylist(),
        )

    def __call__(self, record: RawRecord) -> _Described:
        """The checked record.

        Raises:
            BadRecordError: it yields no row.
        """
        check_current(record, self.superseded)
        fields = fields_of(record)
        row = self.row_of_token.get(record.key)
        if row is None:
            detail = f"nuScenes has no annotation {record.key:.40}"
            raise BadRecordError("unknown_annotation", detail)
        keyframes = self.context.keyframes
        sample = sample_of(keyframes.token[self.sample_id[row]], keyframes)
        self._check_tokens(fields, row, sample)
        if not self.passes[row]:
            name = self.context.request.settings.object_filter
            detail = f"box {record.key} does not pass the filter {name!r}"
            raise BadRecordError("filtered", detail, keyframes.split[sample])
        return self._described(record, fields, row, sample)

    def _check_tokens(self, fields: Mapping[str, Any], row: int, sample: int) -> None:
        """Refuse a record that says of its box what nuScenes does not."""
        keyframes = self.context.keyframes
        for key, token in (
            ("sample_token", keyframes.token[sample]),
            ("instance_token", self.instance_tokens[self.instance_id[row]]),
        ):
            if fields.get(key, token) != token:
                detail = f"key {key!r} is {fields[key]!r:.40}, but the box has {token}"
                raise BadRecordError("token_mismatch", detail, keyframes.split[sample])

    def _described(
        self, record: RawRecord, fields: Mapping[str, Any], row: int, sample: int
    ) -> _Described:
        flags = []
        looks = _part(fields, "attribute")
        if not looks:
            flags.append("empty_appearance")
            looks = _category_words(self.categories[self.instance_id[row]])
        motion, environment = _part(fields, "motion"), _part(fields, "map")
        relation = _part(fields, "relation")
        if not environment:
            flags.append("empty_map_caption")
        if not relation:
            flags.append("relation_none")
        if not _something(text_of(fields, "final_caption", optional=True)):
            flags.append("synth_final_caption")
        return _Described(
            record,
            row,
            sample,
            _view(fields),
            _offset_m(fields),
            _with_article(looks),
            motion,
            environment,
            relation,
            tuple(flags),
        )


def _table(context: Context, found: Sequence[_Described]) -> pa.Table:
    annotations = context.nuscenes.annotations.take(
        pa.array([d.annotation for d in found], pa.int64())
    )
    places = places_of(context, annotations)
    off = _residual_m(found, places.ego_m) > MAX_RESIDUAL_M
    full = context.request.settings.object_caption == "full"
    xy = places.lidar_m[:, :2]
    rows = [
        _row(d, _whole_caption(d) if full else _capital(d.appearance), x, y, far=far)
        for d, (x, y), far in zip(found, xy.tolist(), off.tolist(), strict=True)
    ]
    extra = {
        **object_columns(context, annotations),
        **{"x_m": xy[:, 0].astype(np.float32), "y_m": xy[:, 1].astype(np.float32)},
        **{n: [getattr(d, n) for d in found] for n in _ASPECTS},
    }
    return text_table(ALIGNMENT, BUILDER.name, UNSTATED, context.keyframes, rows, extra)


def _row(d: _Described, caption: str, x_m: float, y_m: float, *, far: bool) -> TextRow:
    # Adding 0.0 turns a rounded -0.0 into 0.0: "-0.00" would be a second spelling to learn.
    text = f"{caption} at ({round(x_m, 2) + 0.0:.2f},{round(y_m, 2) + 0.0:.2f})."
    return TextRow(
        d.record.key,
        d.sample,
        "object_caption",
        "<object>",
        DEFAULT.question("object_caption"),
        text,
        text,
        d.record.key,
        d.record.row,
        d.record.raw,
        view=d.view,
        flags=(*d.flags, "coord_residual_gt_1m") if far else d.flags,
    )


def _residual_m(found: Sequence[_Described], ego_m: FloatArray) -> FloatArray:
    """(M,) distances between the file's offsets and the boxes, NaN where it has none."""
    offsets = np.array([d.offset_m for d in found], np.float64).reshape(-1, 2)
    return np.hypot(*(offsets - ego_m[:, :2]).T)


def _part(fields: Mapping[str, Any], aspect: str) -> str:
    """A part of the caption, cleaned; it stands in an object of its own or by itself."""
    name = f"{aspect}_caption"
    value = fields.get(name)
    return _something(text_of(value if isinstance(value, dict) else fields, name, optional=True))


@lru_cache(maxsize=1 << 14)  # the parts are templates and repeat a thousandfold
def _something(text: str) -> str:
    """The text without white space and period around it, unless it only says that there is none."""
    cleaned = clause(text)
    return "" if cleaned.lower() in _NOTHING else cleaned


@lru_cache(maxsize=1 << 14)
def _with_article(looks: str) -> str:
    looks = looks.lower()
    if _DETERMINER.match(looks):
        return looks
    return f"{'an' if looks[0] in 'aeiou' else 'a'} {looks}"


def _category_words(category: str) -> str:
    """`human.pedestrian.adult` → `adult pedestrian`; `vehicle.car` → `car`."""
    words = category.split(".")
    named = words[1:3] if words[0] in ("human", "vehicle") else words[1:2]
    return " ".join(reversed(named or words)).replace("_", " ")


def _whole_caption(d: _Described) -> str:
    """Everything that the record says, its own caption where it has one; ends with "It is"."""
    fields = d.record.value
    if final := _something(text_of(fields, "final_caption", optional=True)):
        return f"{sentence(final)} It is"
    where = (_part(fields, "localization"), _part(fields, "depth"))
    parts = (*where, d.motion, d.environment, d.relation)
    said = [f"It is {part[0].lower()}{part[1:]}." for part in parts if part]
    return " ".join([f"{_capital(d.appearance)}.", *said, "It is"])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _view(fields: Mapping[str, Any]) -> str:
    parts = text_of(fields, "cam_file", optional=True).split("/")
    return next((part for part in parts if part in CAMERA_CHANNELS), "")


def _offset_m(fields: Mapping[str, Any]) -> tuple[float, float]:
    place = fields.get("localization_caption")
    forward, left = (_number(place, k) for k in ("x_offset", "y_offset"))
    return forward, left


def _number(fields: object, name: str) -> float:
    """A number of an object that may be anything; NaN where there is none."""
    value: Any = fields.get(name) if isinstance(fields, dict) else None
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and abs(value) < _FARTHEST_M else math.nan
