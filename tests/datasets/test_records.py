from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odvla_bench.datasets import record_index, records
from odvla_bench.datasets.records import open_records
from odvla_bench.errors import InputError

TEXT = st.text(st.sampled_from('ab"\\{}[],: \n\té€😀'), max_size=12)
NAME = st.sampled_from(["a", "b"]) | TEXT
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("a", "b", "a.b")
SHARED_FOLDER = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Record(NamedTuple):
    row: int
    key: str
    raw: str
    fields: dict[str, Any]
    """Those of `FIELDS` that are there."""
    problem: str


def read(path: Path, cache: str = "cache", **options: Any) -> list[Record]:
    file = open_records(path, path.parent / cache, **options)
    records = []
    for chunk in file.read(FIELDS):
        rows = zip(*(column.to_pylist() for column in chunk.fields.values()), strict=True)
        for i, (key, raw, texts) in enumerate(
            zip(chunk.keys.to_pylist(), chunk.raws.to_pylist(), rows, strict=True)
        ):
            there = ((f, text) for f, text in zip(FIELDS, texts, strict=True) if text is not None)
            fields = {f: json.loads(text) for f, text in there}
            records.append(Record(chunk.first + i, key, raw, fields, chunk.damaged.get(i, "")))
    return records


def fields_of(value: Any) -> dict[str, Any]:
    """What `read` has to find in a value."""
    found = value if isinstance(value, dict) else {}
    inner = found.get("a") if isinstance(found.get("a"), dict) else {}
    named = {"a": found, "b": found, "a.b": inner}
    return {path: place[path[-1]] for path, place in named.items() if path[-1] in place}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@SHARED_FOLDER
@given(
    value=st.lists(JSON, max_size=6) | st.dictionaries(NAME, JSON, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    block=st.integers(1, 40),
    wrapped=st.booleans(),
)
def test_reads_what_json_reads(
    tmp_path: Path, value: Any, indent: int | None, ascii_only: bool, block: int, wrapped: bool
) -> None:
    whole = {"info": {"a": '}"'}, "questions": value, "more": [1]} if wrapped else value
    text = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)
    path = write(tmp_path / f"{abs(hash(text))}.json", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_index, "_BLOCK_BYTES", block)
        found = read(path, f"block-{block}", key="questions" if wrapped else "")
    keys = list(value) if isinstance(value, dict) else [""] * len(value)
    values = list(value.values()) if isinstance(value, dict) else value
    assert [r.problem for r in found] == [""] * len(value)
    assert [r.fields for r in found] == list(map(fields_of, values))
    assert [json.loads(r.raw) for r in found] == values
    assert [r.key for r in found] == keys
    assert [r.row for r in found] == list(range(len(value)))


def test_any_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_CHUNK_RECORDS", 3)
    path = write(tmp_path / "a.json", json.dumps(list(range(10))))
    file = open_records(path, tmp_path)
    assert len(file) == 10
    found = [chunk.raws.to_pylist() for chunk in file.read(FIELDS, 2, 9)]
    assert found == [["2", "3", "4"], ["5", "6", "7"], ["8"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON list or object"),
        (b"PK\x03\x04", "Unpack the file"),
        ('{"a": 1}'.encode("utf-16"), "in UTF-8"),
        (b'"text"', "no JSON list or object"),
        (b'[{"a": 1}, {"a": 2}, {"a"', "after 2 whole ones"),
        (b'[{"a": "x}, {"b": 1}]', "middle of its records"),
        (b"[1, 2] [3]", "damaged near byte 5"),
        (b"[1, 2}", "damaged near byte 5"),
    ],
    ids=["empty", "zip", "utf16", "scalar", "truncated", "open-quote", "more", "mismatched"],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(write(tmp_path / "a.json", content))
    assert str(tmp_path / "a.json") in str(error.value)


@pytest.mark.parametrize("content", [b"[1]", b'{"info": 1}', b'{"info": tru', b"{"])
def test_the_key_must_be_there(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="no key 'questions'|no JSON list"):
        read(write(tmp_path / "a.json", content), key="questions")


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (b"tru", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'"caf\xe9"', "not UTF-8"),
        (b"", "not JSON"),
        (b'"\\uD83d"', "surrogates not allowed"),
        (b'"' + b"x" * (1 << 22) + b'"', "longer than"),
        (b'"' + b"x" * (1 << 26) + b'"', "longer than"),
    ],
    ids=["word", "quotes", "latin1", "blank", "surrogate", "long", "longer than a chunk"],
)
def test_a_damaged_record_costs_itself_only(tmp_path: Path, damaged: bytes, problem: str) -> None:
    found = read(write(tmp_path / "a.json", b'[{"a": 1}, ' + damaged + b', {"a": 3}]'))
    assert [r.fields for r in found] == [{"a": 1}, {}, {"a": 3}]
    assert problem in found[1].problem
    assert found[1].key == damaged[:63].decode(errors="replace")
    assert found[0].problem == found[2].problem == ""


