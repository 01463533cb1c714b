from __future__ import annotations

import json
import math
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odvla_bench.errors import InputError, PredictionError
from odvla_bench.predictions import read_predictions, rows, write_predictions

PLANS = np.arange(24.0).reshape(2, 6, 2) / 7
TEXT = "[(0.00,4.13),(0.11,8.30),(0.50,12.00),(1.25,16.00),(-2.00,20.00),(0.00,24.50)]"
ENDINGS = [".parquet", ".jsonl"]


@pytest.mark.parametrize("ending", ENDINGS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    plans=arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.just(6), st.just(2)),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_coordinates_come_back_exactly(ending: str, plans: np.ndarray, tmp_path: Path) -> None:
    tokens = [f"token-{i}" for i in range(len(plans))]
    path = write_predictions(tmp_path / f"p{ending}", tokens, plans[..., 0], plans[..., 1])
    found = read_predictions(path)
    assert found.sample_token == tuple(tokens)
    np.testing.assert_array_equal(found.xy_m, plans)
    assert set(found.parse_status) == {"given"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_texts_are_what_is_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{ending}"
    write_predictions(
        path, ["a", "b"], PLANS[..., 0], PLANS[..., 1], text=[TEXT, "我"], latency_s=[0.1, 0.2]
    )
    assert read_predictions(path).parse_status.tolist() == ["strict", "failed"]
    write_predictions(path, ["a", "b"], text=[TEXT, ""])
    assert read_predictions(path).parse_status.tolist() == ["strict", "failed"]


def test_parquet_is_flat_and_never_null(tmp_path: Path) -> None:
    path = write_predictions(
        tmp_path / "p.parquet", ["a", "b"], PLANS[..., 0], PLANS[..., 1], latency_s=[0.1, 0.2]
    )
    schema = pq.read_schema(path)
    assert [(f.name, f.nullable) for f in schema] == [
        ("sample_token", False), ("x_m", False), ("y_m", False), ("latency_s", False)
    ]  # fmt: skip
    assert schema.field("x_m").type == pa.list_(pa.field("element", pa.float64(), nullable=False))
    query = f"select sample_token, x_m[1], len(y_m) from '{path}' order by 1"
    assert duckdb.sql(query).fetchall() == [("a", 0.0, 6), ("b", PLANS[1, 0, 0], 6)]
    np.testing.assert_array_equal(np.stack(pd.read_parquet(path)["y_m"]), PLANS[..., 1])


def test_metadata_is_kept_in_parquet_only(tmp_path: Path) -> None:
    kept = {"model": "constant velocity", "note": "é"}
    path = write_predictions(tmp_path / "p.parquet", ["a"], text=[TEXT], metadata=kept)
    assert read_predictions(path).metadata == kept
    with pytest.raises(InputError, match="no metadata"):
        write_predictions(tmp_path / "p.jsonl", ["a"], text=[TEXT], metadata=kept)


def test_another_format_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    footer = {rows.METADATA_KEY: json.dumps({"format_version": 2})}
    pq.write_table(
        pa.table({"sample_token": ["a"], "text": [TEXT]}).replace_schema_metadata(footer), path
    )
    with pytest.raises(PredictionError, match=r"format version 1 expected.*'format_version': 2"):
        read_predictions(path)


NAN = PLANS[..., 0].copy()
NAN[1, 3] = math.nan


@pytest.mark.parametrize(
    ("tokens", "x", "y", "extra", "message"),
    [
        (["a", "a"], PLANS[..., 0], PLANS[..., 1], {}, "token a stands 2 times"),
        (["a", 7], PLANS[..., 0], PLANS[..., 1], {}, "row 2, token 7: sample_token is not a text"),
        (["a", "b"], NAN, PLANS[..., 1], {}, "row 2, token 'b': x_m is not finite"),
        (["a"], PLANS[..., 0], PLANS[..., 1], {}, r"x_m has shape \(2, 6\), \(1, 6\) expected"),
        (["a", "b"], PLANS[..., 0], None, {}, "neither x_m and y_m nor text"),
        (["a", "b"], None, None, {"text": [TEXT]}, r"text has shape \(1,\), \(2,\) expected"),
        (["a\n"], None, None, {"text": [TEXT]}, "sample_token is not a text"),
        (["a"], None, None, {"text": ["\ud800"]}, "row 1, token 'a': text is not a text"),
        (["a", "b"], None, None, {"text": [TEXT, None]}, "row 2, token 'b': text is not a text"),
        (
            ["a"],
            None,
            None,
            {"text": [TEXT], "latency_s": [math.inf]},
            "row 1, token 'a': latency_s is not finite",
        ),
        (
            ["a", ""],
            None,
            None,
            {"text": [TEXT, TEXT]},
            "row 2, token '': sample_token is not a text",
        ),
        ([], np.empty((0, 6)), np.empty((0, 6)), {}, "no predictions"),
    ],
)
def test_what_is_no_prediction_is_not_written(
    tokens: list[str], x: object, y: object, extra: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PredictionError, match=message):
        write_predictions(tmp_path / "p.parquet", tokens, x, y, **extra)
    assert list(tmp_path.iterdir()) == []


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.parquet or \.jsonl"):
        write_predictions(tmp_path / "p.csv", ["a"], text=[TEXT])


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_predictions(tmp_path / "p.parquet", ["a"], text=[TEXT])
    before = path.read_bytes()

    def fail(table: pa.Table, where: Path, **_: object) -> None:
        Path(where).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_predictions(path, ["b"], text=[TEXT])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
