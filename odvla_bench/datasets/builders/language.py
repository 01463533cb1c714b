"""What the language sources share: rows of texts as columns of their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Keyframes, Unit
from odvla_bench.datasets.schema import Table
from odvla_bench.datasets.text_columns import BoolArray, offsets_of

_ABSENT: Mapping[str, object] = {"instance_id": -1, "num_hop": -1}
"""What a column holds where there is nothing, if not an empty text or 0."""

_TEXT, _SAMPLE = pa.field("", pa.string()), pa.field("", pa.int32())
_FLAGS = pa.list_(pa.string())

TextColumns = Mapping[str, Any]
"""Columns of a text table by name, each an array, a list, or one value for all rows. Beside the
table's own: `sentinels` (first line of the user turn, one text), `question`, and `said` (the
assistant turn, where it is not `answer`). `row_id` is without the source. `flags` maps each to
where it holds."""


def text_table(
    table: Table,
    source: str,
    license: str,  # noqa: A002
    keyframes: Keyframes,
    rows: TextColumns,
) -> pa.Table:
    """Rows of a text table as columns of its schema.

    Args:
        table: `ALIGNMENT` or `INSTRUCT`.
        source: the builder's name.
        license: terms of the source's own text.
        keyframes: what `sample_id` refers to.
        rows: the rows; columns of the table that are not there hold nothing.
    """
    n = len(rows["sample_id"])
    if not n:
        return table.schema.empty_table()
    answer = _column(rows["answer"], _TEXT, n)
    said = _column(rows["said"], _TEXT, n) if "said" in rows else answer
    columns: dict[str, Any] = {
        **rows,
        "row_id": pc.binary_join_element_wise(
            pa.scalar(source), _column(rows["row_id"], _TEXT, n), ":"
        ),
        **keyframe_columns(keyframes, rows["sample_id"]),
        "source": source,
        "license": license,
        "messages": _messages(rows["sentinels"], rows["question"], said),
        "answer": answer,
        "references": _lists(np.ones(n, np.int32), answer),
        "flags": flag_lists(rows.get("flags", {}), n),
    }
    return table_of(table, columns)


def table_of(table: Table, columns: Mapping[str, Any]) -> pa.Table:
    """Columns in a table's order and types; one value stands for all rows, none for nothing."""
    n = len(columns["sample_id"])
    arrays = [_column(columns.get(f.name), f, n) for f in table.schema]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def row_ids(part: str, rows: npt.NDArray[np.int64]) -> pa.Array:
    """What tells the records of a list apart: the file's key, and their positions."""
    return pc.binary_join_element_wise(part, pa.array(rows).cast(pa.string()), ":")


def keyframe_columns(keyframes: Keyframes, samples: Any) -> dict[str, pa.ChunkedArray]:
    """The columns that say which keyframe a row is of."""
    table = keyframes.columns.take(_column(samples, _SAMPLE, len(samples)))
    return dict(zip(table.schema.names, table.columns, strict=True))


def _column(values: Any, field: pa.Field, n: int) -> pa.Array:
    if values is None:
        values = _ABSENT.get(field.name, "" if field.type == pa.string() else 0)
    if isinstance(values, (str, int)):
        return pa.repeat(pa.scalar(values, field.type), n)
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values if values.type == field.type else values.cast(field.type)
    return pa.array(values, field.type)


def _messages(
    sentinels: str, question: str | Sequence[str] | pa.Array, said: pa.Array
) -> pa.ListArray:
    """(n,) the two turns of each row."""
    n = len(said)
    if isinstance(question, str):
        both = pc.binary_join_element_wise(f"{sentinels}\n{question}", said, "")
    else:
        both = pc.binary_join_element_wise(f"{sentinels}\n", _column(question, _TEXT, n), said, "")
    ends = np.repeat(offsets_of(both), 2)[1:]
    ends[1::2] -= np.diff(offsets_of(said))
    contents = pa.StringArray.from_buffers(2 * n, pa.py_buffer(ends), both.buffers()[2])
    roles = pa.array(["user", "assistant"], pa.string()).take(
        pa.array(np.tile(np.arange(2, dtype=np.int32), n))
    )
    turns = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    return _lists(np.full(n, 2, np.int32), turns)


def flag_lists(holds: Mapping[str, BoolArray], n: int) -> pa.ListArray:
    """(n,) the flags that hold, in the order given."""
    codes = np.zeros(n, np.int64)
    for bit, mask in enumerate(holds.values()):
        codes |= mask.astype(np.int64) << bit
    distinct, kind = np.unique(codes, return_inverse=True)
    kinds = [[f for bit, f in enumerate(holds) if code >> bit & 1] for code in distinct.tolist()]
    return pa.array(kinds, _FLAGS).take(pa.array(kind))


def _lists(lengths: npt.NDArray[np.int32], values: pa.Array) -> pa.ListArray:
    offsets = np.r_[np.int32(0), np.cumsum(lengths, dtype=np.int32)]
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def file_units(source: str, context: Context, parts: Sequence[str]) -> list[Unit]:
    """One unit a file that is there."""
    files = context.files(source)
    there = [part for part in parts if part in files]
    return [Unit(source, "", i, len(there), (), part) for i, part in enumerate(there)]


def sentence(text: str) -> str:
    """White space collapsed, a period at the end unless it ends as a sentence does."""
    text = _collapsed(text)
    return text if not text or text[-1] in ".!?" else f"{text}."


def clause(text: str) -> str:
    """White space collapsed, and no period at the end."""
    return _collapsed(text).rstrip(". ")


def _collapsed(text: str) -> str:
    # Most texts are as they should be, and asking is faster than making them so.
    if text.isprintable() and "  " not in text and text[:1] != " " and text[-1:] != " ":
        return text
    return " ".join(text.split())
