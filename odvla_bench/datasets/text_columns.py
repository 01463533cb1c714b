"""Columns of texts, worked on without a Python object for each.

Most texts of a file are as they should be, or repeat. What these functions find plain or equal they
treat at once, so that only what is left has to be looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer[Any]]

_QUOTE, _BACKSLASH = b'"\\'
_BLANK, _DELETE = 0x20, 0x7F
"""What is between them is visible ASCII."""


def slices(
    content: bytes | pa.Buffer, starts: IntArray, stops: IntArray, kind: pa.DataType
) -> pa.Array:
    """(N,) the parts of some bytes between places, as texts or binaries.

    Args:
        content: less than 2 GiB.
        starts: (N,) ascending.
        stops: (N,) none before its start or after the next one.
        kind: `pa.string()` or `pa.binary()`; texts are not checked for being UTF-8.
    """
    if not len(starts):
        return pa.array([], kind)
    places = np.stack([starts, stops], -1).astype(np.int32)
    buffers = [None, pa.py_buffer(places), pa.py_buffer(content)]
    with_gaps = pa.Array.from_buffers(kind, places.size - 1, buffers)
    return with_gaps.take(pa.array(np.arange(0, places.size, 2)))


def offsets_of(texts: pa.StringArray) -> npt.NDArray[np.int32]:
    """(N + 1,) where each text starts in the array's bytes, and the last one ends."""
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]


def bytes_of(texts: pa.StringArray) -> npt.NDArray[np.uint8]:
    """The bytes that the offsets of an array refer to; some byte where there are none."""
    content = texts.buffers()[2]
    return np.frombuffer(content if content else b" ", np.uint8)


def first_bytes(texts: pa.StringArray) -> npt.NDArray[np.uint8]:
    """(N,) the first byte of each text; any byte where it is empty."""
    content = bytes_of(texts)
    return content[np.minimum(offsets_of(texts)[:-1], len(content) - 1)]


def equal(texts: pa.StringArray, other: str | pa.StringArray) -> BoolArray:
    """(N,) which texts are there and equal another, or others."""
    return to_numpy(pc.coalesce(pc.equal(texts, other), pa.scalar(value=False)))


def is_in(texts: pa.StringArray, known: Iterable[str]) -> BoolArray:
    """(N,) which texts are among some."""
    return to_numpy(pc.is_in(texts, pa.array(known, pa.string())))


def unquoted(values: pa.StringArray, longest: int) -> tuple[pa.StringArray, BoolArray]:
    """The texts of JSON values that are plain strings, and which are.

    A plain string has one byte at least and `longest` at most, no escape, and visible ASCII at both
    ends. Of the others the text is empty.
    """
    offsets, content = offsets_of(values), bytes_of(values)
    starts, stops = offsets[:-1] + 1, offsets[1:] - 1
    size = stops - starts
    ends = content[np.minimum(starts, len(content) - 1)], content[np.maximum(stops - 1, 0)]
    plain = (first_bytes(values) == _QUOTE) & (size > 0) & (size <= longest)
    for end in ends:
        plain &= (end > _BLANK) & (end < _DELETE)
    if (content == _BACKSLASH).any():
        escaped = pc.match_substring(values, "\\")
        plain &= ~to_numpy(pc.coalesce(escaped, pa.scalar(value=False)))
    starts = np.where(plain, starts, offsets[:-1])
    stops = np.where(plain, stops, starts)
    return slices(values.buffers()[2] or b"", starts, stops, pa.string()), plain


def replaced(texts: pa.StringArray, rows: Sequence[int], by: Sequence[str]) -> pa.StringArray:
    """The texts with those of ascending rows replaced."""
    if not rows:
        return texts
    mask = np.zeros(len(texts), bool)
    mask[rows] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(by, pa.string()))


def mapped(texts: pa.StringArray, function: Callable[[str], str]) -> pa.StringArray:
    """A function's values for all texts; it is asked once for each distinct one."""
    distinct = texts.dictionary_encode()
    return pa.array(map(function, distinct.dictionary.to_pylist()), pa.string()).take(
        distinct.indices
    )


def to_numpy(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column without nulls as an array."""
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)
