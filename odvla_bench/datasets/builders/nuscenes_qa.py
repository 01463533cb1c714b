"""NuScenes-QA → stage 2: questions that 30 short answers answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    BadRecordError,
    TextRow,
    convert,
    fields_of,
    file_units,
    sample_of,
    text_of,
    text_table,
)
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.prompts import QUESTION_SENTINELS
from odvla_bench.datasets.records import RawRecord
from odvla_bench.datasets.schema import INSTRUCT

TEMPLATE_TYPES = ("exist", "count", "object", "status", "comparison")
HOPS = (0, 1)
ANSWERS = frozenset(
    (
        *map(str, range(11)),
        *("yes", "no"),
        *("barrier", "bicycle", "bus", "car", "construction vehicle", "motorcycle"),
        *("pedestrian", "traffic cone", "trailer", "truck"),
        *("moving", "not standing", "parked", "standing", "stopped", "with rider"),
        "without rider",
    )
)
"""The 30 answers of the set's `answer_dict.json`."""

_LICENSE = "MIT (stated for the code)"


def _file(part: str, size: str, records: int, n_bytes: int | None = None) -> Requirement:
    return Requirement(
        part,
        (f"NuScenes_{part}_questions.json",),
        "linked from github.com/qiantianwen/NuScenes-QA",
        _LICENSE,
        size,
        INSTRUCT.name,
        records,
        n_bytes,
    )


class _Question(NamedTuple):
    row: TextRow
    template_type: str
    num_hop: int


class NuScenesQABuilder:
    """One row a question; its identity is its file and its position there."""

    name = "nuscenes_qa"
    tables = (INSTRUCT.name,)
    requires = (_file("train", "115 MB", 376_604), _file("val", "25 MB", 83_337, 25_432_339))

    def plan(self, context: Context) -> list[Unit]:
        """One unit a file."""
        return file_units(self.name, context, ("train", "val"))

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """The questions of one file."""
        file = context.records(self.name, unit.part, key="questions")
        tables, drops = [], []
        asked: set[tuple[int, str]] = set()
        for chunk in file.read():
            found, bad = convert(
                chunk, lambda r: _question(context, unit.part, r, asked), INSTRUCT, unit.part
            )
            tables.append(_table(context, found))
            drops += bad
        table = pa.concat_tables([INSTRUCT.schema.empty_table(), *tables])
        return UnitRows({INSTRUCT.name: table}, {INSTRUCT.name: len(file)}, drops)


BUILDER = NuScenesQABuilder()


def _table(context: Context, found: list[_Question]) -> pa.Table:
    extra: dict[str, Any] = {
        "template_type": [q.template_type for q in found],
        "num_hop": [q.num_hop for q in found],
    }
    rows = [q.row for q in found]
    return text_table(INSTRUCT, BUILDER.name, _LICENSE, context.keyframes, rows, extra)


def _question(
    context: Context, part: str, record: RawRecord, asked: set[tuple[int, str]]
) -> _Question:
    fields = fields_of(record)
    sample = sample_of(text_of(fields, "sample_token"), context.keyframes, part)
    split = context.keyframes.split[sample]
    question, answer = text_of(fields, "question"), text_of(fields, "answer")
    template, hop = fields.get("template_type"), fields.get("num_hop")
    if fields.get("split", part) != part:
        detail = f"key 'split' is {fields['split']!r:.40}, but the file is of {part}"
        raise BadRecordError("split_mismatch", detail, split)
    if template not in TEMPLATE_TYPES:
        known = ", ".join(TEMPLATE_TYPES)
        detail = f"key 'template_type' is {template!r:.40}, none of {known}"
        raise BadRecordError("malformed", detail, split)
    if isinstance(hop, bool) or hop not in HOPS:
        raise BadRecordError("malformed", f"key 'num_hop' is {hop!r:.40}, not 0 or 1", split)
    if answer not in ANSWERS:
        detail = f"answer {answer!r:.40} is none of the {len(ANSWERS)}"
        raise BadRecordError("not_in_vocabulary", detail, split)
    flags = ("question_repeated_in_frame",) if (sample, question) in asked else ()
    asked.add((sample, question))
    row = TextRow(
        f"{part}:{record.row}",
        sample,
        "qa",
        QUESTION_SENTINELS,
        question,
        answer,
        answer,
        part,
        record.row,
        record.raw,
        flags=flags,
    )
    return _Question(row, str(template), int(hop))
