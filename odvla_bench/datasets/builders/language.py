"""What the language sources share: records to keyframes, text rows to columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from odvla_bench.datasets.builders.base import Context, Drop, Keyframes, Unit
from odvla_bench.datasets.records import RawRecord
from odvla_bench.datasets.schema import Table

MAX_TEXT_CHARS = 32_768
"""Longer questions and answers are damage; the known ones are below 4,000."""

_ABSENT: Mapping[str, object] = {"instance_id": -1, "num_hop": -1}
"""What a column holds where there is nothing, if not an empty text or 0."""


T = TypeVar("T")


class BadRecordError(Exception):
    """A record that yields no row, with the reason and the sentence for the ledger."""

    def __init__(self, reason: str, detail: str, split: str = "") -> None:
        """Keep what a `Drop` needs."""
        super().__init__(detail)
        self.reason, self.detail, self.split = reason, detail, split


class TextRow(NamedTuple):
    """One row of a text table, in this order but by names of its columns."""

    row_id: str
    """Without the source."""
    sample_id: int
    task: str
    sentinels: str
    """First line of the user turn."""
    question: str
    said: str
    """The assistant turn."""
    answer: str
    source_key: str
    source_row: int
    raw: str
    view: str = ""
    flags: tuple[str, ...] = ()


def text_table(
    table: Table,
    source: str,
    license: str,  # noqa: A002
    keyframes: Keyframes,
    rows: Sequence[TextRow],
    extra: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Rows of a text table as columns of its schema.

    Args:
        table: `ALIGNMENT` or `INSTRUCT`.
        source: the builder's name.
        license: terms of the source's own text.
        keyframes: what `sample_id` refers to.
        rows: the rows.
        extra: further columns of the table, as long as `rows`; others hold nothing.
    """
    if not rows:
        return table.schema.empty_table()
    by_name = dict(zip(TextRow._fields, zip(*rows, strict=True), strict=True))
    answers = pa.array(by_name["answer"], pa.string())
    columns: dict[str, Any] = {
        **{n: by_name[n] for n in by_name if n not in ("sentinels", "question", "said", "answer")},
        "row_id": [f"{source}:{row_id}" for row_id in by_name["row_id"]],
        **_keyframe_columns(keyframes, by_name["sample_id"]),
        "source": source,
        "license": license,
        "messages": _messages(by_name["sentinels"], by_name["question"], by_name["said"]),
        "answer": answers,
        "references": pa.ListArray.from_arrays(
            pa.array(np.arange(len(rows) + 1, dtype=np.int32)), answers
        ),
        **(extra or {}),
    }
    arrays = [_column(columns.get(f.name), f, len(rows)) for f in table.schema]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _keyframe_columns(keyframes: Keyframes, samples: Sequence[int]) -> dict[str, pa.ChunkedArray]:
    """The columns that say which keyframe a row is of."""
    table = keyframes.columns.take(pa.array(samples, pa.int32()))
    return dict(zip(table.schema.names, table.columns, strict=True))


def _column(values: Any, field: pa.Field, n: int) -> pa.Array:
    if values is None:
        values = _ABSENT.get(field.name, "" if field.type == pa.string() else 0)
    if isinstance(values, (str, int)):
        return pa.repeat(pa.scalar(values, field.type), n)
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values if values.type == field.type else values.cast(field.type)
    return pa.array(values, field.type)


