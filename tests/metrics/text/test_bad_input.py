"""Input that must end in a clear error or a documented value: no hang, no lock, no file left."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from odvla_bench.errors import PredictionError, UnknownNameError
from odvla_bench.metrics.text import TextOptions, score_text
from odvla_bench.metrics.text.corpus import MAX_CHARACTERS
from odvla_bench.metrics.text.java import JavaError, run_lines

from .corpora import corpus

NGRAM_METRICS = ["bleu", "rouge_l", "cider"]


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in Java's place."""

    def install(script: str) -> None:
        program = tmp_path / "java"
        program.write_text(script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 predictions but 1 lists"),
        ([], [], "corpus is empty"),
        (["a"], [[]], "row 0: no reference"),
        (["a"], ["a"], "row 0: references is one string"),
        (["a", "b"], [["x"], "y"], "row 1: references is one string"),
        (["a", "b"], [["x"], "yes"], "row 1: references is one string"),
        (["a", "b"], [["a"], None], "row 1: references is NoneType, not a list"),
        (["a"], [[["b"]]], "row 0: reference 0 is list"),
        (["a", None], [["a"], ["b"]], "row 1: prediction is NoneType"),
        (["a"], [["b", 3]], "row 0: reference 1 is int"),
        (["a\ud800"], [["a"]], "row 0: prediction holds a lone surrogate"),
        (["a"], [["a", "\udfff"]], "row 0: reference 1 holds a lone surrogate"),
        (["a" * 1_000_000], [["a"]], r"row 0: prediction has 1,000,000 characters"),
        (["a"], [["b " * 500_000]], r"row 0: reference 0 has 1,000,000 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_corpus_that_cannot_be_scored(
    predictions: list[str], references: list[list[str]], message: str, temporary_folder: Path
) -> None:
    with pytest.raises(PredictionError, match=message):
        score_text(predictions, references)
    assert not list(temporary_folder.iterdir())


def test_any_sequences_are_a_corpus() -> None:
    predictions, references = deque(["a b", "b"]), (("a b",), deque(["c"]))
    scores = score_text(predictions, references, metrics=["rouge_l"], tokenizer="none")
    assert scores.per_sample["ROUGE_L"].tolist() == [1.0, 0.0]


def test_problems_are_listed_up_to_a_limit() -> None:
    with pytest.raises(PredictionError, match="row 0") as caught:
        score_text(["a"] * 1000, [[]] * 1000)
    assert len(caught.value.problems) == 11


@pytest.mark.parametrize("option", [{"metrics": ["blue"]}, {"tokenizer": "ptp"}])
def test_unknown_names_suggest_the_nearest(option: dict[str, object]) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean '(bleu|ptb)'"):
        score_text(["a"], [["a"]], **option)  # type: ignore[arg-type]


def test_empty_texts_have_documented_values() -> None:
    scores = score_text(["", "", "a"], [[""], ["b"], [""]], metrics=NGRAM_METRICS, tokenizer="none")
    assert scores.per_sample["ROUGE_L"].tolist() == [1.0, 0.0, 0.0]
    assert scores.per_sample["CIDEr"].tolist() == [0.0, 0.0, 0.0]
    assert scores.per_sample["Bleu_1"] == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)


def test_a_corpus_without_any_word_scores_zero() -> None:
    scores = score_text([""], [["", " "]], metrics=["bleu", "cider"], tokenizer="none")
    assert set(scores.corpus.values()) == {0.0}


def test_the_longest_texts_are_scored() -> None:
    text = "ab " * (MAX_CHARACTERS // 3)
    scores = score_text([text, "x y"], [[text], ["x y"]], metrics=NGRAM_METRICS, tokenizer="none")
    assert scores.corpus["ROUGE_L"] == pytest.approx(1.0)
    assert scores.corpus["Bleu_4"] == pytest.approx(1.0)


@pytest.mark.java
def test_line_separators_do_not_shift_meteor() -> None:
    predictions = ["a car\nstops", "a bus\r\nturns", "yes"]
    references = [["a car stops"], ["a bus turns"], ["yes"]]
    scores = score_text(predictions, references, metrics=["meteor"], tokenizer="none")
    assert scores.per_sample["METEOR"].tolist() == [1.0, 1.0, 1.0]


def test_without_java_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, temporary_folder: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JavaError, match="default-jre-headless"):
        score_text(["a"], [["a"]])
    assert not list(temporary_folder.iterdir())


@pytest.mark.java
def test_meteor_that_takes_too_long_is_stopped(temporary_folder: Path) -> None:
    predictions, references = corpus(seed=1, size=2000)
    options = TextOptions(timeout_s=0.05)
    with pytest.raises(JavaError, match="METEOR gave no answer"):
        score_text(predictions, references, metrics=["meteor"], tokenizer="none", options=options)
    assert not list(temporary_folder.iterdir())


@pytest.mark.java
@pytest.mark.parametrize(("metric", "tokenizer"), [("meteor", "none"), ("rouge_l", "ptb")])
def test_a_jvm_killed_half_way_is_an_error(
    metric: str,
    tokenizer: str,
    fake_java: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    temporary_folder: Path,
) -> None:
    fake_java(
        f"#!{sys.executable}\n"
        "import os, signal, subprocess, sys\n"
        f"real = [{shutil.which('java')!r}, *sys.argv[1:]]\n"
        "java = subprocess.Popen(real, stdout=subprocess.PIPE)\n"
        "for _ in range(7):\n"
        "    sys.stdout.buffer.write(java.stdout.readline())\n"
        "sys.stdout.flush()\n"
        "java.kill()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    predictions, references = corpus(seed=2, size=3000)
    given = {"metrics": [metric], "tokenizer": tokenizer, "options": TextOptions(workers=1)}
    with pytest.raises(JavaError, match=r"stopped after 7 of \d+ lines \(java exit status -9\)"):
        score_text(predictions, references, **given)  # type: ignore[arg-type]
    assert not list(temporary_folder.iterdir())
    monkeypatch.undo()  # the real Java again: nothing is locked
    assert score_text(predictions[:5], references[:5], **given).corpus  # type: ignore[arg-type]


def test_neither_a_full_error_stream_nor_long_lines_block(
    fake_java: Callable[[str], None],
) -> None:
    fake_java(
        f"#!{sys.executable}\n"
        "import sys\n"
        "sys.stderr.write('warning ' * 200_000)\n"
        "for line in sys.stdin:\n"
        "    sys.stdout.write(line.upper())\n"
    )
    lines = ["x" * 50_000] * 100
    answers = run_lines([], lines, purpose="Test", timeout_s=60)
    assert answers == [line.upper() for line in lines]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\nread a; echo $a\n", "stopped after 1 of 2 lines"),
        ("#!/bin/sh\ncat; exit 3\n", "java exit status 3"),
        ("#!/bin/sh\ncat; echo java.io.IOException: no table >&2\n", "no table"),
    ],
    ids=["too few answers", "exit status", "exception on the error stream"],
)
def test_a_program_that_fails_is_an_error(
    script: str, message: str, fake_java: Callable[[str], None]
) -> None:
    fake_java(script)
    with pytest.raises(JavaError, match=message):
        run_lines([], ["one", "two"], purpose="Test", timeout_s=60)


def test_meteor_that_answers_nonsense_is_an_error(fake_java: Callable[[str], None]) -> None:
    fake_java("#!/bin/sh\nwhile read line; do echo Warning; done\n")
    with pytest.raises(JavaError, match="'Warning' where 23 counts were due"):
        score_text(["a"], [["a"]], metrics=["meteor"], tokenizer="none")
