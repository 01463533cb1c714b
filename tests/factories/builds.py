"""Builds for tests, made from a tree and language files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factories.small_tree import VERSION, box_token, token
from odvla_bench.datasets.build import build, find_sources
from odvla_bench.datasets.builders.base import BuildRequest, Settings
from odvla_bench.datasets.reader import Build, open_build

MINI = "v1.0-mini"
"""Version of the synthetic trees."""


def expand(text: str) -> str:
    """`@a1` and `@box(1,a1)` → the tokens of the small tree."""
    text = re.sub(r"@box\((\d),(\w\d)\)", lambda m: box_token(int(m[1]), m[2]), text)
    return re.sub(r"@(\w\d)", lambda m: token(m[1]), text)


def expanded(value: Any) -> Any:
    """The same with all texts of a JSON value expanded."""
    return json.loads(expand(json.dumps(value)))


def write_files(folder: Path, files: Mapping[str, Sequence[str]]) -> Path:
    """Write files given as lines of text; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(expand("\n".join(lines)), encoding="utf-8")
    return folder


def make_build(
    root: Path,
    out: Path,
    *sources: str,
    language: Path | None = None,
    version: str = VERSION,
    settings: Settings | None = None,
    **options: Any,
) -> Build:
    """Build the named sources, or all that are found."""
    found = [s for s in find_sources(root, language) if not sources or s.name in sources]
    files = tuple((f"{s.name}.{k}", p) for s in found for k, p in s.found.items())
    request = BuildRequest(
        root, version, root / "cache", files=files, settings=settings or Settings()
    )
    names = [s.name for s in found if s.available]
    build(request, out, sources=names, **options)
    return open_build(out)
