"""The filtered paraphrase table: what stays, what goes, and where the index lies."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.errors import InputError
from odvla_bench.metrics.text import paraphrases

ENTRIES = [
    ("0.5", "the car", "the vehicle"),
    ("0.25", "car", "vehicle"),
    ("0.125", "car", "lorry"),
    ("1.0E-4", "the vehicle", "car the"),
    ("0.3", "us army", "american army"),
    ("0.7", "is n't", "is not"),
    ("0.9", "café", "bar"),
    ("0.6", "-", "--"),
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "paraphrase-en.gz"
    path.write_bytes(gzip.compress("".join(f"{a}\n{b}\n{c}\n" for a, b, c in ENTRIES).encode()))
    monkeypatch.setattr(paraphrases, "pycocoevalcap_file", lambda *_: path)
    return path


def kept(texts: list[str], folder: Path, cache: Path) -> list[tuple[str, str, str]]:
    out = folder / "filtered.gz"
    count = paraphrases.write_filtered(texts, out, cache=cache)
    lines = gzip.decompress(out.read_bytes()).decode().splitlines()
    entries = list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))
    assert count == len(entries)
    return sorted(entries)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["The car", "the VEHICLE."], [0, 1]),
        (["car", "vehicle"], [1]),
        (["the car the vehicle"], [0, 1, 3]),
        (["U.S. Army", "American army"], [4]),
        (["is n't", "is not"], [5]),
        (["caf\u00e9", "bar"], [6]),
        (["nothing"], []),
    ],
    ids=["case", "words", "pairs", "dropped periods", "apostrophes", "other letters", "none"],
)
def test_entries_stay_whose_phrases_occur(
    texts: list[str], expected: list[int], table: Path, tmp_path: Path
) -> None:
    always = ENTRIES[7]  # made of nothing that could rule it out
    found = kept(texts, tmp_path, tmp_path / "cache")
    assert found == sorted([*(ENTRIES[i] for i in expected), always])


@given(st.lists(st.sampled_from(["us", "u.s", "e.g", "car", "3.5", "-", "x"]), max_size=8))
def test_runs_hold_every_normal_form_of_a_text(words: list[str]) -> None:
    """Whichever words lose their periods, neighbouring pieces are among the runs."""
    runs = paraphrases.corpus_runs([" ".join(words)])
    for chosen in (0, 0b1010101, 0b0110011, 0b11111111):
        forms = [w.replace(".", "") if chosen >> i & 1 else w for i, w in enumerate(words)]
        pieces = " ".join(forms).replace(".", " ").replace("-", " ").encode().split()
        assert runs.issuperset(pieces)
        assert runs.issuperset(a + b" " + b for a, b in zip(pieces, pieces[1:], strict=False))


def test_the_index_is_made_once(table: Path, tmp_path: Path) -> None:
    kept(["car"], tmp_path, tmp_path / "cache")
    [index] = (tmp_path / "cache").iterdir()
    made = index.stat().st_mtime_ns
    kept(["vehicle"], tmp_path, tmp_path / "cache")
    assert [p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()] == [made]


def test_a_damaged_index_says_what_to_do(table: Path, tmp_path: Path) -> None:
    kept(["car"], tmp_path, tmp_path / "cache")
    [index] = (tmp_path / "cache").iterdir()
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="is damaged .* Delete it"):
        kept(["car"], tmp_path, tmp_path / "cache")


def test_without_a_cache_folder_nothing_stays_behind(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert ENTRIES[1] in kept(["car", "vehicle"], tmp_path, blocked / "cache")
    assert not list(temporary.iterdir())
