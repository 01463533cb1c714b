from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import InputError, PredictionError
from odvla_bench.evaluate.motion import evaluate_motion, motion_results, motion_samples
from odvla_bench.metrics.forecasting import MOTION_METRICS
from odvla_bench.predictions.motion import read_motion
from odvla_bench.predictions.writer import footer_of
from odvla_bench.provenance import default_cache_dir

SPLIT = "mini_val"


@pytest.fixture(scope="module")
def motion_build(synthetic_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("motion") / "build"
    request = BuildRequest(synthetic_root, "v1.0-mini", default_cache_dir())
    build(request, out, sources=("planning", "forecasting"))
    return open_build(out)


@pytest.fixture(scope="module")
def rows(motion_build):
    return motion_build.table("forecasting", SPLIT, ("row_id", "x_m", "y_m")).to_pylist()


@pytest.fixture
def answers(rows, tmp_path):
    """Writes a file of answers: the truth moved to the right, in one text a row or several."""
    codec = get_codec("text", variable_length=True)

    def write(*shifts_m, keep=None, text=None, made=None):
        table = pa.Table.from_pylist(
            [
                {
                    "row_id": row["row_id"],
                    "sample": i,
                    "text": text or codec.encode(np.array(row["x_m"]) + shift, row["y_m"]),
                }
                for row in rows[:keep]
                for i, shift in enumerate(shifts_m)
            ]
        )
        path = tmp_path / "answers.parquet"
        pq.write_table(table.replace_schema_metadata(made and footer_of(made)), path)
        return path

    return write


@pytest.fixture
def score(motion_build):
    def found(file, **options):
        return evaluate_motion(motion_build, read_motion(file), split=SPLIT, **options)

    return found


def test_a_constant_error_is_what_is_found(answers, score):
    found = motion_results(score(answers(1.0)))
    everything = found["table"]["all"]
    assert everything["min_ade_m"] == pytest.approx([1.0] * 3, abs=0.01)
    assert everything["min_fde_m"] == pytest.approx([1.0] * 3, abs=0.01)
    assert everything["missed"] == [0.0] * 3
    assert everything["rows"][0] >= everything["rows"][2] > 0
    assert set(found["predictions"]["parsed"]) == {"strict"}
    assert found["comparable"] is True


def test_the_best_of_several_answers_counts(answers, score):
    found = score(answers(5.0, 0.0, -7.0))
    assert found.scores.mean("min_fde_m") == pytest.approx([0.0] * 3, abs=0.01)
    assert "|k:3|" in found.signature


def test_coordinates_are_what_texts_say(rows, answers, score, tmp_path):
    path = tmp_path / "xy.jsonl"
    path.write_text("\n".join(json.dumps({**r, "x_m": [x + 1 for x in r["x_m"]]}) for r in rows))
    texts, numbers = score(answers(1.0)), score(path)
    np.testing.assert_allclose(texts.scores.min_ade_m, numbers.scores.min_ade_m, atol=0.02)
    assert set(numbers.parse_counts) == {"given"}


def test_categories_add_up_to_all(answers, score):
    table = motion_results(score(answers(3.0)))["table"]
    parts = [v["rows"] for k, v in table.items() if k != "all"]
    assert np.sum(parts, 0).tolist() == table["all"]["rows"]
    assert table["all"]["missed"] == [1.0] * 3


def test_one_row_an_agent_makes_the_table_again(answers, score):
    found = score(answers(2.5))
    kept = motion_samples(found)
    for metric in MOTION_METRICS:
        values, counted = (np.array(kept[c].to_pylist(), float) for c in (metric, "counted"))
        again = (values * counted).sum(0) / counted.sum(0)
        assert again == pytest.approx(found.scores.mean(metric))
    assert kept["scene_name"].null_count == 0


def test_what_does_not_parse_is_counted_and_stands_still(answers, score):
    found = score(answers(0.0, text="no idea"))
    assert found.parse_counts == {"failed": found.rows.num_rows}
    assert found.scores.mean("min_fde_m")[2] > 0.01


def test_missing_answers_are_listed_unless_allowed(answers, score, rows):
    file = answers(0.0, keep=3)
    with pytest.raises(PredictionError, match="rows of forecasting have no prediction") as raised:
        score(file)
    assert f"missing: {rows[3]['row_id']}" in str(raised.value)
    found = score(file, allow_partial=True)
    assert (found.rows.num_rows, len(found.missing)) == (3, len(rows) - 3)
    assert motion_results(found)["comparable"] is False
    assert found.signature.endswith(f"|partial:{len(rows) - 3}_missing")


def test_how_the_answers_were_made_is_in_the_signature(answers, score):
    made = {
        "tokens": "tokens:annotations|privileged",
        "decoding": "greedy|max_new_tokens:9|constrained:yes",
    }
    assert score(answers(0.0, made=made)).signature.endswith("|constrained:yes|tokens:privileged")


def test_every_bad_row_is_listed(rows, tmp_path):
    good = {"row_id": rows[0]["row_id"], "text": "[(0.00,1.00)]"}
    bad = {
        "row_id is 7, not a printable": {"row_id": 7, "text": "x"},
        f"row {good['row_id']}: sample 0 stands in line 1 too": good,
        "sample is -1": {**good, "row_id": "a", "sample": -1},
        "the text is None": {"row_id": "b", "text": None},
        "the text is 3": {"row_id": "c", "text": 3},
        "x_m is []": {"row_id": "d", "x_m": [], "y_m": []},
        "x_m is [0, 0, 0, 0": {"row_id": "e", "x_m": [0] * 7, "y_m": [0] * 7},
        "y_m has 1 values; 2 numbers": {"row_id": "f", "x_m": [0, 1], "y_m": [0]},
        "y_m has nan": {"row_id": "g", "x_m": [0], "y_m": [float("nan")]},
        "an object expected, not [1]": [1],
    }
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, [good, *bad.values()])))
    with pytest.raises(PredictionError) as raised:
        read_motion(path)
    listed = raised.value.problems
    assert len(listed) == len(bad)
    for line, (number, says) in zip(listed, enumerate(bad, 2), strict=True):
        assert says in line
        assert f"line {number}" in line


def test_files_of_something_else_are_named(motion_build, build_dir, answers, tmp_path):
    pq.write_table(pa.table({"sample_token": ["a", "b"], "text": ["", ""]}), tmp_path / "p.parquet")
    with pytest.raises(PredictionError, match="Defects to mend: 2\n.*row 1: the row_id is None"):
        read_motion(tmp_path / "p.parquet")
    (tmp_path / "x.parquet").write_bytes(b"junk")
    with pytest.raises(InputError, match="not a whole Parquet file"):
        read_motion(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="end in .parquet"):
        read_motion(tmp_path / "x.csv")
    with pytest.raises(InputError, match="--sources planning,forecasting"):
        evaluate_motion(open_build(build_dir), read_motion(answers(0.0)), split=SPLIT)
