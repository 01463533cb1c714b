"""Nu-X → stage 2: what the car does in a keyframe, and why."""

from __future__ import annotations

from itertools import chain

from odvla_bench.datasets.builders.base import Context, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    TextRow,
    check_current,
    clause,
    convert,
    fields_of,
    file_units,
    sample_of,
    text_of,
    text_table,
)
from odvla_bench.datasets.builders.requirements import UNSTATED, Requirement
from odvla_bench.datasets.prompts import DEFAULT, QUESTION_SENTINELS
from odvla_bench.datasets.records import RawRecord
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
        superseded = set(file.superseded.tolist())
        found, drops = convert(
            chain.from_iterable(file.read()),
            lambda r: _explanation(context, unit.part, r, superseded),
            INSTRUCT,
            unit.part,
        )
        extra = {
            "narration": [narration for _, narration, _ in found],
            "reasoning": [reasoning for _, _, reasoning in found],
        }
        rows = [row for row, _, _ in found]
        table = text_table(INSTRUCT, self.name, UNSTATED, context.keyframes, rows, extra)
        return UnitRows({INSTRUCT.name: table}, {INSTRUCT.name: len(file)}, drops)


BUILDER = NuXBuilder()


def _explanation(
    context: Context, part: str, record: RawRecord, superseded: set[int]
) -> tuple[TextRow, str, str]:
    """The row of one record, its narration and its reasoning."""
    check_current(record, superseded)
    fields = fields_of(record)
    sample = sample_of(record.key, context.keyframes, part)
    narration = clause(text_of(fields, "narration"))
    reasoning = clause(text_of(fields, "reasoning"))
    row = TextRow(
        f"{part}:{record.key}",
        sample,
        "explanation",
        QUESTION_SENTINELS,
        DEFAULT.question("explanation"),
        f"Narration: {narration}. Reasoning: {reasoning}.",
        f"{narration}. {reasoning}.",
        record.key,
        record.row,
        record.raw,
    )
    return row, narration, reasoning
