"""`odvla-bench score-text` from file to printed numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from odvla_bench.cli.main import app
from odvla_bench.errors import InputError, OdvlaError


def run(tmp_path: Path, preds: list[Any], refs: list[Any], profile: str, *more: str) -> Any:
    for name, records in (("preds", preds), ("refs", refs)):
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    files = ["--preds", str(tmp_path / "preds.jsonl"), "--refs", str(tmp_path / "refs.jsonl")]
    return CliRunner().invoke(app, ["score-text", *files, "--profile", profile, *more])


def numbers(output: str, group: str, metric: str) -> list[str]:
    """What stands behind a group and metric in the printed table."""
    [row] = [w[2:] for line in output.splitlines() if (w := line.split())[:2] == [group, metric]]
    return row


CAPTIONS = [
    {"id": "a", "references": ["a car stops"], "scene": "s1"},
    {"id": 2, "references": ["a bus turns"], "scene": "s2"},
]


def test_captions(tmp_path: Path) -> None:
    out = tmp_path / "new" / "result.json"
    preds = [{"id": "2", "prediction": "A bus turns."}, {"id": "a", "prediction": "x y z"}]
    result = run(tmp_path, preds, CAPTIONS, "nucaption-word-lower", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "profile:nucaption-word-lower|missing:empty|n:2|refs:1|bleu:closest,pooled" in (
        result.output
    )
    assert numbers(result.output, "caption", "Bleu_1") == ["50.00", "0.00", "100.00"]
    data = json.loads(out.read_text())
    assert data["scores"][0]["value"] == pytest.approx(0.5)
    assert data["counts"] == {"read": 2, "scored": 2, "missing": 0}


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    taken = tmp_path / "refs.jsonl"  # a file where the folder should be
    more = ("--resamples", "0", "--out", str(taken / "result.json"))
    result = run(tmp_path, [{"id": "a"}], CAPTIONS, "nucaption-word-lower", *more)
    assert isinstance(result.exception, OdvlaError)
    assert "cannot be written" in str(result.exception)


def test_questions(tmp_path: Path) -> None:
    refs = [
        {"id": i, "answer": answer, "template_type": "exist", "num_hop": i % 2}
        for i, answer in enumerate(["yes", "no", "yes"])
    ]
    preds = [
        {"id": 0, "prediction": "yes"},
        {"id": 1, "prediction": "no", "status": "malformed"},
        {"id": 2, "prediction": None},
    ]
    result = run(tmp_path, preds, refs, "nuscenesqa-strict", "--resamples", "0")
    assert result.exit_code == 0, result.output
    assert "missing: 2" in result.output
    assert numbers(result.output, "overall", "accuracy") == ["33.33"]


@pytest.mark.java
def test_narration_and_reasoning(tmp_path: Path) -> None:
    refs = [{"id": i, "narration": f"the car stops {i}", "reasoning": "a b"} for i in range(3)]
    preds = [
        {"id": i, "prediction": f"Narration: the car stops {i}. Reasoning: a b."} for i in range(3)
    ]
    result = run(tmp_path, preds, refs, "nux-hintad-raw", "--resamples", "0")
    assert result.exit_code == 0, result.output
    assert numbers(result.output, "narration", "METEOR") == ["100.00"]


@pytest.mark.parametrize(
    ("preds", "refs", "profile", "message"),
    [
        ([{"id": "z", "prediction": "a"}], CAPTIONS, "nucaption-ptb", "an id that no reference"),
        ([{"id": "a"}, {"id": "a"}], CAPTIONS, "nucaption-ptb", "line 2: id 'a' occurs twice"),
        (["{"], CAPTIONS, "nucaption-ptb", "line 1: not JSON"),
        (["[" * 100_000], CAPTIONS, "nucaption-ptb", "line 1: not JSON"),
        (['"' + "a" * 5_000_000 + '"'], CAPTIONS, "nucaption-ptb", "line 1: longer than"),
        (["[1]"], CAPTIONS, "nucaption-ptb", "not an object with an `id`"),
        ([""], CAPTIONS, "nucaption-ptb", "holds no record"),
        ([{"id": "a", "prediction": 3}], CAPTIONS, "nucaption-ptb", "not a string or null"),
        ([{"id": "a"}], [{"id": "a"}], "nucaption-ptb", "needs 'references' as list"),
        ([{"id": "a"}], CAPTIONS, "nucaption-ptp", "Did you mean 'nucaption-ptb'"),
        ([{"id": "a"}], CAPTIONS, "tod3cap-iou3d", "eval --task tod3cap --data BUILD"),
        ([{"id": "a", "prediction": "\ud800"}], CAPTIONS, "nucaption-ptb", "lone surrogate"),
    ],
)
def test_mistakes(
    preds: list[Any], refs: list[Any], profile: str, message: str, tmp_path: Path
) -> None:
    result = run(tmp_path, preds, refs, profile)
    assert isinstance(result.exception, OdvlaError)
    assert message in str(result.exception)


def test_answers_have_no_bertscore(tmp_path: Path) -> None:
    refs = [{"id": 0, "answer": "yes", "template_type": "exist", "num_hop": 0}]
    preds = [{"id": 0, "prediction": "yes"}]
    result = run(tmp_path, preds, refs, "nuscenesqa-strict", "--bertscore")
    assert isinstance(result.exception, InputError)
    assert "Profile nuscenesqa-strict scores no captions" in str(result.exception)


@pytest.mark.parametrize("task", ["planning", "forecasting"])
def test_plans_have_no_bertscore(tmp_path: Path, task: str) -> None:
    arguments = ["eval", "--preds", str(tmp_path), "--data", str(tmp_path), "--task", task]
    result = CliRunner().invoke(app, [*arguments, "--bertscore"])
    assert isinstance(result.exception, InputError)
    assert f"Task {task} scores no captions" in str(result.exception)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    arguments = ["score-text", "--preds", str(tmp_path / "no"), "--refs", str(tmp_path / "no")]
    result = CliRunner().invoke(app, [*arguments, "--profile", "nucaption-ptb"])
    assert "No such file" in str(result.exception)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from odvla_bench.cli.main import app; "
        "assert CliRunner().invoke(app, ['score-text', '--help']).exit_code == 0; "
        "print([m for m in ('numpy', 'torch', 'transformers', 'shapely') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
