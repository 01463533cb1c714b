"""The conversations of a stage in memory, as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from odvla_bench.baselines.opendrivevla.prompting import Prompting
from odvla_bench.datasets.instructions import Instruction, iter_instructions
from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.schema import STAGE_TABLES, TABLES
from odvla_bench.errors import InputError

CONVERSATIONS = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("sample_token", pa.string(), nullable=False),
        pa.field("instance_id", pa.int32(), nullable=False),
        pa.field("user", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
    ]
)
"""`instance_id` is -1 where no agent is asked about; `answer` is empty where none was read."""


def read_conversations(
    build: Build,
    stage: str,
    split: str,
    prompting: Prompting,
    *,
    answers: bool,
    limit: int = 0,
    spread: bool = False,
) -> pa.Table:
    """The conversations of a stage in the build's order, as rows of `CONVERSATIONS`.

    Args:
        build: an open build.
        stage: "1", "2", "2.5" or "3".
        split: such as "train".
        prompting: how prompts are made.
        answers: whether answers are read; without, no ground truth is.
        limit: conversations at most; 0 is all.
        spread: take as many of each source, evenly over the split, instead of the first.

    Raises:
        InputError: the build has none.
    """
    table = STAGE_TABLES[stage].name

    def found(sources: Sequence[str] | None = None) -> Iterator[Instruction]:
        return iter_instructions(
            build,
            stage,
            split,
            prompting.profile,
            codec=prompting.codec(table),
            sources=sources,
            answers=answers,
        )

    instances = _instance_ids(build, table, split)
    sources = build.source_rows(table, split)
    if limit and spread and sources:
        shares = _shares(sources, limit)
        parts = [islice(found([s]), 0, n * step, step) for s, (n, step) in shares.items()]
    else:
        parts = [islice(found(), limit or None)]
    rows = [_row(instruction, instances) for instruction in chain.from_iterable(parts)]
    if not rows:
        raise InputError(
            f"{build.path}: no instructions of stage {stage} in split {split!r}. Build the sources "
            f"of its table {table!r}, or choose another split."
        )
    return pa.Table.from_pylist(rows, schema=CONVERSATIONS)


def _shares(rows: dict[str, int], limit: int) -> dict[str, tuple[int, int]]:
    """Source → how many of its rows to take, and every which one."""
    shares = {}
    for i, (source, count) in enumerate(rows.items()):
        wanted = limit // len(rows) + (i < limit % len(rows))
        shares[source] = (wanted, max(count // max(wanted, 1), 1))
    return shares


def _row(instruction: Instruction, instances: dict[str, int]) -> dict[str, Any]:
    turns = {message.role: message.content for message in instruction.messages}
    return {
        "row_id": instruction.row_id,
        "task": instruction.task,
        "sample_token": instruction.sample_token,
        "instance_id": instances.get(instruction.instance_token, -1),
        "user": turns["user"],
        "answer": turns.get("assistant", ""),
    }


def _instance_ids(build: Build, table: str, split: str) -> dict[str, int]:
    """Instance token → number, of the agents that a table asks about."""
    columns = ("instance_token", "instance_id")
    if columns[0] not in TABLES[table].schema.names:
        return {}

    def pairs() -> Iterator[tuple[str, int]]:
        for rows in build.batches(table, split, columns):
            yield from zip(*(rows[c].to_pylist() for c in columns), strict=True)

    return dict(pairs())
