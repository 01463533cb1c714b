"""The command line as a user meets it: what it prints, writes, and how it fails."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from odvla_bench.datasets.reader import open_build
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.predictions import write_predictions

SCRIPT = "from odvla_bench.cli.main import run; run()"


def run(
    *arguments: object, code: int = 0, before: str = "pass"
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own and check its exit code; no traceback ever."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {before}\n{SCRIPT}", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def preds(build_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preds") / "cv.jsonl"
    run("predict", "--model", "constant-velocity", "--data", build_dir, "--split", "mini_val",
        "--out", path)  # fmt: skip
    return path


HEAVY = ("torch", "transformers", "nuscenes", "pandas", "matplotlib", "duckdb", "pyarrow", "cv2")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, odvla_bench\n"
        "from odvla_bench.cli.main import app\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "build-data" in run("--help").stdout


def test_build_predict_eval_compare(synthetic_root: Path, tmp_path: Path) -> None:
    build, results = tmp_path / "build", []
    done = run("build-data", "--nuscenes-root", synthetic_root, "--version", "v1.0-mini",
               "--sources", "planning", "--out", build)  # fmt: skip
    assert "mini_val" in done.stdout
    assert "build-data: 1/2" in done.stderr  # plain progress lines where there is no terminal
    for model in ("stationary", "constant-velocity"):
        file = tmp_path / f"{model}.parquet"
        run("predict", "--model", model, "--data", build, "--split", "mini_val", "--out", file)
        results.append(tmp_path / model)
        run("eval", "--preds", file, "--data", build, "--out", results[-1], "--protocol",
            "exact,uniad")  # fmt: skip
        assert {p.name for p in results[-1].iterdir()} == {
            *("results.json", "samples.parquet", "worst.png")
        }
    summary = json.loads((results[0] / "results.json").read_text())
    assert set(summary["protocols"]) == {"exact", "uniad"}
    assert summary["comparable"] is True
    assert summary["predictions"]["metadata"]["model"] == "stationary"
    assert "uniad" in run("compare", *results).stdout
    assert "vehicle" in run("inspect", build, "--table", "agents").stdout


def test_protocols_prints_choices_and_defects() -> None:
    text = run("protocols", "--only", "uniad,exact").stdout
    assert "missing_future" in text
    assert "the footprint is never rotated" in text


def test_protocols_scores_one_file_under_all(build_dir: Path, preds: Path) -> None:
    text = run("protocols", "--preds", preds, "--data", build_dir).stdout
    assert "sparsedrive" in text
    assert "col. 3s, %" in text


def test_doctor(synthetic_root: Path, tmp_path: Path) -> None:
    text = run("doctor", "--nuscenes-root", synthetic_root).stdout
    assert "ready: odvla-bench build-data" in text
    assert "map expansion" in text
    run("doctor", "--nuscenes-root", tmp_path, code=2)
    assert "no such folder" in run("doctor", "--nuscenes-root", tmp_path / "x", code=2).stderr


def test_partial_predictions(build_dir: Path, preds: Path, tmp_path: Path) -> None:
    lines = preds.read_text().splitlines()
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join(lines[1:]))
    token = json.loads(lines[0])["sample_token"]
    out = tmp_path / "r"
    failed = run("eval", "--preds", part, "--data", build_dir, "--out", out, code=2)
    assert token in failed.stderr
    assert not out.exists()
    done = run("eval", "--preds", part, "--data", build_dir, "--out", out, "--allow-partial")
    assert "NOT COMPARABLE: 1 keyframes" in done.stderr
    assert json.loads((out / "results.json").read_text())["comparable"] is False


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


def bad_files(folder: Path, lines: list[str]) -> dict[str, tuple[Path, str]]:
    """Defect → (file, what the error must say)."""
    rows = [json.loads(line) for line in lines]
    token = rows[2]["sample_token"]

    def jsonl(name: str, change) -> Path:
        copy = json.loads(json.dumps(rows))
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(r) for r in (change(copy) or copy)))
        return path

    def put(key: str, value: object):
        def change(copy: list) -> None:
            copy[2][key] = value

        return change

    evil = folder / "evil.pkl"
    evil.write_bytes(pickle.dumps({"a": Evil()}))
    cut = folder / "cut.jsonl"
    cut.write_text("\n".join(lines)[:-20])
    return {
        "NaN": (jsonl("nan", put("x_m", [float("nan")] * 6)), token),
        "infinite": (jsonl("inf", put("y_m", [1, 2, 3, 4, 5, float("inf")])), token),
        "five steps": (jsonl("five", put("x_m", [0.0] * 5)), token),
        "text for numbers": (jsonl("words", put("x_m", ["a"] * 6)), token),
        "duplicate": (jsonl("twice", lambda c: [*c, c[2]]), token),
        "unknown": (jsonl("unknown", put("sample_token", "f" * 32)), "f" * 32),
        "missing": (jsonl("missing", lambda c: c[:2] + c[3:]), token),
        "no token": (jsonl("anonymous", put("sample_token", None)), "token"),
        "truncated": (cut, "cut.jsonl"),
        "pickle with code": (evil, "system"),
        "no file": (folder / "absent.jsonl", "absent.jsonl"),
    }


def test_every_kind_of_bad_predictions(build_dir: Path, preds: Path, tmp_path: Path) -> None:
    for defect, (path, says) in bad_files(tmp_path, preds.read_text().splitlines()).items():
        out = tmp_path / "r"
        failed = run("eval", "--preds", path, "--data", build_dir, "--out", out, code=2)
        assert says in failed.stderr, defect
        assert path.name in failed.stderr, defect
        assert not out.exists(), defect
    assert not Path("evil-was-here").exists()


def test_texts_are_read_as_their_predictor_wrote_them(build_dir: Path, tmp_path: Path) -> None:
    rows = open_build(build_dir).table("planning", "mini_val")
    plans = zip(rows["future_x_m"].to_pylist(), rows["future_y_m"].to_pylist(), strict=True)
    texts = [get_codec("bins").encode(x, y) for x, y in plans]
    file = tmp_path / "bins.parquet"
    tokens = rows["sample_token"].to_pylist()
    write_predictions(file, tokens, text=texts, metadata={"waypoint_codec": "bins"})
    evaluate = ("eval", "--preds", file, "--data", build_dir, "--protocol", "exact")
    assert f"{len(tokens)} strict" in run(*evaluate).stdout
    assert f"{len(tokens)} failed" in run(*evaluate, "--codec", "text").stdout


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "tree"
    told = run("make-synthetic", out, "--scenes", 1, code=2).stderr
    assert told == f"error: {out}/v1.0-mini: Not a directory. Check the path.\n"


def test_wrong_names_and_folders(build_dir: Path, preds: Path, tmp_path: Path) -> None:
    assert (
        "Did you mean 'uniad'"
        in run("eval", "--preds", preds, "--data", build_dir, "--protocol", "unaid", code=2).stderr
    )
    assert "not a build" in run("eval", "--preds", preds, "--data", tmp_path, code=2).stderr
    assert "no whole results" in run("compare", tmp_path, tmp_path, code=2).stderr
    assert "Known: mini_train, mini_val" in run(
        "predict", "--model", "stationary", "--data", build_dir, "--out", tmp_path / "p.jsonl",
        code=2,
    ).stderr  # fmt: skip
    assert (
        "no folder 'v1.0-trainval'"
        in run("build-data", "--nuscenes-root", tmp_path, "--out", tmp_path / "b", code=2).stderr
    )


def test_a_build_of_another_format_version(build_dir: Path, tmp_path: Path) -> None:
    manifest = json.loads((build_dir / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    assert "format version 99" in run("inspect", tmp_path, code=2).stderr


def test_text_predictions_with_the_released_repairs(build_dir: Path, tmp_path: Path) -> None:
    tokens = open_build(build_dir).table("planning", "mini_val")["sample_token"].to_pylist()
    path = tmp_path / "answers.jsonl"
    answers = ["<traj_start>[(0.00,1.00),(0.00,2.00)]<traj_end>"] * len(tokens)
    rows = [{"id": f"{t}_trajectory", "answer": a} for t, a in zip(tokens, answers, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    strict = run("eval", "--preds", path, "--data", build_dir, "--protocol", "uniad")
    assert "14 failed" in strict.stdout
    repaired = run("eval", "--preds", path, "--data", build_dir, "--protocol", "uniad",
                   "--repair", "released", "--out", tmp_path / "r")  # fmt: skip
    assert "14 repaired" in repaired.stdout
    plan = json.loads((tmp_path / "r" / "results.json").read_text())
    assert "parser:text/released" in plan["protocols"]["uniad"]["signature"]


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = run("demo", "--out", tmp_path, "--scenes", "4", "--no-tiny")
    assert "ego-mlp" in done.stdout
    assert (tmp_path / "plans.png").stat().st_size > 10_000


@pytest.mark.slow
def test_demo_without_torch_leaves_the_models_out(tmp_path: Path) -> None:
    done = run("demo", "--out", tmp_path, "--scenes", "4", before="sys.modules['torch'] = None")
    for model in ("ego-mlp", "tiny"):
        assert f"left out: {model} needs `torch`, which is not installed. Install" in done.stderr
        assert not (tmp_path / "results" / model).exists()
    assert (tmp_path / "results" / "constant-velocity" / "results.json").exists()


def test_tiny_without_torch_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from odvla_bench.cli.demo import plan_with_tiny\n"
        "from pathlib import Path\n"
        "try: plan_with_tiny(None, Path('a'), Path('b'), 0)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "MissingDependencyError tiny needs `torch`, which is not installed. "
        "Install it with: pip install 'odvla-bench[train]'\n"
    )
