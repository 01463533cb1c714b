"""What the language sources share: records to keyframes, text rows to columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from odvla_bench.datasets.builders.base import Context, Drop, Keyframes, Unit
from odvla_bench.datasets.record_index import Offsets
from odvla_bench.datasets.records import Chunk
from odvla_bench.datasets.schema import Table

MAX_TEXT_CHARS = 32_768
"""Longer questions and answers are damage; the known ones are below 4,000."""

_ABSENT: Mapping[str, object] = {"instance_id": -1, "num_hop": -1}
"""What a column holds where there is nothing, if not an empty text or 0."""

_TEXT = pa.field("", pa.string())
_FLAGS = pa.list_(pa.string())
_INT = pa.int64()

T = TypeVar("T")


class _Absent:
    """The type of `ABSENT`."""

    def __bool__(self) -> bool:
        return False


ABSENT = _Absent()
"""Stands for a field that a record does not have."""

Clean = Callable[[str], str]

TextColumns = Mapping[str, Any]
"""Columns of a text table by name, each a list, an Arrow array, or one value for all rows. Beside
the table's own: `sentinels` (first line of the user turn), `question`, and `said` (the assistant
turn, where it is not `answer`). `row_id` is without the source."""


class BadRecordError(Exception):
    """A record that yields no row, with the reason and the sentence for the ledger."""

    def __init__(self, reason: str, detail: str, split: str = "") -> None:
        """Keep what a `Drop` needs."""
        super().__init__(detail)
        self.reason, self.detail, self.split = reason, detail, split


class Fields:
    """Picks fields of records; what is absent is `ABSENT`, and of no object its type's name."""

    def __init__(self, *names: str) -> None:
        """Name two fields at least."""
        self.names = names
        self._get = itemgetter(*names)

    def __call__(self, value: Any) -> tuple[Any, ...] | str:
        """The fields of one record."""
        try:
            return self._get(value)
        except KeyError:
            return tuple([value.get(name, ABSENT) for name in self.names])
        except (TypeError, IndexError):
            return type(value).__name__


