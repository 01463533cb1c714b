"""nuCaption (LiDAR-LLM) → stage 1 scene captions and stage 2 questions about single views."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Drop, Unit, UnitRows
from odvla_bench.datasets.builders.language import file_units, row_ids, sentence, text_table
from odvla_bench.datasets.builders.requirements import Requirement
from odvla_bench.datasets.builders.sieve import Columns, sieved
from odvla_bench.datasets.prompts import DEFAULT, QUESTION_SENTINELS
from odvla_bench.datasets.schema import ALIGNMENT, INSTRUCT
from odvla_bench.datasets.text_columns import IntArray, equal, mapped, to_numpy

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
        answer = context.request.settings.nucaption_answer
        rows, drops = sieved(
            INSTRUCT,
            file.read(("sample_token", "question", answer)),
            file.superseded,
            lambda sieve: sieve.kept(
                sample_id=sieve.samples(sieve.texts("sample_token"), context.keyframes, unit.part),
                question=sieve.texts("question"),
                answer=sieve.texts(answer),
            ),
            part=unit.part,
        )
        if not rows or not len(rows["sample_id"]):
            return UnitRows({}, {INSTRUCT.name: len(file)}, drops)
        rows |= _asked(rows["question"])
        scenes, unseen = _scene_table(context, unit.part, rows)
        read = {ALIGNMENT.name: scenes.num_rows + len(unseen), INSTRUCT.name: len(file)}
        tables = {ALIGNMENT.name: scenes, INSTRUCT.name: _table(context, unit.part, rows)}
        return UnitRows(tables, read, [*drops, *unseen])


BUILDER = NuCaptionBuilder()


def _asked(questions: pa.StringArray) -> Columns:
    """Of each question the camera that it names, or nothing, and what it asks."""
    distinct = questions.dictionary_encode()  # a hundred or so
    asked = [_view_and_template(question) for question in distinct.dictionary.to_pylist()]
    named = zip(("view", "template_type"), zip(*asked, strict=True), strict=True)
    return {name: pa.array(texts, pa.string()).take(distinct.indices) for name, texts in named}


def _view_and_template(question: str) -> tuple[str, str]:
    match = _VIEW.match(question)
    return (VIEWS[match[1]], question[match.end() :].strip()) if match else ("", question)


def _table(context: Context, part: str, rows: Columns) -> pa.Table:
    """A row each record."""
    viewless = equal(rows["view"], "")
    tasks = pa.array(["view_caption", "qa"], pa.string())
    made = {
        "row_id": row_ids(part, rows["source_row"]),
        "task": tasks.take(pa.array(viewless.astype(np.int8))),
        "sentinels": QUESTION_SENTINELS,
        "source_key": part,
        "flags": {"view_missing": viewless},
    }
    return text_table(INSTRUCT, BUILDER.name, _LICENSE, context.keyframes, {**rows, **made})


def _scene_table(context: Context, part: str, rows: Columns) -> tuple[pa.Table, list[Drop]]:
    """One row a keyframe with views, in the order of keyframes; the others for the ledger."""
    keyframes = context.keyframes
    samples, best = _best_rows(rows)
    seen = (best >= 0).any(1)
    tokens = keyframes.columns["sample_token"].chunk(0).take(pa.array(samples[seen]))
    made = {
        "row_id": pc.binary_join_element_wise(part, tokens, "scene", ":"),
        "sample_id": samples[seen],
        "task": "scene_caption",
        "sentinels": "<scene>",
        "question": DEFAULT.question("scene_caption"),
        "answer": _scene_captions(rows["answer"], best[seen]),
        "source_key": tokens,
        "source_row": -1,
        "flags": {
            f"view_missing:{camera}": best[seen, k] < 0 for k, camera in enumerate(VIEWS.values())
        },
    }
    drops = [
        Drop(
            ALIGNMENT.name,
            keyframes.token[sample],
            "no_view",
            f"keyframe {keyframes.token[sample]}: no caption names its view",
            keyframes.split[sample],
        )
        for sample in samples[~seen].tolist()
    ]
    return text_table(ALIGNMENT, BUILDER.name, _LICENSE, keyframes, made), drops


def _best_rows(rows: Columns) -> tuple[IntArray, IntArray]:
    """The keyframes that records name, ascending, and which record describes each view best.

    Returns:
        (S,) keyframes, and (S, 6) rows of records, of each view in the order of `VIEWS` the first
        that answers the best question; -1 where no record names the view.
    """
    samples, place = np.unique(rows["sample_id"], return_inverse=True)
    view, rank = (
        to_numpy(pc.fill_null(pc.index_in(rows[name], pa.array(known)), len(known)))
        for name, known in (("view", list(VIEWS.values())), ("template_type", TEMPLATES))
    )
    named = np.flatnonzero(view < len(VIEWS))
    cell = (place * len(VIEWS) + view)[named]
    order = np.lexsort((rank[named], cell))[::-1]  # of equal cells the last one stays
    best = np.full(len(samples) * len(VIEWS), -1)
    best[cell[order]] = named[order]
    return samples, best.reshape(-1, len(VIEWS))


def _scene_captions(answers: pa.StringArray, best: IntArray) -> pa.StringArray:
    """(S,) the views' captions, one after another, for (S, 6) rows of `_best_rows`."""
    views = []
    for name, row in zip(VIEWS, best.T, strict=True):
        said = mapped(answers.take(pa.array(row, mask=row < 0)), sentence)
        views.append(pc.binary_join_element_wise(f"{name.capitalize()}: ", said, ""))
    return pc.binary_join_element_wise(*views, " ", null_handling="skip")
