from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.datasets.text_columns import (
    equal,
    first_bytes,
    is_in,
    mapped,
    replaced,
    slices,
    unquoted,
)

TEXTS = st.lists(st.text(st.sampled_from('ab "\\\n\té€'), max_size=5), max_size=6)
VALUES = st.lists(
    st.none()
    | st.text(st.sampled_from('ab "\\\n\té€'), max_size=5)
    | st.integers()
    | st.booleans(),
    max_size=8,
)
LONGEST = 4


@given(VALUES, st.integers(0, 2))
def test_a_plain_string_is_what_json_says(values: list[object], skipped: int) -> None:
    texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
    column = pa.array([None, '"x"', *texts], pa.string())[skipped:]
    found, plain = unquoted(column, LONGEST)
    for text, one, fine in zip(column.to_pylist(), found.to_pylist(), plain.tolist(), strict=True):
        value = None if text is None else json.loads(text)
        if fine:
            assert one == value
        else:
            assert one == ""
        plainly = isinstance(value, str) and value.isascii() and len(value) <= LONGEST
        plainly = plainly and bool(value) and value == str(value).strip()
        assert fine == (plainly and not set(str(value)) & set('"\\\n\t'))


@given(TEXTS, st.data())
def test_slices_and_replacements(texts: list[str], data: st.DataObject) -> None:
    parts = [text.encode() for text in texts]
    stops = np.cumsum([len(part) + 1 for part in parts], dtype=np.int64) - 1
    starts = stops - [len(part) for part in parts]
    column = slices(b"".join(part + b"," for part in parts), starts, stops, pa.string())
    assert column.to_pylist() == texts
    column.validate(full=True)
    rows = data.draw(
        st.lists(st.sampled_from(range(len(texts))), unique=True) if texts else st.just([])
    )
    by = [f"new {row}" for row in sorted(rows)]
    expected = [f"new {i}" if i in rows else text for i, text in enumerate(texts)]
    assert replaced(column, sorted(rows), by).to_pylist() == expected


@given(TEXTS)
def test_whole_columns(texts: list[str]) -> None:
    column = pa.array([*texts, None], pa.string())
    assert mapped(column, str.upper).to_pylist() == [*map(str.upper, texts), None]
    assert equal(column, "a").tolist() == [*(text == "a" for text in texts), False]
    assert is_in(column, ["a", "b"]).tolist() == [*(text in ("a", "b") for text in texts), False]
    assert [
        chr(b) for b, t in zip(first_bytes(column), texts, strict=False) if t.isascii() and t
    ] == [text[0] for text in texts if text.isascii() and text]


def test_a_function_is_asked_once_for_each_text() -> None:
    asked: list[str] = []
    mapped(pa.array(["b", "a", "b"]), lambda text: asked.append(text) or text)
    assert asked == ["b", "a"]
