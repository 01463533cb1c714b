"""Instructions as a model is given them: rows of a build, worded by a prompt profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from odvla_bench.datasets.nuscenes.ego import FUTURE_STEPS
from odvla_bench.datasets.prompts import (
    FUTURE_COLUMNS,
    MOTION_SENTINELS,
    EgoFields,
    PromptProfile,
    ego_fields,
    get_profile,
    mark,
    planning_answers,
    planning_prompts,
    prompt_columns,
)
from odvla_bench.datasets.schema import PLANNING, STAGE_TABLES
from odvla_bench.datasets.waypoints import WaypointCodec, get_codec
from odvla_bench.errors import InputError
from odvla_bench.registry import suggest

if TYPE_CHECKING:
    from odvla_bench.datasets.reader import Build

EGO_STAGES = ("2", "2.5", "3")
"""Stages whose prompts hold the ego state, and so need the planning table."""

_KEYS = ("sample_id", "sample_token", "scene_name")
_TEXT_COLUMNS = (*_KEYS, "row_id", "source", "task", "messages", "answer", "references")


class Message(NamedTuple):
    """One turn of a conversation; plain text, never typed parts."""

    role: str
    """"system", "user" or "assistant"."""
    content: str


@dataclass(frozen=True)
class Instruction:
    """One prompt, and what should be answered."""

    row_id: str
    stage: str
    task: str
    source: str
    split: str
    sample_id: int
    sample_token: str
    scene_name: str
    messages: tuple[Message, ...]
    """System turn if the profile has one, user turn, and the assistant's where answers are
    wanted."""
    answer: str = ""
    """The bare target, for scoring; empty where answers are not wanted."""
    references: tuple[str, ...] = ()
    instance_token: str = ""
    """nuScenes token of the agent that `<OBJECT>` stands for; else empty."""


@dataclass(frozen=True)
class Rendering:
    """How instructions are worded."""

    profile: PromptProfile
    codec: WaypointCodec
    """Of waypoints; with `variable_length` for stage 2.5."""
    seed: int | None = None
    """See `PromptProfile.question`."""
    answers: bool = True
    """Whether the assistant's turn is there."""

    def messages(self, user: str, assistant: str) -> tuple[Message, ...]:
        """The turns of one instruction."""
        system = [Message("system", self.profile.system)] if self.profile.system else []
        answer = [Message("assistant", assistant)] if self.answers else []
        return (*system, Message("user", user), *answer)


def iter_instructions(
    build: Build,
    stage: str,
    split: str,
    profile: str | PromptProfile = "default",
    *,
    codec: str | WaypointCodec = "text",
    sources: Sequence[str] | None = None,
    seed: int | None = None,
    answers: bool = True,
) -> Iterator[Instruction]:
    """The instructions of a training stage, in the build's order.

    Args:
        build: an open build.
        stage: "1" alignment, "2" instruction tuning, "2.5" forecasting, "3" planning.
        split: such as "train".
        profile: the wording, see `get_profile`.
        codec: how waypoints become text, see `get_codec`.
        sources: only these; all by default.
        seed: with a seed, questions that are ours vary in wording.
        answers: False gives prompts only, one for every row; with answers, a keyframe that the
            profile has no answer for (an incomplete future) is left out.

    Raises:
        UnknownNameError: no such stage, split, profile or codec.
        InputError: the build lacks a table that the stage needs.
    """
    if stage not in STAGE_TABLES:
        raise suggest(stage, list(STAGE_TABLES), kind="training stage")
    if isinstance(profile, str):
        profile = get_profile(profile)
    if isinstance(codec, str):
        codec = get_codec(codec, variable_length=stage == "2.5")
    splits = build.splits(STAGE_TABLES[stage].name)
    if not splits:
        raise InputError(
            f"{build.path}: has no table {STAGE_TABLES[stage].name!r}, which stage {stage} needs. "
            "Build it with `odvla-bench build-data`."
        )
    if split not in splits:
        raise suggest(split, splits, kind=f"split of stage {stage} in {build.path}:")
    if stage in EGO_STAGES and split not in build.splits(PLANNING.name):
        raise InputError(
            f"{build.path}: the ego state in the prompts of stage {stage} needs the table "
            f"'planning' of split {split!r}. Build with the source `planning` too."
        )
    how = Rendering(profile, codec, seed, answers)
    if stage == "3":
        return _planning(build, split, how)
    if stage == "2.5":
        return _forecasting(build, split, how)
    return _texts(build, stage, split, how, sources)


