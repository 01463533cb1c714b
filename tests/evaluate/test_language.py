"""Answers joined with a build: right ones score full marks, missing and foreign ones are told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odvla_bench.datasets.build import build, find_sources
from odvla_bench.datasets.builders.base import BuildRequest
from odvla_bench.datasets.reader import Build, open_build
from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files
from odvla_bench.errors import InputError, PredictionError, UnknownNameError
from odvla_bench.evaluate.dense_frames import CLASS_OF_CATEGORY
from odvla_bench.evaluate.language import evaluate_language
from odvla_bench.metrics.dense_captioning import CLASS_RANGE_M
from odvla_bench.metrics.text.profiles import ScoreOptions
from odvla_bench.predictions.writer import footer_of
from odvla_bench.provenance import default_cache_dir

SPLIT = "mini_val"


@pytest.fixture(scope="module")
def opened(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A build of all language sources, made without the published files' defects."""
    files, out = tmp_path_factory.mktemp("language"), tmp_path_factory.mktemp("build")
    config = LanguageConfig(questions_per_keyframe=4, defects=False)
    write_language_files(files, synthetic_root, "v1.0-mini", config)
    found = [s for s in find_sources(synthetic_root, files, {}) if s.found or s.name == "planning"]
    given = tuple((f"{s.name}.{k}", path) for s in found for k, path in s.found.items())
    request = BuildRequest(synthetic_root, "v1.0-mini", default_cache_dir(), files=given)
    names = ("planning", "tod3cap", "nucaption", "nuscenes_qa", "nux")
    build(request, out, sources=names)
    return open_build(out)


def answers(opened: Build, source: str, table: str = "instruct") -> list[dict[str, str]]:
    """The annotated answers, as a model would write them."""
    rows = opened.table(table, SPLIT, sources=[source]).to_pylist()
    return [{"row_id": row["row_id"], "text": row["messages"][-1]["content"]} for row in rows]


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_right_answers_to_questions_are_all_right(opened: Build, tmp_path: Path) -> None:
    rows = answers(opened, "nuscenes_qa")
    table = evaluate_language(opened, write(tmp_path / "a.jsonl", rows), "nuscenes_qa", split=SPLIT)
    assert table.value("overall", "accuracy") == 1
    assert f"build:{opened.fingerprint}" in table.signature


def test_missing_answers_are_wrong_and_counted(opened: Build, tmp_path: Path) -> None:
    rows = answers(opened, "nuscenes_qa")
    half = write(tmp_path / "a.jsonl", rows[::2])
    table = evaluate_language(opened, half, "nuscenes_qa", split=SPLIT)
    assert table.value("overall", "accuracy") == pytest.approx(len(rows[::2]) / len(rows))
    assert table.counts["missing"] == len(rows) - len(rows[::2])


def test_of_a_whole_stage_only_the_tasks_answers_are_scored(opened: Build, tmp_path: Path) -> None:
    rows = answers(opened, "nuscenes_qa") + answers(opened, "nux")
    path = write(tmp_path / "stage-2.jsonl", rows)
    table = evaluate_language(opened, path, "nuscenes_qa", split=SPLIT)
    assert table.value("overall", "accuracy") == 1
    other = write(tmp_path / "nux.jsonl", answers(opened, "nux"))
    with pytest.raises(PredictionError, match="none of its .* answers is to a row of nuscenes_qa"):
        evaluate_language(opened, other, "nuscenes_qa", split=SPLIT)


