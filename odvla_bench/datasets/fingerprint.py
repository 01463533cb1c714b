"""Fingerprints of tables by their values, whatever wrote or stores them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.provenance import hexdigest, new_hash

_BLOCK_ROWS = 65_536


def canonical_type(dtype: pa.DataType) -> str:
    """The logical type's name: storage variants (dictionary, large, view, fixed list) coincide."""
    if pa.types.is_dictionary(dtype):
        return canonical_type(dtype.value_type)
    if _is_list(dtype):
        return f"list<{canonical_type(dtype.value_type)}>"
    if pa.types.is_struct(dtype):
        inner = ",".join(f"{f.name}:{canonical_type(f.type)}" for f in dtype)
        return f"struct<{inner}>"
    if _is_text(dtype):
        return "string"
    if _is_binary(dtype):
        return "binary"
    return str(dtype)


class ContentDigest:
    """A fingerprint of a table's values, fed batch by batch.

    It depends on column names, logical types and values, and on nothing else: not on row groups,
    codecs, dictionary encoding, batch borders or the writer. The digest of each column is SHA-256
    over blocks of 65,536 rows, each block its validity bits, lengths and little-endian values.
    """

    def __init__(self, schema: pa.Schema) -> None:
        """Fix the columns; every batch must have this schema's names in this order."""
        self._names = schema.names
        self._types = [canonical_type(f.type) for f in schema]
        self._hashes = [new_hash() for _ in schema]
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._rows = 0

    def update(self, table: pa.Table) -> None:
        """Add rows."""
        self._pending.append(table)
        self._pending_rows += table.num_rows
        if self._pending_rows >= _BLOCK_ROWS:
            self._drain(final=False)

    def hexdigest(self) -> str:
        """The fingerprint of all rows given; call once, at the end."""
        self._drain(final=True)
        h = new_hash()
        for name, kind, column in zip(self._names, self._types, self._hashes, strict=True):
            for part in (name.encode(), kind.encode(), column.digest()):
                h.update(len(part).to_bytes(8, "little") + part)
        h.update(self._rows.to_bytes(8, "little"))
        return hexdigest(h)

    def _drain(self, *, final: bool) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        stop = table.num_rows if final else table.num_rows // _BLOCK_ROWS * _BLOCK_ROWS
        for start in range(0, stop, _BLOCK_ROWS):
            block = table.slice(start, min(_BLOCK_ROWS, stop - start))
            for column, h in zip(block.columns, self._hashes, strict=True):
                for part in _column_bytes(column):
                    h.update(part)
            self._rows += block.num_rows
        self._pending = [table.slice(stop)] if stop < table.num_rows else []
        self._pending_rows = table.num_rows - stop


def digest_table(table: pa.Table) -> str:
    """The content fingerprint of one table."""
    digest = ContentDigest(table.schema)
    digest.update(table)
    return digest.hexdigest()


def _column_bytes(array: Any) -> Iterable[bytes | memoryview]:
    """The canonical bytes of one block of one column."""
    if isinstance(array, pa.ChunkedArray):  # combining would copy even a single chunk
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    yield len(array).to_bytes(8, "little")
    valid = np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False))
    yield np.packbits(valid).tobytes()
    if _is_list(array.type):
        yield np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype="<i8").tobytes()
        yield from _column_bytes(pc.list_flatten(array))
    elif pa.types.is_struct(array.type):
        for child in array.flatten():
            yield from _column_bytes(child)
    elif _is_text(array.type) or _is_binary(array.type):
        raw = array.cast(pa.large_binary())
        raw = pc.fill_null(raw, b"") if raw.null_count else raw
        yield np.asarray(pc.binary_length(raw), dtype="<i8").tobytes()
        offsets = np.frombuffer(raw.buffers()[1], "<i8")[raw.offset : raw.offset + len(raw) + 1]
        if raw.buffers()[2] is not None:
            yield memoryview(raw.buffers()[2])[offsets[0] : offsets[-1]]
    elif pa.types.is_null(array.type):
        return
    else:
        values = pc.fill_null(array, pa.scalar(0, pa.int8()).cast(array.type, safe=False))
        numbers = np.asarray(values.to_numpy(zero_copy_only=False))
        yield np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"))).tobytes()


def _is_list(dtype: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_list(dtype) or t.is_large_list(dtype) or t.is_fixed_size_list(dtype))


def _is_text(dtype: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_string(dtype) or t.is_large_string(dtype) or t.is_string_view(dtype))


def _is_binary(dtype: pa.DataType) -> bool:
    t = pa.types
    return bool(
        t.is_binary(dtype)
        or t.is_large_binary(dtype)
        or t.is_binary_view(dtype)
        or t.is_fixed_size_binary(dtype)
    )
