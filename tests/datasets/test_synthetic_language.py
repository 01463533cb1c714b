from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factories.builds import MINI

from odvla_bench.datasets.builders.nuscenes_qa import ANSWERS, TEMPLATE_TYPES
from odvla_bench.datasets.synthetic_language import LanguageConfig, write_language_files


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_native_formats_and_known_defects(synthetic_tree: Path) -> None:
    folder = synthetic_tree / "language"
    captions = read(folder / "final_caption_bbox_token.json")
    annotations = read(synthetic_tree / MINI / "sample_annotation.json")
    assert set(captions) == {a["token"] for a in annotations} | {"f" * 32}
    assert any("final_caption" not in c for c in captions.values())
    assert any(c["map_caption"]["map_caption"] == "" for c in captions.values())
    assert any(c["relation_caption"] == "none" for c in captions.values())
    assert any(c["attribute_caption"]["attribute_caption"][0].isupper() for c in captions.values())
    questions = read(folder / "NuScenes_val_questions.json")["questions"]
    assert {q["template_type"] for q in questions} == set(TEMPLATE_TYPES)
    assert {q["answer"] for q in questions} <= ANSWERS
    asked = [(q["sample_token"], q["question"]) for q in questions]
    assert len(asked) > len(set(asked))
    views = read(folder / "nucaption/train.json")
    assert set(views[0]) == {"sample_token", "question", "answer", "answer_lidar"}
    explained = read(folder / "Nu_X_train.json")
    assert {"narration", "reasoning"} == set(next(iter(explained.values())))
    samples = {s["token"] for s in read(synthetic_tree / MINI / "sample.json")}
    assert set(explained) - samples == {"f" * 32}


def test_offsets_are_those_of_the_boxes(synthetic_tree: Path, tmp_path: Path) -> None:
    """Forward and left of the car: the distance is that of box and ego pose, whatever the frame."""
    captions = read(synthetic_tree / "language/final_caption_bbox_token.json")
    folder = synthetic_tree / MINI
    boxes = {a["token"]: a for a in read(folder / "sample_annotation.json")}
    sensors = {s["token"]: s["channel"] for s in read(folder / "sensor.json")}
    channel = {
        c["token"]: sensors[c["sensor_token"]] for c in read(folder / "calibrated_sensor.json")
    }
    pose_of = {
        d["sample_token"]: d["ego_pose_token"]
        for d in read(folder / "sample_data.json")
        if d["is_key_frame"] and channel[d["calibrated_sensor_token"]] == "LIDAR_TOP"
    }
    poses = {p["token"]: p["translation"] for p in read(folder / "ego_pose.json")}
    for token in list(boxes)[:50]:
        ego = poses[pose_of[boxes[token]["sample_token"]]]
        dx, dy = (boxes[token]["translation"][i] - ego[i] for i in (0, 1))
        place = captions[token]["localization_caption"]
        near = abs(place["x_offset"] ** 2 + place["y_offset"] ** 2 - dx**2 - dy**2)
        assert near < 0.02 * (1 + dx**2 + dy**2)


def test_same_configuration_same_bytes(synthetic_tree: Path, tmp_path: Path) -> None:
    def written(name: str, config: LanguageConfig) -> dict[str, bytes]:
        out = tmp_path / name
        write_language_files(out, synthetic_tree, MINI, config, cache_dir=synthetic_tree / "cache")
        return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.json"))}

    first = written("a", LanguageConfig(seed=3))
    assert len(first) == 7
    assert first == written("b", LanguageConfig(seed=3))
    other = written("c", LanguageConfig(seed=4))
    assert all(other[name] != content for name, content in first.items())
    only = written("d", LanguageConfig(seed=3, sources=("nux",), defects=False))
    assert sorted(only) == ["Nu_X_train.json", "Nu_X_val.json"]
    assert "f" * 32 not in json.loads(only["Nu_X_train.json"])
