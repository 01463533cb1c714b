"""Nu-X → stage 2: what the car does in a keyframe, and why."""

from __future__ import annotations

import pyarrow as pa

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    Fields,
    Sieve,
    clause,
    file_units,
    text_table,
)
from odvla_bench.datasets.builders.requirements import UNSTATED, Requirement
from odvla_bench.datasets.prompts import DEFAULT, QUESTION_SENTINELS
from odvla_bench.datasets.schema import INSTRUCT


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


_FIELDS = Fields("narration", "reasoning")


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
        tables, drops = [], []
        for chunk in file.read(pick=_FIELDS):
            sieve = Sieve(chunk, _FIELDS, file.superseded)
            tables.append(_table(context, unit.part, sieve))
            drops += sieve.drops(INSTRUCT, unit.part)
        table = pa.concat_tables([INSTRUCT.schema.empty_table(), *tables])
        return UnitRows({INSTRUCT.name: table}, {INSTRUCT.name: len(file)}, drops)


BUILDER = NuXBuilder()


def _table(context: Context, part: str, sieve: Sieve) -> pa.Table:
    """The rows of a chunk."""
    rows = sieve.kept(
        sample_id=sieve.samples(sieve.chunk.keys, context.keyframes, part),
        narration=sieve.texts("narration"),
        reasoning=sieve.texts("reasoning"),
    )
    rows |= {name: [clause(t) for t in rows[name]] for name in ("narration", "reasoning")}
    both = list(zip(rows["narration"], rows["reasoning"], strict=True))
    made = {
        "row_id": [f"{part}:{key}" for key in rows["source_key"]],
        "task": "explanation",
        "sentinels": QUESTION_SENTINELS,
        "question": DEFAULT.question("explanation"),
        "said": [f"Narration: {what}. Reasoning: {why}." for what, why in both],
        "answer": [f"{what}. {why}." for what, why in both],
    }
    return text_table(INSTRUCT, BUILDER.name, UNSTATED, context.keyframes, {**rows, **made})
