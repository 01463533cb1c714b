"""What README and docs tell a user to run: Python examples run, and commands parse."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from odvla_bench.baselines.predict import predict
from odvla_bench.baselines.training.config import make_config
from odvla_bench.baselines.training.stages import get_stage
from odvla_bench.cli.evaluate import protocol_names
from odvla_bench.cli.main import app
from odvla_bench.datasets.build import find_sources
from odvla_bench.datasets.nuscenes.ego import COMMANDS
from odvla_bench.datasets.reader import open_build
from odvla_bench.evaluate.language import TASKS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example(
    code: str, build_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    predict(open_build(build_dir), "mini_val", "stationary", tmp_path / "p.parquet")
    for name, path in (
        ("BUILD", build_dir),
        ("PREDS", tmp_path / "p.parquet"),
        ("OUT", tmp_path / "o"),
    ):
        code = re.sub(rf"\b{name}\b", str(path), code)
    exec(compile(code, "example", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def documented_commands(page: Path) -> list[list[str]]:
    """The words of every `odvla-bench` command in a page's shell blocks, from its name on."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "odvla-bench" in words:
                found.append(words[words.index("odvla-bench") + 1 :])
    return found


DOCUMENTED = [
    pytest.param(words, id=f"{page.stem}-{i}-{words[0]}")
    for page in PAGES
    for i, words in enumerate(documented_commands(page))
]
KNOWN_VALUES: dict[str, Callable[[str], Any]] = {
    "stage": get_stage,
    "protocol": protocol_names,
    "task": lambda name: name in ("planning", "forecasting") or TASKS.get(name),
    "command": lambda text: COMMANDS.index(text),
    "sources": lambda names: [SOURCES.index(name) for name in names.split(",") if name],
}
"""Option → what raises where its value is none that exists."""
SOURCES = [source.name for source in find_sources(Path("nowhere"), None, {})]


@pytest.mark.parametrize("words", DOCUMENTED)
def test_documented_command_parses(words: list[str]) -> None:
    group = typer.main.get_command(app)
    assert words[0] in group.commands, f"no command {words[0]}"  # type: ignore[attr-defined]
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    given = command.make_context(words[0], list(words[1:])).params
    for option, check in KNOWN_VALUES.items():
        if given.get(option) and isinstance(given[option], str):
            check(given[option])
    if given.get("profile") and words[0] == "eval":
        assert given["profile"] in TASKS.get(given["task"]).profiles
    if words[0] == "train":
        make_config(
            None, given["settings"] or (), stage=given["stage"], model="m", data="d", out="o"
        )


def test_reproduction_has_a_command_for_every_table() -> None:
    page = ROOT / "docs" / "reproduce.md"
    commands = documented_commands(page)
    assert [w[w.index("--stage") + 1] for w in commands if w[0] == "train"] == [
        *("1", "2", "2.5", "3")
    ]
    tasks = {w[w.index("--task") + 1] for w in commands if "--task" in w}
    assert tasks == {"forecasting", "nux", "nucaption", "nuscenes_qa"}
    assert {"build-data", "extract-features", "predict", "eval", "ablate"} <= {
        words[0] for words in commands
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--preds", "p", "--data", "d", "--protocl", "uniad"], "protocl"),
        (["train", "--max-steps", "many"], "valid integer"),
        (["eval", "--data", "d"], "preds"),
    ],
)
def test_a_wrong_documented_command_would_be_found(words: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        test_documented_command_parses(words)
