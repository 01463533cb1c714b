from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odvla_bench.datasets.build import build
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import PredictionError
from odvla_bench.evaluate.motion import evaluate_motion
from odvla_bench.provenance import default_cache_dir

SPLIT = "mini_val"


@pytest.fixture(scope="module")
def motion_build(synthetic_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("motion") / "build"
    request = BuildRequest(synthetic_root, "v1.0-mini", default_cache_dir())
    build(request, out, sources=("planning", "forecasting"))
    return open_build(out)


@pytest.fixture
def answers(motion_build, tmp_path):
    """Writes a file of answers: the truth moved to the right, in one text a row or several."""
    rows = motion_build.table("forecasting", SPLIT, ("row_id", "x_m", "y_m")).to_pylist()
    codec = get_codec("text", variable_length=True)

    def write(*shifts_m, keep=None, text=None):
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
        pq.write_table(table, tmp_path / "answers.parquet")
        return tmp_path / "answers.parquet"

    return write


def test_a_constant_error_is_what_is_found(motion_build, answers):
    found = evaluate_motion(motion_build, SPLIT, answers(1.0))
    everything = found["motion"]["all"]
    assert everything["min_ade_m"] == pytest.approx([1.0] * 3, abs=0.01)
    assert everything["min_fde_m"] == pytest.approx([1.0] * 3, abs=0.01)
    assert everything["missed"] == [0.0] * 3
    assert everything["rows"][0] >= everything["rows"][2] > 0
    assert set(found["parsed"]) == {"strict"}


def test_the_best_of_several_answers_counts(motion_build, answers):
    found = evaluate_motion(motion_build, SPLIT, answers(5.0, 0.0, -7.0))
    assert found["motion"]["all"]["min_fde_m"] == pytest.approx([0.0] * 3, abs=0.01)


def test_categories_add_up_to_all(motion_build, answers):
    table = evaluate_motion(motion_build, SPLIT, answers(3.0))["motion"]
    parts = [v["rows"] for k, v in table.items() if k != "all"]
    assert np.sum(parts, 0).tolist() == table["all"]["rows"]
    assert table["all"]["missed"] == [1.0] * 3


def test_what_does_not_parse_is_counted_and_stands_still(motion_build, answers):
    found = evaluate_motion(motion_build, SPLIT, answers(0.0, text="no idea"))
    assert found["parsed"] == {"failed": found["rows"]}
    assert found["motion"]["all"]["min_fde_m"][2] > 0.01


def test_missing_answers_are_an_error_unless_allowed(motion_build, answers):
    file = answers(0.0, keep=3)
    with pytest.raises(PredictionError, match="have no answer"):
        evaluate_motion(motion_build, SPLIT, file)
    found = evaluate_motion(motion_build, SPLIT, file, allow_partial=True)
    assert (found["rows"], found["missing"] > 0) == (3, True)


def test_a_file_of_something_else_is_named(motion_build, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"junk")
    with pytest.raises(PredictionError, match="not a file of answers"):
        evaluate_motion(motion_build, SPLIT, tmp_path / "x.parquet")