def test_privileged_answers_say_so(opened: Build, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(answers(opened, "nuscenes_qa"))
    made = footer_of(
        {"tokens": "tokens:annotations|privileged", "decoding": "greedy|constrained:no"}
    )
    pq.write_table(table.replace_schema_metadata(made), tmp_path / "a.parquet")
    scored = evaluate_language(opened, tmp_path / "a.parquet", "nuscenes_qa", split=SPLIT)
    assert scored.signature.endswith("|tokens:privileged")


@pytest.mark.java
@pytest.mark.parametrize("task", ["nucaption", "nux"])
def test_right_captions_score_full_marks(opened: Build, tmp_path: Path, task: str) -> None:
    path = write(tmp_path / "a.jsonl", answers(opened, task))
    table = evaluate_language(opened, path, task, split=SPLIT)
    group = "joined" if task == "nux" else "caption"
    assert table.value(group, "Bleu_4") == pytest.approx(1, abs=1e-6)
    assert table.value(group, "ROUGE_L") == pytest.approx(1)


def captioned_boxes(opened: Build) -> dict[str, dict]:
    """The annotated boxes that have captions, as a detector would write them."""
    captions = {
        r["annotation_token"]: r["answer"]
        for r in opened.table("alignment", SPLIT, sources=["tod3cap"]).to_pylist()
    }
    records: dict[str, dict] = {}
    for a in opened.table("agents", SPLIT).to_pylist():
        if a["annotation_token"] in captions:
            empty = {"sample_token": a["sample_token"], "boxes": [], "captions": [], "names": []}
            record = records.setdefault(a["sample_token"], empty)
            size = [a[f"{s}_m"] for s in ("width", "length", "height")]
            record["boxes"].append([a["x_m"], a["y_m"], a["z_m"], *size, a["yaw_rad"]])
            record["captions"].append(captions[a["annotation_token"]])
            record["names"].append(CLASS_OF_CATEGORY.get(a["category"], "car"))
    return records


@pytest.mark.java
def test_right_boxes_with_right_captions(opened: Build, tmp_path: Path) -> None:
    records = captioned_boxes(opened)
    for record in records.values():
        del record["names"]
    path = write(tmp_path / "a.jsonl", list(records.values()))
    table = evaluate_language(opened, path, "tod3cap", split=SPLIT)
    assert table.value("precision above 0.5", "ROUGE_L") == pytest.approx(1, abs=1e-6)
    assert "boxes:all" in table.signature


@pytest.mark.java
def test_named_boxes_are_filtered_by_the_detection_rules(opened: Build, tmp_path: Path) -> None:
    records = captioned_boxes(opened)
    record = next(iter(records.values()))
    record["boxes"].append([100.0, 100.0, 0.0, 2.0, 4.0, 2.0, 0.0])
    record["captions"].append("far away")
    record["names"].append("car")
    path = write(tmp_path / "a.jsonl", list(records.values()))
    table = evaluate_language(opened, path, "tod3cap", split=SPLIT)
    assert "boxes:detection-rules" in table.signature

    rows = opened.table("alignment", SPLIT, sources=["tod3cap"]).to_pylist()
    captioned = {row["annotation_token"] for row in rows}
    ego = {
        row["sample_token"]: row["ego_translation_m"]
        for row in opened.table("planning", SPLIT).to_pylist()
    }
    in_range = seen = 0
    for a in opened.table("agents", SPLIT).to_pylist():
        if a["annotation_token"] in captioned:
            x, y, _ = ego[a["sample_token"]]
            name = CLASS_OF_CATEGORY.get(a["category"])  # an animal has none
            limit = CLASS_RANGE_M[name or "car"]
            near = np.hypot(a["global_x_m"] - x, a["global_y_m"] - y) < limit
            in_range += bool(near)
            seen += bool(near and name and a["n_lidar_points"] + a["n_radar_points"])
    assert 0 < seen <= in_range < len(captioned)
    assert table.counts["present"] == seen
    assert table.counts["predicted"] == in_range
    assert table.counts["matched above 0.5"] == seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["captions"].pop(), "one caption a box"),
        (lambda record: record["names"].pop(), "`names` is not one of car"),
        (lambda record: record.pop("names"), "or in none to score all boxes"),
        (lambda record: record["names"].__setitem__(0, "lorry"), "`names` is not one of car"),
        (lambda record: record["captions"].__setitem__(0, 3), "a caption is not a string"),
        (lambda record: record["boxes"].__setitem__(0, [1, 2]), "seven numbers"),
        (lambda record: record.__setitem__("sample_token", "other"), "1 keyframes are not"),
    ],
)
def test_damaged_box_records_are_named(
    change: Callable[[dict], object], message: str, opened: Build, tmp_path: Path
) -> None:
    records = list(captioned_boxes(opened).values())
    change(records[0])
    with pytest.raises(PredictionError, match=message):
        evaluate_language(opened, write(tmp_path / "b.jsonl", records), "tod3cap", split=SPLIT)


def test_mistakes_are_named(opened: Build, build_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"row_id": "nuscenes_qa:elsewhere", "text": "yes"}])
    with pytest.raises(PredictionError, match="nuscenes_qa:elsewhere"):
        evaluate_language(opened, path, "nuscenes_qa", split=SPLIT)
    with pytest.raises(UnknownNameError, match="Did you mean 'nux'"):
        evaluate_language(opened, path, "nuxx", split=SPLIT)
    with pytest.raises(UnknownNameError, match="profile of nux"):
        evaluate_language(opened, path, "nux", profile="nucaption-ptb", split=SPLIT)
    options = ScoreOptions(bertscore=True)
    with pytest.raises(InputError, match="Task nuscenes_qa scores no captions"):
        evaluate_language(opened, path, "nuscenes_qa", split=SPLIT, options=options)
    with pytest.raises(InputError, match="Build it with the source nux"):
        evaluate_language(open_build(build_dir), path, "nux", split=SPLIT)
