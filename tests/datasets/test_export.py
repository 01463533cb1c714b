from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from odvla_bench.datasets.export import FORMATS, export
from odvla_bench.datasets.instructions import Instruction, Message
from odvla_bench.datasets.reader import Build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.errors import InputError, UnknownNameError

TOKEN = "a" * 32
QA = Instruction(
    row_id="nuscenes_qa:val:7",
    stage="2",
    task="qa",
    source="nuscenes_qa",
    split="val",
    sample_id=3,
    sample_token=TOKEN,
    scene_name="scene-0103",
    messages=(Message("system", "Drive."), Message("user", "Wo?"), Message("assistant", "hier é")),
)
PLAN = Instruction(
    row_id=f"planning:{TOKEN}",
    stage="3",
    task="planning",
    source="planning",
    split="val",
    sample_id=3,
    sample_token=TOKEN,
    scene_name="scene-0103",
    messages=(Message("user", "Plan."), Message("assistant", "[(0.00,1.00)]")),
    instance_token="b" * 32,
)
EXPECTED: dict[str, list[Any]] = {
    "llava": [
        {
            "id": "nuscenes_qa:val:7",
            "system": "Drive.",
            "conversations": [
                {"from": "human", "value": "Wo?"},
                {"from": "gpt", "value": "hier é"},
            ],
        },
        {
            "id": f"planning:{TOKEN}",
            "conversations": [
                {"from": "human", "value": "Plan."},
                {"from": "gpt", "value": "[(0.00,1.00)]"},
            ],
        },
    ],
    "sharegpt": [
        {
            "id": "nuscenes_qa:val:7",
            "conversations": [
                {"from": "system", "value": "Drive."},
                {"from": "human", "value": "Wo?"},
                {"from": "gpt", "value": "hier é"},
            ],
        },
        {
            "id": f"planning:{TOKEN}",
            "conversations": [
                {"from": "human", "value": "Plan."},
                {"from": "gpt", "value": "[(0.00,1.00)]"},
            ],
        },
    ],
    "openai": [
        {
            "messages": [
                {"role": "system", "content": "Drive."},
                {"role": "user", "content": "Wo?"},
                {"role": "assistant", "content": "hier é"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "Plan."},
                {"role": "assistant", "content": "[(0.00,1.00)]"},
            ]
        },
    ],
    "released": [
        {
            "id": f"{TOKEN}_nuscenes_qa:val:7",
            "sample_id": TOKEN,
            "conversations": [
                {"from": "human", "value": "Wo?"},
                {"from": "gpt", "value": "hier é"},
            ],
        },
        {
            "qa_id": f"{TOKEN}_trajectory",
            "sample_id": TOKEN,
            "instance_token": "b" * 32,
            "conversations": [
                {"from": "human", "value": "Plan."},
                {"from": "gpt", "value": "[(0.00,1.00)]"},
            ],
        },
    ],
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path: Path, name: str) -> None:
    path, form = tmp_path / "out.json", FORMATS[name]
    assert export([QA, PLAN], path, form) == 2
    text = path.read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()] if form.lines else json.loads(text)
    assert found == EXPECTED[name]
    assert "null" not in text
    assert export([], path, form) == 0
    assert path.read_text() == ("" if form.lines else "[\n\n]\n")


@pytest.mark.parametrize("stage", ["1", "2", "2.5", "3"])
def test_a_stage_as_it_is_exported(synthetic_build: Build, tmp_path: Path, stage: str) -> None:
    rows = list(synthetic_build.iter_instructions(stage, "mini_train"))
    n = export(iter(rows), tmp_path / "o.jsonl", FORMATS["openai"])
    lines = (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()
    assert n == len(lines) == len(rows) > 0
    for line, row in zip(lines, rows, strict=True):
        turns = json.loads(line)["messages"]
        assert [t["role"] for t in turns] == ["system", "user", "assistant"]
        assert turns[1]["content"] == row.messages[1].content
        assert all(isinstance(t["content"], str) and t["content"] for t in turns)


def test_stages_by_hand(synthetic_build: Build) -> None:
    planning = {r["sample_token"]: r for r in synthetic_build.table("planning").to_pylist()}
    plans = list(synthetic_build.iter_instructions("3", "mini_train"))
    whole = [r for r in planning.values() if all(r["future_valid"]) and r["split"] == "mini_train"]
    assert len(plans) == len(whole)
    for plan in plans:
        row = planning[plan.sample_token]
        xy = zip(row["future_x_m"], row["future_y_m"], strict=True)
        text = ",".join(f"({x:.2f},{y:.2f})" for x, y in xy)
        assert plan.answer == f"<traj_start>[{text}]<traj_end>"
    prompts = list(synthetic_build.iter_instructions("3", "mini_train", answers=False))
    assert len(prompts) == sum(r["split"] == "mini_train" for r in planning.values())
    assert all(p.messages[-1].role == "user" and not p.answer for p in prompts)


def test_forecasts_are_read_back(synthetic_build: Build) -> None:
    codec = get_codec("text", variable_length=True)
    rows = synthetic_build.table("forecasting", "mini_train").to_pylist()
    instructions = list(synthetic_build.iter_instructions("2.5", "mini_train"))
    for row, instruction in zip(rows, instructions, strict=True):
        decoded = codec.decode(instruction.answer)
        assert decoded.status == "strict"
        assert decoded.x_m.tolist() == pytest.approx(row["x_m"], abs=0.0051)
        assert decoded.y_m.tolist() == pytest.approx(row["y_m"], abs=0.0051)
        assert instruction.instance_token == row["instance_token"]


def test_many_wordings_are_seeded(synthetic_build: Build) -> None:
    def asked(seed: int | None) -> list[str]:
        rows = synthetic_build.iter_instructions("1", "mini_train", seed=seed)
        return [r.messages[1].content.split("\n")[-1] for r in rows if r.task == "object_caption"]

    assert len(set(asked(None))) == 1
    assert len(set(asked(1))) == 4
    assert asked(1) == asked(1) != asked(2)


def test_sources_and_mistakes(synthetic_build: Build) -> None:
    only = list(synthetic_build.iter_instructions("2", "mini_val", sources=["nux"]))
    assert {r.source for r in only} == {"nux"}
    assert "Narration: " in only[0].messages[-1].content
    for arguments in (("4", "mini_val"), ("2", "test")):
        with pytest.raises(UnknownNameError):
            synthetic_build.iter_instructions(*arguments)
    with pytest.raises(InputError, match="--system-file"):
        synthetic_build.iter_instructions("2", "mini_val", "released")
    empty = Build(
        synthetic_build.path,
        {
            **synthetic_build.manifest,
            "tables": {**synthetic_build.manifest["tables"], "planning": {}},
        },
    )
    with pytest.raises(InputError, match="source `planning`"):
        empty.iter_instructions("2", "mini_val")
    with pytest.raises(InputError, match="no table 'planning'"):
        empty.iter_instructions("3", "mini_val")
