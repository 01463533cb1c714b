"""Commands on instruction sets, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from factories.builds import write_files
from factories.small_tree import VERSION, write_small_tree

from odvla_bench.cli.main import app, run

GOLDENS = Path(__file__).parents[1] / "goldens/instructions"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_small_tree(tmp_path_factory.mktemp("cli"))
    for path in GOLDENS.glob("*.json"):
        write_files(root / "language", json.loads(path.read_text(encoding="utf-8"))["files"])
    return root


def cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command; its exit code."""
    monkeypatch.setattr(sys, "argv", ["odvla-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


def build(monkeypatch: pytest.MonkeyPatch, raw: Path, out: Path, *options: object) -> int:
    place = ("--nuscenes-root", raw, "--version", VERSION, "--out", out)
    return cli(monkeypatch, "build-data", *place, "--cache-dir", raw / "cache", *options)


def test_builds_all_that_is_found_and_says_what_is_not(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert build(monkeypatch, raw, tmp_path / "b", "--sources-root", raw / "language") == 0
    printed = capfd.readouterr().out
    lines = {}
    for line in printed.splitlines():
        if line.split():
            lines.setdefault(line.split()[0], line)
    assert "yes" in lines["planning"]
    assert "in part" in lines["nuscenes_qa"]
    assert "No NuScenes_train_questions.json" in lines["nuscenes_qa"]
    assert "warning" in lines["nuscenes_qa.val"]
    assert cli(monkeypatch, "check", tmp_path / "b") == 0
    out = tmp_path / "o.json"
    export = ("export", tmp_path / "b", "--split", "train", "--out", out, "--format", "llava")
    assert cli(monkeypatch, *export, "--stage", "1") == 0
    records = json.loads(out.read_text(encoding="utf-8"))
    assert [r["id"].split(":")[0] for r in records] == ["tod3cap", "tod3cap", "nucaption"]
    capfd.readouterr()
    assert cli(monkeypatch, *export) == 2
    assert "--overwrite" in capfd.readouterr().err


def test_a_bare_root_builds_what_it_can(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = raw / "language/Nu_X_train.json"
    assert build(monkeypatch, raw, tmp_path / "b", "--source-file", f"nux.train={given}") == 0
    printed = capfd.readouterr().out
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert set(manifest["sources"]) == {"planning", "nux", "forecasting"}
    assert "final_caption_bbox_token.json" in printed


MISTAKES = {
    "absent": (("--sources", "nux"), "No Nu_X_train.json"),
    "unknown": (("--sources", "nuxx"), "Did you mean 'nux'?"),
    "no-file": (("--source-file", "nux.train=/nowhere"), "no such file"),
    "syntax": (("--source-file", "nux.train"), "write it like"),
    "other": (("--source-file", "nux.test=/nowhere"), "Unknown source file"),
    "folder": (("--sources-root", "/nowhere"), "/nowhere: no such folder"),
    "executor": (("--executor", "rray"), "Did you mean 'ray'?"),
    "filter": (("--object-filter", "none"), "Unknown object filter"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_exit_with_2_and_say_what_to_do(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    options, message = MISTAKES[name]
    assert build(monkeypatch, raw, tmp_path / "b", *options) == 2
    printed = capfd.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "b").exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, odvla_bench\n"
        "from odvla_bench.cli.main import app\n"
        "heavy = {'pyarrow', 'duckdb', 'pandas', 'torch', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {c.name for c in app.registered_commands} >= {"build-data", "check", "export"}
