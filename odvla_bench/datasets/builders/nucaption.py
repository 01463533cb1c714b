"""nuCaption (LiDAR-LLM) → stage 1 scene captions and stage 2 questions about single views."""

from __future__ import annotations

import re
from functools import lru_cache

import pyarrow as pa

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.builders.language import (
    Fields,
    Sieve,
    file_units,
    row_ids,
    sentence,
    text_table,
)
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.prompts import DEFAULT, QUESTION_SENTINELS
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

_RANKS = {template: rank for rank, template in enumerate(TEMPLATES)}
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
        fields = Fields("sample_token", "question", context.request.settings.nucaption_answer)
        for chunk in file.read(pick=fields):
            sieve = Sieve(chunk, fields)
            tables.append(_table(context, unit.part, sieve, scenes))
            drops += sieve.drops(INSTRUCT, unit.part)
        alignment, unseen = _scene_table(context, unit.part, scenes)
        instruct = pa.concat_tables([INSTRUCT.schema.empty_table(), *tables])
        return UnitRows(
            {ALIGNMENT.name: alignment, INSTRUCT.name: instruct},
            {ALIGNMENT.name: len(scenes), INSTRUCT.name: len(file)},
            [*drops, *unseen],
        )


BUILDER = NuCaptionBuilder()


def _table(context: Context, part: str, sieve: Sieve, scenes: dict[int, Views]) -> pa.Table:
    """The rows of a chunk; their captions go into `scenes` too."""
    rows = sieve.kept(
        sample_id=sieve.samples(sieve.texts("sample_token"), context.keyframes, part),
        question=sieve.texts("question"),
        answer=sieve.texts(context.request.settings.nucaption_answer),
    )
    asked = [_asked(question) for question in rows["question"]]
    for sample, (view, template), answer in zip(
        rows["sample_id"], asked, rows["answer"], strict=True
    ):
        _gather(scenes.setdefault(sample, {}), view, template, answer)
    views = [view for view, _ in asked]
    made = {
        "row_id": row_ids(part, rows["source_row"]),
        "task": ["view_caption" if view else "qa" for view in views],
        "sentinels": QUESTION_SENTINELS,
        "source_key": part,
        "view": views,
        "flags": [() if view else ("view_missing",) for view in views],
        "template_type": [template for _, template in asked],
    }
    return text_table(INSTRUCT, BUILDER.name, _LICENSE, context.keyframes, {**rows, **made})


@lru_cache(maxsize=1 << 12)  # a hundred questions or so
def _asked(question: str) -> tuple[str, str]:
    """The camera that a question names, or nothing, and what it asks."""
    match = _VIEW.match(question)
    return (VIEWS[match[1]], question[match.end() :].strip()) if match else ("", question)


def _gather(views: Views, view: str, template: str, answer: str) -> None:
    """Keep a view's caption if it is the first one, or answers a better question."""
    rank = _RANKS.get(template, len(TEMPLATES))
    if view and (view not in views or rank < views[view][0]):
        views[view] = (rank, answer)


def _scene_table(
    context: Context, part: str, scenes: dict[int, Views]
) -> tuple[pa.Table, list[Drop]]:
    """One row a keyframe with views, in the order of keyframes; the others for the ledger."""
    keyframes = context.keyframes
    seen = {sample: scenes[sample] for sample in sorted(scenes) if scenes[sample]}
    tokens = [keyframes.token[sample] for sample in seen]
    rows = {
        "row_id": [f"{part}:{token}:scene" for token in tokens],
        "sample_id": list(seen),
        "task": "scene_caption",
        "sentinels": "<scene>",
        "question": DEFAULT.question("scene_caption"),
        "answer": [_scene_caption(views) for views in seen.values()],
        "source_key": tokens,
        "source_row": -1,
        "flags": [
            tuple(f"view_missing:{camera}" for camera in VIEWS.values() if camera not in views)
            for views in seen.values()
        ],
    }
    drops = [
        Drop(
            ALIGNMENT.name,
            keyframes.token[sample],
            "no_view",
            f"keyframe {keyframes.token[sample]}: no caption names its view",
            keyframes.split[sample],
        )
        for sample in sorted(scenes)
        if not scenes[sample]
    ]
    return text_table(ALIGNMENT, BUILDER.name, _LICENSE, keyframes, rows), drops


def _scene_caption(views: Views) -> str:
    return " ".join(
        f"{name.capitalize()}: {sentence(views[camera][1])}"
        for name, camera in VIEWS.items()
        if camera in views
    )
