"""The Python examples of README and docs run as they stand, on a real build."""

import re
from pathlib import Path

import pytest

from odvla_bench.baselines.predict import predict
from odvla_bench.datasets.reader import open_build

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
