"""TOD3Cap → stage 1: what each agent looks like, and where it is.

The position is that of the nuScenes box in the LIDAR frame. The file's own offsets are in another
frame (x forward, y left) and only checked against it; a row that is off by more than a metre is
flagged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import clause, sentence, text_table
from odvla_bench.datasets.builders.objects import object_columns, passes_filter, places_of
from odvla_bench.datasets.builders.requirements import UNSTATED, Requirement
from odvla_bench.datasets.builders.sieve import BadRecordError, Columns, Sieve, sieved
from odvla_bench.datasets.nuscenes.tables import CAMERA_CHANNELS
from odvla_bench.datasets.prompts import DEFAULT
from odvla_bench.datasets.schema import ALIGNMENT
from odvla_bench.datasets.text_columns import equal, mapped, to_numpy
from odvla_bench.geometry import FloatArray

RECORDS_PER_SHARD = 65_536
MAX_RESIDUAL_M = 1.0
_FARTHEST_M = 1e6
_PART = "captions"
_NOTHING = ("", "none", "null", "nan", "n/a", "unknown")
_DETERMINER = re.compile(r"(?:an?|the|some|several|many|one|two|three|four|five)\b")
_ASPECTS = {
    "appearance": "attribute",
    "motion": "motion",
    "environment": "map",
    "relation": "relation",
}
"""Column → what the file calls that part of a caption."""
_PLACE = ("localization", "depth")
"""Parts that only whole captions hold."""
_SAID = (*_PLACE, "motion", "environment", "relation")
"""The parts of a whole caption that follow the appearance."""
_FLAGS = {
    "appearance": "empty_appearance",
    "environment": "empty_map_caption",
    "relation": "relation_none",
    "final": "synth_final_caption",
}
"""What may be absent, and the flag that says so."""
_OFFSETS = ("localization_caption.x_offset", "localization_caption.y_offset")
"""Forward and left, EGO, metres."""
_COLUMNS = ["token", "sample_id", "instance_id", "x_m", "y_m", "z_m"]
"""What is needed of an annotation."""


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
        file, boxes = context.records(self.name, _PART), _Boxes.of(context)
        first, last = unit.payload
        rows, drops = sieved(
            ALIGNMENT,
            file.read(_fields(context), first, last),
            file.superseded,
            lambda sieve: _columns(context, sieve, boxes),
        )
        table = _table(context, rows) if rows else ALIGNMENT.schema.empty_table()
        return UnitRows({ALIGNMENT.name: table}, {ALIGNMENT.name: last - first}, drops)


BUILDER = TOD3CapBuilder()


@dataclass(frozen=True, eq=False)
class _Boxes:
    """What records are checked against; arrays run over the annotations."""

    row_of_token: Mapping[str, int]
    passes: npt.NDArray[np.bool_]
    sample_id: npt.NDArray[np.int32]
    instance_id: npt.NDArray[np.int32]
    instance_tokens: pa.StringArray
    """Of the instances."""

    @classmethod
    def of(cls, context: Context) -> _Boxes:
        annotations = context.nuscenes.annotations
        return cls(
            context.annotation_rows,
            passes_filter(annotations, context.request.settings),
            annotations["sample_id"].to_numpy(),
            annotations["instance_id"].to_numpy(),
            context.nuscenes.instances["token"].combine_chunks(),
        )


def _fields(context: Context) -> list[str]:
    """Paths to what is read of a record."""
    aspects = [*_ASPECTS.values(), *_where(context)]
    captions = [path for aspect in aspects for path in _paths(aspect)]
    return ["sample_token", "instance_token", "cam_file", "final_caption", *captions, *_OFFSETS]


def _paths(aspect: str) -> tuple[str, str]:
    """A part of a caption stands by itself, or in an object of its own."""
    return f"{aspect}_caption", f"{aspect}_caption.{aspect}_caption"


def _where(context: Context) -> tuple[str, ...]:
    return _PLACE if context.request.settings.object_caption == "full" else ()


def _columns(context: Context, sieve: Sieve, boxes: _Boxes) -> Columns:
    """What the rows of a chunk are made of."""
    parts = {**_ASPECTS, **{aspect: aspect for aspect in _where(context)}}
    return sieve.kept(
        box=_box_rows(context, sieve, boxes),
        **{name: _part(sieve, aspect) for name, aspect in parts.items()},
        final=mapped(sieve.texts("final_caption", optional=True), _something),
        view=mapped(sieve.texts("cam_file", optional=True), _view),
        offset_m=np.stack([_numbers(sieve.chunk.fields[path]) for path in _OFFSETS], -1),
    )


def _table(context: Context, rows: Columns) -> pa.Table:
    """The rows of a stretch."""
    found = context.nuscenes.annotations.select(_COLUMNS).take(pa.array(rows["box"]))
    places, agents = places_of(context, found), object_columns(context, found)
    xy = places.lidar_m[:, :2]
    far = np.hypot(*(rows["offset_m"] - places.ego_m[:, :2]).T) > MAX_RESIDUAL_M
    flags = {flag: equal(rows[name], "") for name, flag in _FLAGS.items()}
    rows["appearance"] = _looks(rows["appearance"], agents["category"].combine_chunks())
    made: dict[str, Any] = {
        **agents,
        "row_id": rows["source_key"],
        "sample_id": found["sample_id"].to_numpy(),
        "task": "object_caption",
        "sentinels": "<object>",
        "question": DEFAULT.question("object_caption"),
        "x_m": xy[:, 0].astype(np.float32),
        "y_m": xy[:, 1].astype(np.float32),
        "answer": pc.binary_join_element_wise(_captions(rows), _placed(xy), " "),
        "flags": {**flags, "coord_residual_gt_1m": far},
    }
    return text_table(ALIGNMENT, BUILDER.name, UNSTATED, context.keyframes, {**rows, **made})


def _box_rows(context: Context, sieve: Sieve, boxes: _Boxes) -> npt.NDArray[np.int64]:
    """(N,) the rows of the records' annotations, 0 for what fell out.

    A record falls out that has none, that says of it what nuScenes does not, or that the filter
    holds back.
    """
    keys, keyframes = sieve.chunk.keys.to_pylist(), context.keyframes
    rows = np.array([boxes.row_of_token.get(key, -1) for key in keys])
    sieve.decide(np.flatnonzero(rows < 0).tolist(), lambda i: _unknown(keys[i]))
    rows = np.maximum(rows, 0)
    tokens = keyframes.columns["sample_token"].chunk(0).take(pa.array(boxes.sample_id[rows]))
    samples = sieve.samples(tokens, keyframes)
    instances = boxes.instance_tokens.take(pa.array(boxes.instance_id[rows]))
    for name, expected in (("sample_token", tokens), ("instance_token", instances)):
        said = sieve.chunk.fields[name]
        wrong = ~equal(said, pc.binary_join_element_wise('"', expected, '"', ""))
        for i in np.flatnonzero(wrong & to_numpy(pc.is_valid(said))).tolist():
            if (found := sieve.record(i)[name]) != (token := expected[i].as_py()):
                detail = f"key {name!r} is {found!r:.40}, but the box has {token}"
                error = BadRecordError("token_mismatch", detail, keyframes.split[samples[i]])
                sieve.refuse(i, error)
    for i in np.flatnonzero(~boxes.passes[rows]).tolist():
        policy = context.request.settings.object_filter
        detail = f"box {keys[i]} does not pass the filter {policy!r}"
        sieve.refuse(i, BadRecordError("filtered", detail, keyframes.split[samples[i]]))
    return rows


def _unknown(key: str) -> int:
    raise BadRecordError("unknown_annotation", f"nuScenes has no annotation {key:.40}")


def _part(sieve: Sieve, aspect: str) -> pa.StringArray:
    """(N,) a part of the captions, cleaned."""
    own, inner = (sieve.chunk.fields[path] for path in _paths(aspect))
    is_object = pc.coalesce(pc.starts_with(own, "{"), pa.scalar(value=False))
    values = pc.if_else(is_object, inner, own)
    return mapped(sieve.texts_of(values, f"{aspect}_caption", optional=True), _something)


def _captions(rows: Columns) -> pa.StringArray:
    """(M,) what is said of the agents before their positions."""
    if _PLACE[0] not in rows:
        return mapped(rows["appearance"], _capital)
    parts = (rows[name].to_pylist() for name in ("final", "appearance", *_SAID))
    return pa.array(map(_whole_caption, *parts), pa.string())


def _placed(xy_m: FloatArray) -> pa.StringArray:
    """(M,) the words for (M, 2) positions, in metres."""
    # Adding 0.0 turns a rounded -0.0 into 0.0: "-0.00" would be a second spelling to learn.
    places = [f"at ({round(x, 2) + 0.0:.2f},{round(y, 2) + 0.0:.2f})." for x, y in xy_m.tolist()]
    return pa.array(places, pa.string())


def _something(text: str) -> str:
    """The text without white space and period around it, unless it only says that there is none."""
    cleaned = clause(text)
    return "" if cleaned.lower() in _NOTHING else cleaned


def _looks(appearance: pa.StringArray, category: pa.StringArray) -> pa.StringArray:
    """(M,) what agents look like, or else what they are, with an article."""
    what = pc.if_else(pc.equal(appearance, ""), mapped(category, _category_words), appearance)
    return mapped(what, _with_article)


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


def _whole_caption(final: str, appearance: str, *parts: str) -> str:
    """Everything that a record says, its own caption where it has one; ends with "It is"."""
    if final:
        return f"{sentence(final)} It is"
    said = [f"It is {part[0].lower()}{part[1:]}." for part in parts if part]
    return " ".join([f"{_capital(appearance)}.", *said, "It is"])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _view(path: str) -> str:
    return next((part for part in path.split("/") if part in CAMERA_CHANNELS), "")


def _numbers(values: pa.StringArray) -> FloatArray:
    """(N,) the numbers that JSON values are; NaN for what is none, or too large for a place."""
    try:
        numbers = to_numpy(values.cast(pa.float64()))
    except pa.ArrowInvalid:
        numbers = np.array([_number(value) for value in values.to_pylist()])
    return np.where(np.abs(numbers) < _FARTHEST_M, numbers, np.nan)


def _number(value: str | None) -> float:
    try:
        return float(value or "nan")
    except ValueError:
        return math.nan