@pytest.mark.parametrize(
    "damaged",
    [b'"b"', b'"b" 2', b"b: 2", b'"b": tru', b"", b"3: 2", b'"\\ud83d": 2', b'"caf\xe9": 2'],
)
def test_so_does_one_of_an_object(tmp_path: Path, damaged: bytes) -> None:
    found = read(write(tmp_path / "a.json", b'{"one": {"a": 1}, ' + damaged + b', "c": {"a": 3}}'))
    assert [r.fields for r in found] == [{"a": 1}, {}, {"a": 3}]
    assert [r.key for r in found] == ["one", found[1].key, "c"]
    assert "not " in found[1].problem


def test_what_duckdb_lets_pass_is_read_and_kept_as_it_stands(tmp_path: Path) -> None:
    raws = ['{"a": 1, }', '{"a": 2, "c": [1, NaN]}', '{"a": 3, "c": -Infinity}']
    found = read(write(tmp_path / "a.json", f"[{', '.join(raws)}]"))
    assert [(r.fields, r.raw) for r in found] == [({"a": i + 1}, raw) for i, raw in enumerate(raws)]


def test_a_deep_value_is_a_value(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    found = read(write(tmp_path / "a.json", f'[{{"c": {deep}, "a": 1}}, 2]'))
    assert [(r.fields, r.problem) for r in found] == [({"a": 1}, ""), ({}, "")]


def test_the_last_of_equal_keys_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"a": 1, "b": 2, "a": 3, "c": 4, "b": 5}')
    assert open_records(path, tmp_path).superseded.tolist() == [0, 1]
    assert [r.raw for r in read(path)] == ["1", "2", "3", "4", "5"]


def test_the_first_of_equal_fields_counts(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path / "a.json", '[{"a": 1, "b": 2, "a": 3}]'))
    assert found.fields == {"a": 1, "b": 2}


def test_a_changed_file_is_indexed_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "[1, 2]")
    first = open_records(path, tmp_path)
    write(path, "[1, 2, 3]")
    second = open_records(path, tmp_path)
    assert (len(first), len(second)) == (2, 3)
    assert first.fingerprint != second.fingerprint


@SHARED_FOLDER
@given(content=st.binary(max_size=60))
def test_no_bytes_raise_anything_else(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "fuzz.json", b"[" + content)
    try:
        found = read(path)
    except InputError as error:
        assert "fuzz.json" in str(error)  # noqa: PT017
    else:
        assert all(r.raw == "null" and not r.fields for r in found if r.problem)


@SHARED_FOLDER
@given(
    value=st.lists(JSON, min_size=1, max_size=6) | st.dictionaries(NAME, JSON, min_size=1),
    indent=st.sampled_from([None, 1]),
    at=st.floats(0, 1),
    put=st.sampled_from([b"", b",", b" ", b"NaN", b"\\ud800", b"\xe9", b"]", b"1", b":", b'"']),
)
def test_read_together_or_one_by_one_is_the_same(
    tmp_path: Path, value: Any, indent: int | None, at: float, put: bytes
) -> None:
    text = json.dumps(value, indent=indent).encode()
    i = int(at * len(text))
    path = write(tmp_path / "once.json", text[:i] + put + text[i:])
    together = read_or_refused(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CHUNK_RECORDS", 1)
        assert read_or_refused(path) == together


def read_or_refused(path: Path) -> list[Record] | str:
    try:
        return read(path)
    except InputError as error:
        return str(error)
