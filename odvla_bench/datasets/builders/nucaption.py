"""nuCaption (LiDAR-LLM) → stage 1 scene captions and stage 2 questions about single views."""

from __future__ import annotations

import re
from typing import NamedTuple

import pyarrow as pa

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    TextRow,
    convert,
    fields_of,
    file_units,
    sample_of,
    sentence,
    text_of,
    text_table,
)
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.prompts import DEFAULT, QUESTION_SENTINELS
from odvla_bench.datasets.records import RawRecord
from odvla_bench.datasets.schema import ALIGNMENT, INSTRUCT

VIEWS = {
    "front": "CAM_FRONT",
    "front left": "CAM_FRONT_LEFT",
    "front right": "CAM_FRONT_RIGHT",
    "back": "CAM_BACK",
    "back left": "CAM_BACK_LEFT",
    "back right": "CAM_BACK_RIGHT",
}
"""How questions call the cameras; scene captions go through them in this order."""

TEMPLATES = (
    "Please describe the current scene.",
    "Can you provide a description for the road scene such that it sets it apart from others?",
    "Provide an overview of the surrounding landscape or environment.",
    "Describe the traffic conditions.",
    "How would you describe the overall road conditions?",
    "Are there any potential hazards or obstructions on the road that a driver should be aware of?",
)
"""Known questions, those first that make the best part of a scene's description."""

_VIEW = re.compile(rf"This is the car's ({'|'.join(sorted(VIEWS, key=len, reverse=True))}) view\.")
_LICENSE = "Apache-2.0"
_NAMES = ("nucaption/{}.json", "LiDAR-LLM-Nu-Caption/{}.json", "nucaption_{}.json")


def _file(part: str, size: str, records: int | None) -> Requirement:
    return Requirement(
        part,
        tuple(n.format(part) for n in _NAMES),
        "huggingface.co/datasets/Senqiao/LiDAR-LLM-Nu-Caption",
        _LICENSE,
        size,
        INSTRUCT.name,
        records,
    )


class _Caption(NamedTuple):
    row: TextRow
    template: str


Views = dict[str, tuple[int, str]]
"""View → rank of the question that its caption answers, and the caption."""


class NuCaptionBuilder:
    """One row a record, and one scene caption a keyframe, merged of its views.

    Records are counted in `instruct`, keyframes that they name in `alignment`.
    """

    name = "nucaption"
    tables = (ALIGNMENT.name, INSTRUCT.name)
    requires = (_file("train", "181 MB", 161_845), _file("val", "70 MB", None))

    def plan(self, context: Context) -> list[Unit]:
        """One unit a file."""
        return file_units(self.name, context, ("train", "val"))

    def build(self, context: Context, unit: Unit) -> UnitRows:
        """The captions of one file."""
        file = context.records(self.name, unit.part)
        tables, drops = [], []
        scenes: dict[int, Views] = {}
        for chunk in file.read():
            found, bad = convert(
                chunk, lambda r: _caption(context, unit.part, r), INSTRUCT, unit.part
            )
            for caption in found:
                _gather(scenes, caption)
            extra = {"template_type": [c.template for c in found]}
            rows = [c.row for c in found]
            tables.append(text_table(INSTRUCT, self.name, _LICENSE, context.keyframes, rows, extra))
            drops += bad
        merged, unseen = _scene_rows(context, unit.part, scenes)
        instruct = pa.concat_tables([INSTRUCT.schema.empty_table(), *tables])
        alignment = text_table(ALIGNMENT, self.name, _LICENSE, context.keyframes, merged)
        return UnitRows(
            {ALIGNMENT.name: alignment, INSTRUCT.name: instruct},
            {ALIGNMENT.name: len(scenes), INSTRUCT.name: len(file)},
            [*drops, *unseen],
        )


BUILDER = NuCaptionBuilder()


def _caption(context: Context, part: str, record: RawRecord) -> _Caption:
    fields = fields_of(record)
    sample = sample_of(text_of(fields, "sample_token"), context.keyframes, part)
    question = text_of(fields, "question")
    answer = text_of(fields, context.request.settings.nucaption_answer)
    match = _VIEW.match(question)
    view = VIEWS[match[1]] if match else ""
    template = question[match.end() :].strip() if match else question
    row = TextRow(
        f"{part}:{record.row}",
        sample,
        "view_caption" if match else "qa",
        QUESTION_SENTINELS,
        question,
        answer,
        answer,
        part,
        record.row,
        record.raw,
        view=view,
        flags=() if match else ("view_missing",),
    )
    return _Caption(row, template)


def _gather(scenes: dict[int, Views], caption: _Caption) -> None:
    """Keep a view's caption if it is the first one, or answers a better question."""
    views = scenes.setdefault(caption.row.sample_id, {})
    known = caption.template in TEMPLATES
    rank = TEMPLATES.index(caption.template) if known else len(TEMPLATES)
    if (view := caption.row.view) and (view not in views or rank < views[view][0]):
        views[view] = (rank, caption.row.answer)


def _scene_rows(
    context: Context, part: str, scenes: dict[int, Views]
) -> tuple[list[TextRow], list[Drop]]:
    """One row a keyframe with views, in the order of keyframes; the others for the ledger."""
    rows, drops = [], []
    for sample, views in sorted(scenes.items()):
        token = context.keyframes.token[sample]
        if not views:
            detail = f"keyframe {token}: no caption names its view"
            split = context.keyframes.split[sample]
            drops.append(Drop(ALIGNMENT.name, token, "no_view", detail, split))
            continue
        text = " ".join(
            f"{name.capitalize()}: {sentence(views[camera][1])}"
            for name, camera in VIEWS.items()
            if camera in views
        )
        missing = tuple(f"view_missing:{c}" for c in VIEWS.values() if c not in views)
        rows.append(
            TextRow(
                f"{part}:{token}:scene",
                sample,
                "scene_caption",
                "<scene>",
                DEFAULT.question("scene_caption"),
                text,
                text,
                token,
                -1,
                "",
                flags=missing,
            )
        )
    return rows, drops