def _planning(build: Build, split: str, how: Rendering) -> Iterator[Instruction]:
    truth = FUTURE_COLUMNS if how.answers else ()
    columns = (*_KEYS, *prompt_columns(how.profile), *truth)
    for rows in build.batches(PLANNING.name, split, columns):
        prompts = planning_prompts(rows, how.profile, seed=how.seed)
        answers: Sequence[str | None] = [""] * rows.num_rows
        if how.answers:
            answers = planning_answers(rows, how.profile, how.codec)
        keys = zip(*(rows[c].to_pylist() for c in _KEYS), strict=True)
        for (sample, token, scene), prompt, answer in zip(keys, prompts, answers, strict=True):
            if answer is None:
                continue
            yield Instruction(
                row_id=f"planning:{token}",
                stage="3",
                task="planning",
                source=PLANNING.name,
                split=split,
                sample_id=sample,
                sample_token=token,
                scene_name=scene,
                messages=how.messages(prompt, answer),
                answer=answer,
                references=(answer,) if answer else (),
            )


def _forecasting(build: Build, split: str, how: Rendering) -> Iterator[Instruction]:
    ego = _ego_by_sample(build, split, how.profile)
    truth = ("x_m", "y_m") if how.answers else ()
    columns = (*_KEYS, "row_id", "source", "task", "instance_token", *truth)
    for rows in build.batches("forecasting", split, columns):
        answers = _motion_answers(rows, how.codec) if how.answers else [""] * rows.num_rows
        names = columns[: len(columns) - len(truth)]
        records = zip(*(rows[c].to_pylist() for c in names), strict=True)
        for (sample, token, scene, row_id, source, task, instance), answer in zip(
            records, answers, strict=True
        ):
            question = how.profile.question(task, row_id, seed=how.seed)
            user = how.profile.user_text(MOTION_SENTINELS, question, ego[sample])
            yield Instruction(
                row_id=row_id,
                stage="2.5",
                task=task,
                source=source,
                split=split,
                sample_id=sample,
                sample_token=token,
                scene_name=scene,
                messages=how.messages(user, answer),
                answer=answer,
                references=(answer,) if answer else (),
                instance_token=instance,
            )


def _motion_answers(rows: pa.Table, codec: WaypointCodec) -> list[str]:
    """Marked waypoint texts of existing steps; NaN stands for the others."""
    lengths = rows["x_m"].combine_chunks().value_lengths().to_numpy()
    xy = np.full((rows.num_rows, len(FUTURE_STEPS), 2), np.nan)
    there = np.arange(len(FUTURE_STEPS)) < lengths[:, None]
    for i, name in enumerate(("x_m", "y_m")):
        xy[..., i][there] = rows[name].combine_chunks().flatten().to_numpy()
    return [mark(text) for text in codec.encode_batch(xy)] if rows.num_rows else []


def _texts(
    build: Build, stage: str, split: str, how: Rendering, sources: Sequence[str] | None
) -> Iterator[Instruction]:
    ego = _ego_by_sample(build, split, how.profile) if stage in EGO_STAGES else {}
    table = STAGE_TABLES[stage]
    agent = ("instance_token",) if "instance_token" in table.schema.names else ()
    wanted = [c for c in _TEXT_COLUMNS if how.answers or c not in ("answer", "references")]
    for rows in build.batches(table.name, split, (*wanted, *agent), sources=sources):
        for row in rows.to_pylist():
            user, said = (turn["content"] for turn in row["messages"])
            sentinels, _, asked = user.partition("\n")
            question = how.profile.question(row["task"], row["row_id"], seed=how.seed) or asked
            fields = ego.get(row["sample_id"], {})
            yield Instruction(
                row_id=row["row_id"],
                stage=stage,
                task=row["task"],
                source=row["source"],
                split=split,
                sample_id=row["sample_id"],
                sample_token=row["sample_token"],
                scene_name=row["scene_name"],
                messages=how.messages(how.profile.user_text(sentinels, question, fields), said),
                answer=row.get("answer", ""),
                references=tuple(row.get("references", ())),
                instance_token=row.get("instance_token", ""),
            )


def _ego_by_sample(build: Build, split: str, profile: PromptProfile) -> dict[int, EgoFields]:
    """What `<ego>` says at each keyframe of a split; from the planning table."""
    fields: dict[int, EgoFields] = {}
    for rows in build.batches(PLANNING.name, split, ("sample_id", *prompt_columns(profile))):
        made = ego_fields(rows, profile)
        fields.update(zip(rows["sample_id"].to_pylist(), made, strict=True))
    return fields