class Sieve:
    """Records of a chunk, taken apart column by column; bad ones fall out on the way.

    A column is made at once; where it cannot tell that all is well, the function that decides on
    one record is asked, and raises `BadRecordError` for one that yields no row. What fell out
    stays in the columns, as a blank, until `kept`.
    """

    def __init__(self, chunk: Chunk, fields: Fields, superseded: Offsets | None = None) -> None:
        """Take the records apart; those that are no objects fall out.

        Args:
            chunk: the records, read with `pick=fields`.
            fields: their names.
            superseded: ascending positions of those in the file whose key comes again later.
        """
        self.chunk = chunk
        self.fallen: dict[int, BadRecordError] = {}
        rows: list[Any] = list(chunk.values)
        blank = (ABSENT,) * len(fields.names)
        if superseded is not None:
            ends = np.searchsorted(superseded, (chunk.first, chunk.first + len(chunk)))
            again = superseded[slice(*ends)] - chunk.first
            self.decide(rows, again.tolist(), self._superseded, blank)
        odd = [i for i, row in enumerate(rows) if type(row) is not tuple]
        self.decide(rows, odd, self._no_object, blank)
        self.columns = dict(zip(fields.names, map(list, zip(*rows, strict=True)), strict=True))

    def decide(
        self, column: list[T], rows: Iterable[int], one: Callable[[int], T], blank: T
    ) -> None:
        """Ask `one` for the values of some rows of a column."""
        for i in rows:
            if i in self.fallen:
                column[i] = blank
                continue
            try:
                column[i] = one(i)
            except BadRecordError as error:
                column[i], self.fallen[i] = blank, error

    def refuse(self, i: int, why: BadRecordError) -> None:
        """Let a record fall out, if it has not yet."""
        self.fallen.setdefault(i, why)

    def record(self, i: int) -> dict[str, Any]:
        """The fields of one record that are there."""
        fields = ((name, column[i]) for name, column in self.columns.items())
        return {name: value for name, value in fields if value is not ABSENT}

    def texts(self, name: str, *, optional: bool = False, clean: Clean = str.strip) -> list[str]:
        """A text field of all records, see `text_of`, cleaned."""
        return self.texts_of(self.columns[name], name, optional=optional, clean=clean)

    def texts_of(
        self,
        values: Sequence[Any],
        name: str,
        *,
        optional: bool = False,
        clean: Clean = str.strip,
    ) -> list[str]:
        """The same of values of the field that were found elsewhere."""
        fit = [type(v) is str and len(v) <= MAX_TEXT_CHARS for v in values]
        found = [clean(v) if fits else "" for v, fits in zip(values, fit, strict=True)]
        if "" in found:
            doubtful = [
                i
                for i, text in enumerate(found)
                if not text and not (optional and (fit[i] or values[i] in (None, ABSENT)))
            ]
            self.decide(found, doubtful, lambda i: self._text(values[i], name, optional), "")
        return found

    def _text(self, value: object, name: str, optional: bool) -> str:  # noqa: FBT001
        return text_of({} if value is ABSENT else {name: value}, name, optional=optional)

    def samples(self, tokens: Sequence[str], keyframes: Keyframes, part: str = "") -> list[int]:
        """The keyframes of tokens, see `sample_of`; 0 for what fell out."""
        of_token = keyframes.sample_id.get
        samples = [of_token(token, -1) for token in tokens]
        fits = keyframes.fits(part)[samples]
        doubtful = np.flatnonzero(~fits).tolist()
        self.decide(samples, doubtful, lambda i: sample_of(tokens[i], keyframes, part), 0)
        return samples

    def kept(self, **columns: Sequence[Any]) -> dict[str, Any]:
        """Columns without what fell out; beside the given ones, what says where a row is from."""
        chunk = self.chunk
        rows = np.arange(chunk.first, chunk.first + len(chunk))
        columns |= {"source_key": chunk.keys}
        if not self.fallen:
            return {**columns, "source_row": rows, "raw": chunk.raws}
        there = [i for i in range(len(chunk)) if i not in self.fallen]
        kept: dict[str, Any] = {n: [column[i] for i in there] for n, column in columns.items()}
        return {**kept, "source_row": rows[there], "raw": chunk.raws.take(pa.array(there, _INT))}

    def drops(self, table: Table, part: str = "") -> list[Drop]:
        """The ledger's lines for what fell out.

        Args:
            table: the table that the rows are for.
            part: key of the file among its source's.
        """
        keys, first = self.chunk.keys, self.chunk.first
        drops = []
        for i, error in sorted(self.fallen.items()):
            name = ":".join(filter(None, (part, str(first + i), keys[i])))
            detail = f"record {name}: {error.detail}"
            drops.append(Drop(table.name, name, error.reason, detail, error.split))
        return drops

    def _no_object(self, i: int) -> tuple[Any, ...]:
        if problem := self.chunk.problems.get(i):
            raise BadRecordError("damaged", problem)
        raise BadRecordError("malformed", f"is a JSON {self.chunk.values[i]}, not an object")

    def _superseded(self, i: int) -> tuple[Any, ...]:
        raise BadRecordError("superseded", f"key {self.chunk.keys[i]:.40} comes again later")


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
    text = {name: _column(rows[name], _TEXT, n) for name in ("sentinels", "question", "answer")}
    said = _column(rows["said"], _TEXT, n) if "said" in rows else text["answer"]
    columns: dict[str, Any] = {
        **rows,
        "row_id": pc.binary_join_element_wise(
            pa.scalar(source), _column(rows["row_id"], _TEXT, n), ":"
        ),
        **_keyframe_columns(keyframes, rows["sample_id"]),
        "source": source,
        "license": license,
        "messages": _messages(text["sentinels"], text["question"], said),
        "answer": text["answer"],
        "references": _lists(np.ones(n, np.int32), text["answer"]),
        "flags": flag_lists(rows.get("flags", [()] * n)),
    }
    arrays = [_column(columns.get(f.name), f, n) for f in table.schema]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def row_ids(part: str, rows: npt.NDArray[np.int64]) -> pa.Array:
    """What tells the records of a list apart: the file's key, and their positions."""
    return pc.binary_join_element_wise(part, pa.array(rows).cast(pa.string()), ":")


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


def _messages(sentinels: pa.Array, question: pa.Array, said: pa.Array) -> pa.Array:
    n = len(said)
    users = pc.binary_join_element_wise(sentinels, question, "\n")
    turn_about = np.arange(2 * n, dtype=np.int32).reshape(2, n).T.reshape(-1)
    contents = pa.concat_arrays([users, said]).take(pa.array(turn_about))
    roles = pa.array(["user", "assistant"], pa.string()).take(
        pa.array(np.tile(np.arange(2, dtype=np.int32), n))
    )
    turns = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    return _lists(np.full(n, 2, np.int32), turns)


def flag_lists(flags: Sequence[tuple[str, ...]]) -> pa.Array:
    """A column of lists of texts, few of which differ."""
    number = {kind: i for i, kind in enumerate(dict.fromkeys(flags))}
    codes = np.fromiter(map(number.__getitem__, flags), np.int32, len(flags))
    return pa.array(map(list, number), _FLAGS).take(pa.array(codes))


def _lists(lengths: npt.NDArray[np.int32], values: pa.Array) -> pa.ListArray:
    offsets = np.r_[np.int32(0), np.cumsum(lengths, dtype=np.int32)]
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def file_units(source: str, context: Context, parts: Sequence[str]) -> list[Unit]:
    """One unit a file that is there."""
    files = context.files(source)
    there = [part for part in parts if part in files]
    return [Unit(source, "", i, len(there), (), part) for i, part in enumerate(there)]


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
