"""NuScenes-QA → stage 2: questions that 30 short answers answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    BadRecordError,
    Fields,
    Sieve,
    file_units,
    flag_lists,
    row_ids,
    text_table,
)
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.prompts import QUESTION_SENTINELS
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
_FIELDS = Fields("sample_token", "question", "answer", "split", "template_type", "num_hop")


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
        for chunk in file.read(pick=_FIELDS):
            sieve = Sieve(chunk, _FIELDS)
            tables.append(_table(context, unit.part, sieve))
            drops += sieve.drops(INSTRUCT, unit.part)
        table = _with_flags(pa.concat_tables([INSTRUCT.schema.empty_table(), *tables]))
        return UnitRows({INSTRUCT.name: table}, {INSTRUCT.name: len(file)}, drops)


BUILDER = NuScenesQABuilder()


def _table(context: Context, part: str, sieve: Sieve) -> pa.Table:
    """The rows of a chunk."""
    samples = sieve.samples(sieve.texts("sample_token"), context.keyframes, part)
    questions, answers = sieve.texts("question"), sieve.texts("answer")
    templates, hops = sieve.columns["template_type"], sieve.columns["num_hop"]
    if not _all_known(part, sieve.columns["split"], templates, hops, answers):
        split = context.keyframes.split
        sieve.decide(
            hops,
            range(len(hops)),
            lambda i: _hop(part, sieve.record(i), answers[i], split[samples[i]]),
            0,
        )
    rows = sieve.kept(
        sample_id=samples,
        question=questions,
        answer=answers,
        template_type=templates,
        num_hop=hops,
    )
    made = {
        "row_id": row_ids(part, rows["source_row"]),
        "task": "qa",
        "sentinels": QUESTION_SENTINELS,
        "source_key": part,
    }
    return text_table(INSTRUCT, BUILDER.name, _LICENSE, context.keyframes, {**rows, **made})


def _all_known(
    part: str, splits: list[Any], templates: list[Any], hops: list[Any], answers: list[str]
) -> bool:
    """Whether all fields have known values; if not, `_hop` says of which record."""
    try:
        known = set(splits) == {part} and set(templates) <= set(TEMPLATE_TYPES)
        known = known and set(map(type, hops)) == {int} and set(hops) <= set(HOPS)
    except TypeError:  # one is a list or an object
        return False
    return known and ANSWERS.issuperset(answers)


def _hop(part: str, fields: Mapping[str, Any], answer: str, split: str) -> int:
    """The hops of a record whose other fields have known values too.

    Raises:
        BadRecordError: one of them has not.
    """
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
    return int(hop)


def _with_flags(table: pa.Table) -> pa.Table:
    """Flags for the questions that a row before asks of the same keyframe."""
    # Numbers of the questions in the order in which they come first.
    turns = table["messages"].combine_chunks().flatten().field("content")
    question = pc.index_in(turns, pc.unique(turns)).to_numpy()[::2].astype(np.int64)
    pair = question << 32 | table["sample_id"].to_numpy()
    _, first = np.unique(pair, return_index=True)
    again = np.ones(table.num_rows, bool)
    again[first] = False
    flags = flag_lists([("question_repeated_in_frame",) if a else () for a in again.tolist()])
    return table.set_column(
        table.schema.get_field_index("flags"), table.schema.field("flags"), flags
    )
