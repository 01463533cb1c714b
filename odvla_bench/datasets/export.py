"""Instructions in the files that other training codes read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odvla_bench.datasets.instructions import Instruction
from odvla_bench.datasets.writer import whole_file

_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}

Record = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A file format: what a record is, and how records are put into a file."""

    name: str
    what: str
    record: Callable[[Instruction], Record]
    """An instruction → a record; it never holds a key without a value."""
    lines: bool = False
    """One record a line, instead of a JSON list."""


def llava(instruction: Instruction) -> Record:
    """LLaVA's training JSON: `id`, `conversations` of human and gpt; the system text before it."""
    turns = [m for m in instruction.messages if m.role != "system"]
    system = [m.content for m in instruction.messages if m.role == "system"]
    return {
        "id": instruction.row_id,
        **({"system": system[0]} if system else {}),
        "conversations": [{"from": _SPEAKERS[m.role], "value": m.content} for m in turns],
    }


def sharegpt(instruction: Instruction) -> Record:
    """ShareGPT: like LLaVA's, with the system text as a turn of its own."""
    turns = [{"from": _SPEAKERS[m.role], "value": m.content} for m in instruction.messages]
    return {"id": instruction.row_id, "conversations": turns}


def openai(instruction: Instruction) -> Record:
    """OpenAI `messages`; contents are plain strings, so that no part can be null."""
    return {"messages": [{"role": m.role, "content": m.content} for m in instruction.messages]}


def released(instruction: Instruction) -> Record:
    """The conversation JSON of the released OpenDriveVLA code.

    Its loader takes what stands before the first `_` of the id for the sample token, looks an
    agent up by `instance_token`, and has the system text in its own code.
    """
    token, plan = instruction.sample_token, instruction.task == "planning"
    handle = instruction.instance_token
    return {
        **({"qa_id": f"{token}_trajectory"} if plan else {"id": f"{token}_{instruction.row_id}"}),
        "sample_id": token,
        **({"instance_token": handle} if handle else {}),
        "conversations": llava(instruction)["conversations"],
    }


FORMATS = {
    f.name: f
    for f in (
        Format("llava", "LLaVA training JSON", llava),
        Format("sharegpt", "ShareGPT JSON", sharegpt),
        Format("openai", "OpenAI messages, JSON lines", openai, lines=True),
        Format("released", "conversation JSON of the released OpenDriveVLA code", released),
    )
}


def export(instructions: Iterable[Instruction], path: Path, form: Format) -> int:
    """Write instructions to a file, whole or not at all, and return how many there were."""
    head, between, tail = ("", "\n", "\n") if form.lines else ("[\n", ",\n", "\n]\n")
    n = 0
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as f:
        f.write(head)
        for n, instruction in enumerate(instructions, 1):  # noqa: B007
            text = json.dumps(form.record(instruction), ensure_ascii=False)
            f.write(f"{between}{text}" if n > 1 else text)
        f.write(tail if n or not form.lines else "")
    return n
