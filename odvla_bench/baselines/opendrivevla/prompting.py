"""Rows of a build → conversations, as a model's profile words them and with what it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from odvla_bench.datasets.prompts import (
    FUTURE_COLUMNS,
    PLANNING_SENTINELS,
    PromptProfile,
    ego_fields,
    get_profile,
    planning_answers,
    prompt_columns,
)
from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import InputError
from odvla_bench.registry import suggest

INPUTS = ("visual", "ego", "history", "command")
"""What a prompt can show (paper, Table 5)."""

_VISUAL = ("<scene>", "<track>", "<map>", "<object>")

INSTRUCTIONS = pa.schema(
    [
        ("row_id", pa.string()),
        ("task", pa.string()),
        ("sample_token", pa.string()),
        ("instance_id", pa.int32()),
        ("user", pa.string()),
        ("answer", pa.string()),
    ]
)
"""Conversations in memory; the answer is empty where there is none."""


@dataclass(frozen=True)
class Prompting:
    """How prompts are made: a profile, what of it is shown, and how waypoints are written."""

    profile: PromptProfile
    inputs: tuple[str, ...] = INPUTS
    codec: str = "text"

    @property
    def system(self) -> str:
        """The system text."""
        return self.profile.system

    @property
    def visual(self) -> bool:
        """Whether prompts have visual tokens."""
        return "visual" in self.inputs

    def user_text(self, sentinels: str, question: str, fields: dict[str, str]) -> str:
        """The user text with the lines of what is shown; see `PromptProfile.user_text`."""
        shown = " ".join(s for s in sentinels.split() if s in dict(self.profile.lines))
        return self.profile.user_text(shown, question, fields)


def make_prompting(
    profile: str = "default",
    *,
    inputs: Sequence[str] = INPUTS,
    codec: str = "text",
    system_file: Path | None = None,
) -> Prompting:
    """Prompts of a profile, with some of its inputs.

    The `<ego>` line of a profile has two lines of text, the state and the history.

    Raises:
        UnknownNameError: no such profile, input or codec.
        InputError: see `get_profile`.
    """
    for name in inputs:
        if name not in INPUTS:
            raise suggest(name, list(INPUTS), kind="prompt input")
    get_codec(codec)
    whole = get_profile(profile, system_file=system_file)
    kept = {s: line for s, line in whole.lines if _shown(s, inputs)}
    if "<ego>" in kept:
        state, history = kept["<ego>"].split("\n")
        parts = [(state, "ego"), (history, "history")]
        kept["<ego>"] = "\n".join(text for text, name in parts if name in inputs)
    shown = dataclasses.replace(whole, lines=tuple(kept.items()))
    return Prompting(shown, tuple(i for i in INPUTS if i in inputs), codec)


def planning_instructions(
    build: Build,
    split: str,
    prompting: Prompting,
    *,
    answers: bool,
    command: str | None = None,
    limit: int = 0,
) -> pa.Table:
    """The stage-3 conversations of a split, one a keyframe, as `INSTRUCTIONS`.

    Args:
        build: the build.
        split: such as "train".
        prompting: how prompts are made.
        answers: whether futures are read and written as answers; keyframes for which the profile
            answers nothing are then left out. Without, no column that holds a future is read.
        command: one command for all keyframes in place of the recorded ones.
        limit: conversations at most; 0 is all.
    """
    profile = prompting.profile
    columns = ("sample_token", *prompt_columns(profile), *(FUTURE_COLUMNS if answers else ()))
    rows = build.table("planning", split, columns)
    rows = rows.slice(0, limit) if limit and not answers else rows
    fields = ego_fields(rows, profile)
    if command is not None:
        fields = [{**f, "command": command} for f in fields]
    question = profile.question("planning")
    texts: list[str | None] = [""] * rows.num_rows
    if answers:
        texts = planning_answers(rows, profile, get_codec(prompting.codec))
    made = [
        (f"planning/{token}", "planning", token, -1, user, answer)
        for token, user, answer in zip(
            rows["sample_token"].to_pylist(),
            (prompting.user_text(PLANNING_SENTINELS, question, f) for f in fields),
            texts,
            strict=True,
        )
        if answer is not None
    ]
    return as_table(made[: limit or None])


def as_table(rows: Sequence[tuple[str, str, str, int, str, str]]) -> pa.Table:
    """Conversations as a table."""
    columns = zip(*rows, strict=True) if rows else [[] for _ in INSTRUCTIONS]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, INSTRUCTIONS, strict=True)],
        schema=INSTRUCTIONS,
    )


def _shown(sentinel: str, inputs: Sequence[str]) -> bool:
    if sentinel in _VISUAL:
        return "visual" in inputs
    if sentinel == "<ego>":
        return "ego" in inputs or "history" in inputs
    return "command" in inputs


def require_rows(table: pa.Table, what: str) -> None:
    """Raise where there is nothing to work on.

    Raises:
        InputError: no rows; says which.
    """
    if not table.num_rows:
        raise InputError(f"No {what}. Build that source, or choose another split.")
