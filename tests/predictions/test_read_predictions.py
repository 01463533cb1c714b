from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import InputError, OdvlaError, PredictionError
from odvla_bench.predictions import PlanningPredictions, check_tokens, read_predictions, rows

X = [0.0, 0.11, 0.5, 1.25, -2.0, 0.0]
Y = [4.13, 8.3, 12.0, 16.0, 20.0, 24.5]
PAIRS = [list(p) for p in zip(X, Y, strict=True)]
TEXT = "[(0.00,4.13),(0.11,8.30),(0.50,12.00),(1.25,16.00),(-2.00,20.00),(0.00,24.50)]"
RECORD = {"sample_token": "a", "x_m": X, "y_m": Y}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file by its ending: Python values, or bytes as they are."""

    def write_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".parquet"):
            pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), path)
        elif name.endswith((".pkl", ".pickle")):
            path.write_bytes(pickle.dumps(content))
        elif name.endswith(".json"):
            path.write_text(json.dumps(content))
        else:
            path.write_text("".join(json.dumps(record) + "\n" for record in content))
        return path

    return write_file


ACCEPTED = {
    "parquet coordinates": ("p.parquet", {"sample_token": ["a"], "x_m": [X], "y_m": [Y]}),
    "parquet float32": (
        "p.parquet",
        pa.table(
            {
                "sample_token": pa.array(["a"], pa.large_string()),
                "x_m": pa.array([X], pa.large_list(pa.float64())),
                "y_m": pa.array([Y], pa.list_(pa.float64(), 6)),
                "latency_s": [0.1],
            }
        ),
    ),
    "parquet text": ("p.parquet", {"sample_token": ["a"], "text": [TEXT]}),
    "parquet coordinates where the text is null": (
        "p.parquet",
        {"sample_token": ["a"], "text": pa.array([None], pa.string()), "x_m": [X], "y_m": [Y]},
    ),
    "jsonl coordinates": ("p.jsonl", [RECORD]),
    "jsonl text": ("p.ndjson", [{"sample_token": "a", "text": TEXT}]),
    "jsonl text before coordinates": ("p.jsonl", [{**RECORD, "x_m": [9] * 6, "text": TEXT}]),
    "released conversations": (
        "plan_conv.json",
        json.dumps({"id": "a_trajectory", "question": "…", "answer": [TEXT, "other"]}).encode()
        + b"\n",
    ),
    "released trajectories": ("pred_trajs_dict.json", {"a_trajectory": [PAIRS]}),
    "json dict": ("p.json", {"a": PAIRS}),
    "json dict of texts": ("p.json", {"a": TEXT}),
    "json list": ("p.JSON", json.dumps([{"qa_id": "a_trajectory", "answer": TEXT}]).encode()),
    "byte order mark": ("p.json", b"\xef\xbb\xbf" + json.dumps([RECORD]).encode()),
    "pickle": ("p.pkl", {"a": np.array(PAIRS)}),
    "pickle of a batch": ("p.pickle", {"a": np.array([PAIRS])}),
    "pickle of lists": ("p.pkl", {"a": [tuple(p) for p in PAIRS]}),
    "pickle of numbers": ("p.pkl", {"a": [[np.float64(v) for v in p] for p in PAIRS]}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_accepted_form(name: str, write: Write) -> None:
    file, content = ACCEPTED[name]
    found = read_predictions(write(file, content))
    assert found.sample_token == ("a",)
    np.testing.assert_array_equal(found.xy_m, [PAIRS])
    parsed = "text" in name or "conversations" in name or name == "json list"
    parsed &= name != "parquet coordinates where the text is null"
    assert found.parse_status.tolist() == ["strict" if parsed else "given"]
    assert (found.parse_reason, found.parser, len(found)) == (("",), "text/none", 1)


def test_lines_in_a_json_file_are_rows(write: Write) -> None:
    lines = [json.dumps({"id": f"{t}_trajectory", "answer": [TEXT]}) for t in "abc"]
    path = write("plan_conv.json", "\n".join([*lines, "", ""]).encode())
    assert read_predictions(path).sample_token == ("a", "b", "c")


def test_fingerprint_is_of_the_predictions_and_not_of_the_file(write: Write) -> None:
    other = {"sample_token": "b", "x_m": Y, "y_m": X}
    there = read_predictions(write("p.jsonl", [RECORD, other]))
    back = read_predictions(write("p.pkl", {"b": np.array([Y, X]).T, "a": np.array(PAIRS)}))
    moved = read_predictions(write("q.jsonl", [RECORD, {**other, "x_m": [*Y[:5], 24.51]}]))
    assert there.fingerprint == back.fingerprint != moved.fingerprint
    parsed = read_predictions(write("r.json", {"a": TEXT}))
    given_ = read_predictions(write("s.json", {"a": PAIRS}))
    assert parsed.fingerprint != given_.fingerprint


def test_failed_parses_are_kept_and_flagged(write: Write) -> None:
    path = write("p.json", {"a": TEXT, "b": TEXT.replace(",(", ", ("), "c": "no plan"})
    strict = read_predictions(path)
    assert strict.parse_status.tolist() == ["strict", "failed", "failed"]
    assert np.isnan(strict.xy_m[1:]).all()
    assert strict.parse_reason[2].startswith("not [(x,y)")
    lenient = read_predictions(path, codec=get_codec("text", repair="released"))
    assert lenient.parse_status.tolist() == ["strict", "repaired", "failed"]
    assert lenient.parse_reason[1:] == ("white space removed", "no coordinate pair found")
    assert lenient.parser == "text/released"
    np.testing.assert_array_equal(lenient.xy_m[:2], [PAIRS, PAIRS])


def test_other_codecs_parse_texts(write: Write) -> None:
    codec = get_codec("bins", x_range_m=(-3, 3), x_bins=6, y_range_m=(0, 30), y_bins=3)
    found = read_predictions(write("p.json", {"a": codec.encode(X, Y)}), codec=codec)
    np.testing.assert_array_equal(found.xy_m[0, :, 1], [5, 5, 15, 15, 25, 25])
    for options in ({"n_steps": 4}, {"variable_length": True}):
        with pytest.raises(OdvlaError, match="6 steps, no fewer and no more"):
            read_predictions(write("p.json", {"a": TEXT}), codec=get_codec("text", **options))


NAN = [*X[:5], float("nan")]
DEFECTS: dict[str, tuple[str, Any, list[str]]] = {
    "several at once": (
        "p.jsonl",
        [{**RECORD, "x_m": X[:5]}, {**RECORD, "y_m": NAN}, {"sample_token": "b", "x_m": X}],
        [
            "p.jsonl, line 1, token a: x_m has 5 values; 6 numbers expected",
            "p.jsonl, line 2, token a: this sample stands in line 1 too",
            "p.jsonl, line 2, token a: y_m has nan, which is no finite number",
            "p.jsonl, line 3, token b: y_m is None; 6 numbers expected",
        ],
    ),
    "parquet defects": (
        "p.parquet",
        {"sample_token": ["a", None, "a"], "x_m": [X, X, None], "y_m": [Y, [None, *Y[1:]], NAN]},
        [
            "p.parquet, row 2: the token is None, not a printable text",
            "p.parquet, row 3, token a: this sample stands in row 1 too",
            "p.parquet, row 2: y_m has None, which is no finite number",
            "p.parquet, row 3, token a: x_m is None; 6 numbers expected",
            "p.parquet, row 3, token a: y_m has nan, which is no finite number",
        ],
    ),
    "no columns": (
        "p.parquet",
        {"token": ["a"], "x_m": [X]},
        [
            "p.parquet: no column sample_token; it has ['token', 'x_m']",
            "p.parquet: no columns x_m and y_m, and no column text; it has ['token', 'x_m']",
        ],
    ),
    "a column twice": (
        "p.parquet",
        pa.Table.from_arrays([pa.array(["a"])] * 3, ["sample_token", "text", "text"]),
        ["p.parquet: column text stands 2 times"],
    ),
    "columns of other types": (
        "p.parquet",
        {"sample_token": [7], "x_m": ["0 1 2"], "y_m": [[True] * 6]},
        [
            "p.parquet, row 1: the token is 7, not a printable text",
            "p.parquet, row 1, token 7: x_m is '0 1 2'; 6 numbers expected",
        ]
        + ["p.parquet, row 1, token 7: y_m has True, which is no finite number"] * 6,
    ),
    "text that is a number": (
        "p.parquet",
        {"sample_token": ["a"], "text": [3]},
        ["p.parquet, row 1, token a: the text is 3, not a text"],
    ),
    "Parquet text that is not UTF-8": (
        "p.parquet",
        pa.table(
            {
                "sample_token": ["a", "b"],
                "text": pa.StringArray.from_buffers(
                    2, pa.array([TEXT, "x"]).buffers()[1], pa.py_buffer(TEXT.encode() + b"\xe9")
                ),
            }
        ),
        ["p.parquet, row 2: text is not UTF-8 text"],
    ),
    "no rows in Parquet": (
        "p.parquet",
        {"sample_token": pa.array([], pa.string()), "text": pa.array([], pa.string())},
        ["p.parquet: no predictions in it"],
    ),
    "empty Parquet": ("p.parquet", b"", ["p.parquet: not a whole Parquet file"]),
    "empty lines": ("p.jsonl", b"\n \n", ["p.jsonl: no predictions in it"]),
    "empty JSON": ("p.json", b"", ["p.json: not complete JSON (Expecting value"]),
    "empty JSON list": ("p.json", [], ["p.json: no predictions in it"]),
    "empty JSON object": ("p.json", {}, ["p.json: no predictions in it"]),
    "empty pickle": ("p.pkl", {}, ["p.pkl: no predictions in it"]),
    "another pickle": ("p.pkl", [1], ["p.pkl: a dict of token → array expected, not [1]"]),
    "null": ("p.jsonl", b"null\n", ["p.jsonl, line 1: null where an object is expected"]),
    "a token that is no text": (
        "p.json",
        b'{"\\ud800": [], "%b": "x", "a\\n": "x"}' % (b"t" * 300),
        [
            "p.json, entry 1: the token is '\\ud800', not a printable text",
            "p.json, entry 1, token \\ud800: the plan is []",
            "p.json, entry 3: the token is 'a\\n', not a printable text",
        ],
    ),
    "another JSON": ("p.json", 3, ["p.json: a list or an object expected, not 3"]),
    "not UTF-8": (
        "p.jsonl",
        json.dumps(RECORD).encode() + b'\n{"sample_token": "\xe9"}\n',
        ["p.jsonl, line 2: not UTF-8 text, from byte 18 on; save it as UTF-8"],
    ),
    "UTF-16": (
        "p.json",
        json.dumps([RECORD]).encode("utf-16"),
        ["p.json: not UTF-8 text, from byte 0 on; save it as UTF-8"],
    ),
    "truncated JSON": (
        "p.json",
        json.dumps([RECORD]).encode()[:-9],
        ["p.json: not complete JSON (Expecting"],
    ),
    "truncated line": (
        "p.jsonl",
        (json.dumps(RECORD) + "\n" + json.dumps(RECORD)).encode()[:-4],
        ["p.jsonl, line 2: not complete JSON (Expecting"],
    ),
    "deep JSON": ("p.json", b"[" * 200_000, ["p.json: not complete JSON (maximum recursion"]),
    "a token twice in one object": (
        "p.json",
        json.dumps({"a": PAIRS, "b": PAIRS})[:-1].encode() + b', "a": 1}',
        [
            "p.json: 'a' stands twice in one object",
            "p.json, entry 1, token a: the plan is 1; a text or 6 pairs [x, y] expected",
        ],
    ),
    "a sample twice by two names": (
        "p.json",
        {"a": TEXT, "a_trajectory": TEXT},
        ["p.json, entry 2, token a: this sample stands in entry 1 too"],
    ),
    "records of other kinds": (
        "p.json",
        [[1], {"token": "a"}, {"id": "", "answer": TEXT}, {"id": "b", "answer": []}],
        [
            "p.json, row 1: an object expected, not [1]",
            "p.json, row 2: no sample_token, id or qa_id among ['token']",
            "p.json, row 3: the token is '', not a printable text",
            "p.json, row 4, token b: the text is [], not a text",
        ],
    ),
    "values that are no numbers": (
        "p.json",
        [{**RECORD, "x_m": ["0.0", True, None, 10**400, *X[4:]], "y_m": [1e999, *Y[1:]]}],
        [
            "p.json, row 1, token a: x_m has '0.0', which is no finite number",
            "p.json, row 1, token a: x_m has True, which is no finite number",
            "p.json, row 1, token a: x_m has None, which is no finite number",
            "p.json, row 1, token a: x_m has 1000",
            "p.json, row 1, token a: y_m has inf, which is no finite number",
        ],
    ),
    "pairs that are none": (
        "p.json",
        {"a": [[0, 1], [2], 3, *PAIRS[3:]], "b": PAIRS[:5], "c": None},
        [
            "p.json, entry 1, token a: step 2 has 1 values; 2 numbers expected",
            "p.json, entry 1, token a: step 3 is 3; 2 numbers expected",
            "p.json, entry 2, token b: the plan is [[0.0, 4.13], [0.11, 8.3]",
            "p.json, entry 3, token c: the plan is []; a text or 6 pairs",
        ],
    ),
    "arrays of other shapes": (
        "p.pkl",
        {"a": np.zeros((6, 3)), "b": np.zeros(()), 7: np.zeros((6, 2))},
        [f"p.pkl, entry 1, token a: step {i} has 3 values" for i in range(1, 7)]
        + ["p.pkl, entry 2, token b: the plan is 0.0;"]
        + ["p.pkl, entry 3: the token is 7, not a printable text"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_are_named(name: str, write: Write) -> None:
    file, content, expected = DEFECTS[name]
    with pytest.raises(PredictionError, match="Defects to mend") as caught:
        read_predictions(write(file, content))
    problems = caught.value.problems
    assert len(problems) == len(expected)
    for wanted in expected:
        assert any(problem.startswith(wanted) for problem in problems), (wanted, problems)


def test_a_truncated_parquet_file(write: Write, tmp_path: Path) -> None:
    whole = write("p.parquet", {"sample_token": ["a"], "x_m": [X], "y_m": [Y]}).read_bytes()
    for size in range(0, len(whole), 97):
        with pytest.raises(PredictionError, match="not a whole Parquet file"):
            read_predictions(write("p.parquet", whole[:size]))


def test_long_lists_of_defects_are_cut(write: Write) -> None:
    with pytest.raises(PredictionError, match="mend: 300") as caught:
        read_predictions(write("p.jsonl", [{"sample_token": f"t{i}"} for i in range(150)]))
    assert len(caught.value.problems) == 51
    assert caught.value.problems[-1] == "… and 250 more"


def test_a_hostile_pickle_is_refused(write: Write, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    with pytest.raises(InputError, match=r"p\.pkl: refused the global posix\.system"):
        read_predictions(write("p.pkl", {"a": Attack()}))
    assert not (tmp_path / "marker").exists()


def test_files_that_are_no_predictions(tmp_path: Path, write: Write) -> None:
    with pytest.raises(InputError, match=r"end in \.parquet, \.jsonl"):
        read_predictions(write("p.csv", b"a"))
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "absent.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "folder.json")


def test_sizes_are_bounded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["x" * 5_000] * 40
    path = write("p.parquet", {"sample_token": [f"t{i}" for i in range(40)], "text": texts})
    monkeypatch.setattr(rows, "MAX_BYTES", 20_000)
    assert path.stat().st_size < 20_000
    with pytest.raises(PredictionError, match="more than 80,000 bytes"):
        read_predictions(path)
    monkeypatch.setattr(rows, "MAX_ROWS", 39)
    with pytest.raises(PredictionError, match="at most 39 rows"):
        read_predictions(path)
    with pytest.raises(InputError, match="40 rows; at most 39"):
        read_predictions(write("p.jsonl", [{"sample_token": f"t{i}"} for i in range(40)]))
    monkeypatch.setattr(rows, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="larger than 100 bytes"):
        read_predictions(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(["sample_token", "id", "answer", "text", "x_m", "y_m", "a"]), inner
        )
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=json_values, suffix=st.sampled_from([".json", ".jsonl"]))
def test_any_json_is_read_or_its_defects_are_named(
    document: Any, suffix: str, write: Write
) -> None:
    path = write(f"p{suffix}", json.dumps(document).encode())
    try:
        found = read_predictions(path)
    except PredictionError as error:
        if not all(problem.startswith("p.json") for problem in error.problems):
            pytest.fail(str(error))
        return
    assert np.isfinite(found.xy_m[found.parse_status != "failed"]).all()


def predictions(write: Write, tokens: str) -> PlanningPredictions:
    return read_predictions(write("p.json", dict.fromkeys(tokens, PAIRS)))


def test_tokens_that_match(write: Write) -> None:
    match = check_tokens(predictions(write, "abc"), ["c", "a", "b"], allow_partial=False)
    assert match.row.tolist() == [2, 0, 1]
    assert (match.missing, match.unknown) == ((), ())


def test_missing_and_unknown_tokens_are_listed(write: Write) -> None:
    with pytest.raises(PredictionError) as caught:
        check_tokens(predictions(write, "abx"), ["a", "b", "c", "d"], allow_partial=False)
    assert "2 of 4 samples have no prediction, and 1 of 3 predictions" in str(caught.value)
    assert caught.value.problems == ("missing: c", "missing: d", "not expected: x")


def test_a_partial_match_is_returned_on_request(write: Write) -> None:
    match = check_tokens(predictions(write, "abx"), ["c", "b"], allow_partial=True)
    assert match.row.tolist() == [-1, 1]
    assert (match.missing, match.unknown) == (("c",), ("a", "x"))
    with pytest.raises(PredictionError, match="1 of 1 samples have no prediction"):
        check_tokens(predictions(write, "ab"), ["c"], allow_partial=True)


@pytest.mark.real
def test_published_predictions_are_read(real_data: Path) -> None:
    found = read_predictions(real_data / "agent-driver/pred_trajs_dict.pkl")
    assert (len(found), found.xy_m.shape) == (6019, (6019, 6, 2))
    assert set(found.parse_status) == {"given"}
    split = json.loads((real_data / "agent-driver/split.json").read_text())
    match = check_tokens(found, split["val_all"], allow_partial=False)
    assert sorted(match.row.tolist()) == list(range(6019))
    first = found.sample_token.index("d5324133e1d241658a7b763831b3af2e")
    np.testing.assert_allclose(found.xy_m[first, 0], [-0.262045, 0.702721], atol=1e-6)
