"""TOD3Cap → stage 1: what each agent looks like, and where it is.

The position is that of the nuScenes box in the LIDAR frame. The file's own offsets are in another
frame (x forward, y left) and only checked against it; a row that is off by more than a metre is
flagged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    ABSENT,
    BadRecordError,
    Fields,
    Sieve,
    clause,
    sentence,
    text_table,
)
from odvla_bench.datasets.builders.objects import object_columns, passes_filter, places_of
from odvla_bench.datasets.builders.requirements import UNSTATED, Requirement
from odvla_bench.datasets.nuscenes.tables import CAMERA_CHANNELS
from odvla_bench.datasets.prompts import DEFAULT
from odvla_bench.datasets.schema import ALIGNMENT

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
_SAID = ("localization", "depth", "motion", "environment", "relation")
"""The parts of a whole caption that follow the appearance."""
_FLAGS = {
    "appearance": "empty_appearance",
    "environment": "empty_map_caption",
    "relation": "relation_none",
    "final": "synth_final_caption",
}
"""What may be absent, and the flag that says so."""
_COLUMNS = ["token", "sample_id", "instance_id", "x_m", "y_m", "z_m"]
"""What is needed of an annotation."""
_FIELDS = Fields(
    *("sample_token", "instance_token", "cam_file", "final_caption"),
    *(f"{aspect}_caption" for aspect in (*_ASPECTS.values(), "localization", "depth")),
)


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
        tables, drops = [], []
        for chunk in file.read(first, last, pick=_FIELDS):
            sieve = Sieve(chunk, _FIELDS, file.superseded)
            tables.append(_table(context, sieve, boxes))
            drops += sieve.drops(ALIGNMENT)
        table = pa.concat_tables([ALIGNMENT.schema.empty_table(), *tables])
        return UnitRows({ALIGNMENT.name: table}, {ALIGNMENT.name: last - first}, drops)


BUILDER = TOD3CapBuilder()


@dataclass(frozen=True, eq=False)
class _Boxes:
    """What records are checked against; arrays run over the annotations."""

    row_of_token: Mapping[str, int]
    passes: npt.NDArray[np.bool_]
    sample_id: npt.NDArray[np.int32]
    instance_id: npt.NDArray[np.int32]
    instance_tokens: Sequence[str]
    """Of the instances."""

    @classmethod
    def of(cls, context: Context) -> _Boxes:
        annotations = context.nuscenes.annotations
        return cls(
            context.annotation_rows,
            passes_filter(annotations, context.request.settings),
            annotations["sample_id"].to_numpy(),
            annotations["instance_id"].to_numpy(),
            context.nuscenes.instances["token"].to_pylist(),
        )


def _table(context: Context, sieve: Sieve, boxes: _Boxes) -> pa.Table:
    """The rows of a chunk."""
    rows = sieve.kept(
        box=_box_rows(context, sieve, boxes),
        **{name: _parts(sieve, aspect) for name, aspect in _ASPECTS.items()},
        final=sieve.texts("final_caption", optional=True, clean=_something),
        view=list(map(_view, sieve.texts("cam_file", optional=True))),
        offset_m=list(map(_offset_m, sieve.columns["localization_caption"])),
        **_where(context, sieve),
    )
    found = context.nuscenes.annotations.select(_COLUMNS).take(pa.array(rows["box"], pa.int64()))
    places, agents = places_of(context, found), object_columns(context, found)
    xy = places.lidar_m[:, :2]
    offset = np.array(rows["offset_m"], np.float64).reshape(-1, 2)
    far = np.hypot(*(offset - places.ego_m[:, :2]).T) > MAX_RESIDUAL_M
    absent = ([not text for text in rows[name]] for name in _FLAGS)
    made: dict[str, Any] = {
        **agents,
        "row_id": rows["source_key"],
        "sample_id": found["sample_id"],
        "task": "object_caption",
        "sentinels": "<object>",
        "question": DEFAULT.question("object_caption"),
        "appearance": list(map(_looks, rows["appearance"], agents["category"].to_pylist())),
        "x_m": xy[:, 0].astype(np.float32),
        "y_m": xy[:, 1].astype(np.float32),
        "flags": list(map(_flags, *absent, far.tolist())),
    }
    rows |= made
    rows["answer"] = list(map(_placed, _captions(rows), xy.tolist()))
    return text_table(ALIGNMENT, BUILDER.name, UNSTATED, context.keyframes, rows)


def _box_rows(context: Context, sieve: Sieve, boxes: _Boxes) -> list[int]:
    """The rows of the records' annotations.

    A record falls out that has none, that says of it what nuScenes does not, or that the filter
    holds back.
    """
    keys, keyframes = sieve.chunk.keys, context.keyframes
    rows = [boxes.row_of_token.get(key, -1) for key in keys]
    sieve.decide(rows, [i for i, row in enumerate(rows) if row < 0], lambda i: _unknown(keys[i]), 0)
    tokens = [keyframes.token[sample] for sample in boxes.sample_id[rows].tolist()]
    samples = sieve.samples(tokens, keyframes)
    instances = [boxes.instance_tokens[i] for i in boxes.instance_id[rows].tolist()]
    for name, expected in (("sample_token", tokens), ("instance_token", instances)):
        said = sieve.columns[name]
        for i, token in enumerate(expected):
            if said[i] == token or said[i] is ABSENT:
                continue
            detail = f"key {name!r} is {said[i]!r:.40}, but the box has {token}"
            error = BadRecordError("token_mismatch", detail, keyframes.split[samples[i]])
            sieve.refuse(i, error)
    for i in np.flatnonzero(~boxes.passes[rows]).tolist():
        policy = context.request.settings.object_filter
        detail = f"box {keys[i]} does not pass the filter {policy!r}"
        sieve.refuse(i, BadRecordError("filtered", detail, keyframes.split[samples[i]]))
    return rows


def _unknown(key: str) -> int:
    raise BadRecordError("unknown_annotation", f"nuScenes has no annotation {key:.40}")


def _parts(sieve: Sieve, aspect: str) -> list[str]:
    """A part of the captions, cleaned; it stands in an object of its own or by itself."""
    name = f"{aspect}_caption"
    own = sieve.columns[name]
    values = [value.get(name, ABSENT) if type(value) is dict else value for value in own]
    return sieve.texts_of(values, name, optional=True, clean=_something)


def _where(context: Context, sieve: Sieve) -> dict[str, list[str]]:
    """The parts that only whole captions hold."""
    if context.request.settings.object_caption != "full":
        return {}
    return {name: _parts(sieve, name) for name in ("localization", "depth")}


def _captions(rows: Mapping[str, list[str]]) -> Iterable[str]:
    """What is said of the agents before their positions."""
    if "depth" not in rows:
        return map(_capital, rows["appearance"])
    return map(_whole_caption, *(rows[name] for name in ("final", "appearance", *_SAID)))


def _placed(text: str, xy_m: Sequence[float]) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0: "-0.00" would be a second spelling to learn.
    x, y = xy_m
    return f"{text} at ({round(x, 2) + 0.0:.2f},{round(y, 2) + 0.0:.2f})."


@cache
def _flags(*holds: bool) -> tuple[str, ...]:
    """The flags of a row for which those of `_FLAGS` hold, and that its offset is far off."""
    names = (*_FLAGS.values(), "coord_residual_gt_1m")
    return tuple(name for name, it_does in zip(names, holds, strict=True) if it_does)


@lru_cache(maxsize=1 << 14)  # the parts are templates and repeat a thousandfold
def _something(text: str) -> str:
    """The text without white space and period around it, unless it only says that there is none."""
    cleaned = clause(text)
    return "" if cleaned.lower() in _NOTHING else cleaned


@lru_cache(maxsize=1 << 14)
def _looks(appearance: str, category: str) -> str:
    """What an agent looks like, or else what it is, with an article."""
    looks = (appearance or _category_words(category)).lower()
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


@lru_cache(maxsize=1 << 10)
def _view(path: str) -> str:
    return next((part for part in path.split("/") if part in CAMERA_CHANNELS), "")


def _offset_m(place: object) -> tuple[float, float]:
    """Forward and left, EGO, as the file has it; NaN where it has none."""
    if not isinstance(place, dict):
        return math.nan, math.nan
    return _number(place.get("x_offset")), _number(place.get("y_offset"))


def _number(value: Any) -> float:
    known = type(value) in (float, int) and abs(value) < _FARTHEST_M
    return float(value) if known else math.nan
