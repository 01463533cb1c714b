"""NuScenes-QA → stage 2: questions that 30 short answers answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import file_units, row_ids, text_table
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.builders.sieve import BadRecordError, Columns, Sieve, sieved
from odvla_bench.datasets.prompts import QUESTION_SENTINELS
from odvla_bench.datasets.schema import INSTRUCT
from odvla_bench.datasets.text_columns import equal, is_in

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
_FIELDS = ("sample_token", "question", "answer", "split", "template_type", "num_hop")


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
        rows, drops = sieved(
            INSTRUCT,
            file.read(_FIELDS),
            file.superseded,
            lambda sieve: _columns(context, unit.part, sieve),
            part=unit.part,
        )
        table = _table(context, unit.part, rows) if rows else INSTRUCT.schema.empty_table()
        return UnitRows({INSTRUCT.name: table}, {INSTRUCT.name: len(file)}, drops)


BUILDER = NuScenesQABuilder()


def _columns(context: Context, part: str, sieve: Sieve) -> Columns:
    """What the rows of a chunk are made of."""
    samples = sieve.samples(sieve.texts("sample_token"), context.keyframes, part)
    questions, answers = sieve.texts("question"), sieve.texts("answer")
    fields, split = sieve.chunk.fields, context.keyframes.split
    known = equal(fields["split"], f'"{part}"') & is_in(answers, ANSWERS)
    known &= is_in(fields["template_type"], map(json.dumps, TEMPLATE_TYPES))
    known &= is_in(fields["num_hop"], map(json.dumps, HOPS))
    sieve.decide(
        np.flatnonzero(~known).tolist(),
        lambda i: _check(part, sieve.record(i), answers[i].as_py(), split[samples[i]]),
    )
    return sieve.kept(
        sample_id=samples,
        question=questions,
        answer=answers,
        template_type=pc.ascii_trim(fields["template_type"], '"'),
        num_hop=fields["num_hop"],
    )


def _check(part: str, fields: Mapping[str, Any], answer: str, split: str) -> None:
    """Look at the other fields of a record.

    Raises:
        BadRecordError: one of them has no known value.
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


def _table(context: Context, part: str, rows: Columns) -> pa.Table:
    """The rows; those whose question a row before asks of the same keyframe are flagged."""
    question = rows["question"].dictionary_encode().indices.to_numpy().astype(np.int64)
    _, first = np.unique(question << 32 | rows["sample_id"], return_index=True)
    again = np.ones(len(question), bool)
    again[first] = False
    made = {
        "row_id": row_ids(part, rows["source_row"]),
        "task": "qa",
        "sentinels": QUESTION_SENTINELS,
        "source_key": part,
        "num_hop": rows["num_hop"].cast(pa.float64()).cast(pa.int64()),  # 1.0 is 1
        "flags": {"question_repeated_in_frame": again},
    }
    return text_table(INSTRUCT, BUILDER.name, _LICENSE, context.keyframes, {**rows, **made})
