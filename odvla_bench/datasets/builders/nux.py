"""Nu-X → stage 2: what the car does in a keyframe, and why."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import clause, file_units, text_table
from odvla_bench.datasets.builders.requirements import UNSTATED, Requirement
from odvla_bench.datasets.builders.sieve import Columns, sieved
from odvla_bench.datasets.prompts import DEFAULT, QUESTION_SENTINELS
from odvla_bench.datasets.schema import INSTRUCT
from odvla_bench.datasets.text_columns import mapped


def _file(part: str, records: int) -> Requirement:
    return Requirement(
        part,
        (f"Nu_X_{part}.json", f"Nuscenes_X_{part}.json"),
        "release v1.0 of github.com/Robot-K/Hint-AD",
        UNSTATED,
        "a few MB",
        INSTRUCT.name,
        records,
    )


_FIELDS = ("narration", "reasoning")


class NuXBuilder:
    """One row a keyframe, keyed by its token."""

    name = "nux"
    tables = (INSTRUCT.name,)
    requires = (_file("train", 28_130), _file("val", 6_019))

    def plan(self, context: Context) -> list[Unit]:
        """One unit a file."""
        return file_units(self.name, context, ("train", "val"))

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """The explanations of one file; of a key that comes twice, the last one."""
        file = context.records(self.name, unit.part)
        rows, drops = sieved(
            INSTRUCT,
            file.read(_FIELDS),
            file.superseded,
            lambda sieve: sieve.kept(
                sample_id=sieve.samples(sieve.chunk.keys, context.keyframes, unit.part),
                **{name: sieve.texts(name) for name in _FIELDS},
            ),
            part=unit.part,
        )
        table = _table(context, unit.part, rows) if rows else INSTRUCT.schema.empty_table()
        return UnitRows({INSTRUCT.name: table}, {INSTRUCT.name: len(file)}, drops)


BUILDER = NuXBuilder()


def _table(context: Context, part: str, rows: Columns) -> pa.Table:
    """The rows, with their answers."""
    narration, reasoning = (mapped(rows[name], clause) for name in _FIELDS)
    made = {
        "narration": narration,
        "reasoning": reasoning,
        "row_id": pc.binary_join_element_wise(part, rows["source_key"], ":"),
        "task": "explanation",
        "sentinels": QUESTION_SENTINELS,
        "question": DEFAULT.question("explanation"),
        "said": pc.binary_join_element_wise(
            "Narration: ", narration, ". Reasoning: ", reasoning, ".", ""
        ),
        "answer": pc.binary_join_element_wise(narration, ". ", reasoning, ".", ""),
    }
    return text_table(INSTRUCT, BUILDER.name, UNSTATED, context.keyframes, {**rows, **made})