def _messages(sentinels: Sequence[str], question: Sequence[str], said: Sequence[str]) -> pa.Array:
    users = (f"{s}\n{q}" for s, q in zip(sentinels, question, strict=True))
    contents = pa.array(list(chain.from_iterable(zip(users, said, strict=True))), pa.string())
    roles = pa.array(["user", "assistant"], pa.string()).take(
        pa.array(np.tile(np.arange(2, dtype=np.int32), len(said)))
    )
    turns = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    offsets = pa.array(np.arange(0, 2 * len(said) + 1, 2, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, turns)


def file_units(source: str, context: Context, parts: Sequence[str]) -> list[Unit]:
    """One unit a file that is there."""
    files = context.files(source)
    there = [part for part in parts if part in files]
    return [Unit(source, "", i, len(there), (), part) for i, part in enumerate(there)]


def convert(
    records: Iterable[RawRecord], make: Callable[[RawRecord], T], table: Table, part: str = ""
) -> tuple[list[T], list[Drop]]:
    """What `make` makes of the records, and the ledger's lines for those that it refuses.

    Args:
        records: of one file.
        make: raises `BadRecordError` for a record that yields no row.
        table: the table that the rows are for.
        part: key of the file among its source's.
    """
    made: list[T] = []
    drops: list[Drop] = []
    for record in records:
        result = _made(make, record)
        if isinstance(result, BadRecordError):
            drops.append(_drop(table, part, record, result))
        else:
            made.append(result)
    return made, drops


def _made(make: Callable[[RawRecord], T], record: RawRecord) -> T | BadRecordError:
    try:
        return make(record)
    except BadRecordError as error:
        return error


def _drop(table: Table, part: str, record: RawRecord, error: BadRecordError) -> Drop:
    name = ":".join(filter(None, (part, str(record.row), record.key)))
    return Drop(table.name, name, error.reason, f"record {name}: {error.detail}", error.split)


def fields_of(record: RawRecord) -> dict[str, Any]:
    """A record as a mapping.

    Raises:
        BadRecordError: it could not be parsed, or is something else.
    """
    if record.problem:
        raise BadRecordError("damaged", record.problem)
    if not isinstance(record.value, dict):
        kind = type(record.value).__name__
        raise BadRecordError("malformed", f"is a JSON {kind}, not an object")
    return record.value


def check_current(record: RawRecord, superseded: set[int]) -> None:
    """Refuse a record whose key comes again later: JSON readers keep the last.

    Raises:
        BadRecordError: it is one of those.
    """
    if record.row in superseded:
        raise BadRecordError("superseded", f"key {record.key:.40} comes again later")


def text_of(fields: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """A text field without white space around it; empty where an optional one is absent or null.

    Raises:
        BadRecordError: absent, empty or another type.
    """
    value = fields.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        found = f"is {_shown(value)}" if name in fields else "is absent"
        raise BadRecordError("malformed", f"key {name!r} {found}, not a text")
    if len(value) > MAX_TEXT_CHARS:
        limit = f"key {name!r} has {len(value):,} characters, more than {MAX_TEXT_CHARS:,}"
        raise BadRecordError("malformed", limit)
    if not (value := value.strip()) and not optional:
        raise BadRecordError("empty", f"key {name!r} is empty")
    return value


def _shown(value: object) -> str:
    return f"{value!r:.60}"


def sample_of(token: str, keyframes: Keyframes, part: str = "") -> int:
    """The keyframe of a token.

    Args:
        token: nuScenes sample token.
        keyframes: those of the version.
        part: the split that the record's file is of.

    Raises:
        BadRecordError: no such keyframe; one of no split, or of another than the file's; one that
            planning has no row for.
    """
    sample = keyframes.sample_id.get(token)
    if sample is None:
        raise BadRecordError("unknown_sample", f"nuScenes has no keyframe {token:.40}")
    split, official = keyframes.split[sample], keyframes.official_split[sample]
    if not split:
        raise BadRecordError("no_split", f"no official split names the scene of keyframe {token}")
    if part and official != part:
        detail = f"keyframe {token} is of split {official}, but the file is of {part}"
        raise BadRecordError("split_mismatch", detail, split)
    if not keyframes.has_lidar[sample]:
        raise BadRecordError("no_lidar", f"keyframe {token} has no LIDAR_TOP record", split)
    return sample


def sentence(text: str) -> str:
    """White space collapsed, a period at the end unless it ends as a sentence does."""
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?" else f"{text}."


def clause(text: str) -> str:
    """White space collapsed, and no period at the end."""
    return " ".join(text.split()).rstrip(". ")
