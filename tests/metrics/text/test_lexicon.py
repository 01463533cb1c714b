"""METEOR's filtered paraphrases and synonyms: what stays, what goes, and where the index lies."""

from __future__ import annotations

import gzip
import random
import sqlite3
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odvla_bench.errors import InputError
from odvla_bench.metrics.text import lexicon, meteor, synonyms
from odvla_bench.metrics.text.corpus import FloatArray
from odvla_bench.metrics.text.java import pycocoevalcap_file
from odvla_bench.metrics.text.runs import corpus_runs

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


SYNSETS = ["man", "men's", "box", "boxful", "u.s.", "traffic_cone", "go", "drive", "driver"]
SYNSETS += ["\u00e9", "new_york", "ice-cream", "big"]
EXCEPTIONS = {"go": "went gone", "stratum": "strata"}


@pytest.fixture(autouse=True)
def table(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path | None:
    """Small tables in the place of METEOR's, but for tests of METEOR itself."""
    if request.node.get_closest_marker("java"):
        return None
    path, jar = tmp_path / "paraphrase-en.gz", tmp_path / "meteor-1.5.jar"
    path.write_bytes(gzip.compress("".join(f"{a}\n{b}\n{c}\n" for a, b, c in ENTRIES).encode()))
    with zipfile.ZipFile(jar, "w") as archive:
        for kind, entries in (("synsets", dict.fromkeys(SYNSETS, "1")), ("exceptions", EXCEPTIONS)):
            lines = "".join(f"{a}\n{b}\n" for a, b in entries.items())
            archive.writestr(f"synonym/english.{kind}", lines)
    files = {path.name: path, jar.name: jar}
    monkeypatch.setattr(lexicon, "pycocoevalcap_file", lambda *parts: files[parts[-1]])
    return path


def written(texts: list[str], cache: Path) -> tuple[list[tuple[str, ...]], set[str], set[str]]:
    """Paraphrases, and words with synonyms and with exceptions, that stay."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = lexicon.write_filtered(texts, folder, cache=cache)
        lines = gzip.decompress((folder / lexicon.PARAPHRASES).read_bytes()).decode().splitlines()
        synsets, exceptions = (
            (folder / lexicon.SYNONYMS / f"english.{kind}").read_text("utf-8").splitlines()[::2]
            for kind in ("synsets", "exceptions")
        )
    entries = list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))
    assert count == len(entries)
    return sorted(entries), set(synsets), set(exceptions)


def kept(texts: list[str], cache: Path) -> list[tuple[str, ...]]:
    return written(texts, cache)[0]


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
    texts: list[str], expected: list[int], tmp_path: Path
) -> None:
    always = ENTRIES[7]  # made of nothing that could rule it out
    found = kept(texts, tmp_path / "cache")
    assert found == sorted([*(ENTRIES[i] for i in expected), always])


@given(st.lists(st.sampled_from(["us", "u.s", "e.g", "car", "3.5", "-", "x"]), max_size=8))
def test_runs_hold_every_normal_form_of_a_text(words: list[str]) -> None:
    """Whichever words lose their periods, neighbouring pieces are among the runs."""
    runs = corpus_runs([" ".join(words)])
    for chosen in (0, 0b1010101, 0b0110011, 0b11111111):
        forms = [w.replace(".", "") if chosen >> i & 1 else w for i, w in enumerate(words)]
        pieces = " ".join(forms).replace(".", " ").replace("-", " ").encode().split()
        assert runs.issuperset(pieces)
        assert runs.issuperset(a + b" " + b for a, b in zip(pieces, pieces[1:], strict=False))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The MAN", {"man"}),
        ("men", {"man"}),
        ("men's", {"men's", "man"}),
        ("boxes boxesful", {"box", "boxful"}),
        ("U.S. cars", {"u.s."}),
        ("traffic_cones ahead", {"traffic_cone"}),
        ("a cone in traffic", {"traffic_cone"}),
        ("cones", set()),
        ("it went", {"go"}),
        ("driving", {"drive"}),
        ("drivers drives", {"driver", "drive"}),
        ("ice-cream", {"ice-cream"}),
        ("bigger", set()),
    ],
)
def test_synonyms_stay_that_a_text_leads_to(text: str, words: set[str], tmp_path: Path) -> None:
    always = {"\u00e9"}  # has no piece that could rule it out
    _, synsets, exceptions = written([text], tmp_path / "cache")
    assert synsets == words | always
    assert exceptions == ({"go"} if "went" in text else set())


def runs_word_by_word(texts: list[str]) -> set[bytes]:
    """The runs of texts as an earlier version found them, pair of words by pair of words."""
    runs: set[bytes] = set()
    for text in texts:
        words = [forms for word in text.lower().split() if (forms := forms_of(word))]
        for forms in words:
            for form in forms:
                runs.update(form, (b" ".join(pair) for pair in zip(form, form[1:], strict=False)))
        for left, right in zip(words, words[1:], strict=False):
            runs.update(a[-1] + b" " + b[0] for a in left for b in right)
    return runs


def forms_of(word: str) -> list[list[bytes]]:
    forms = []
    for form in (word, word.replace(".", "")):
        letters = [c if c in "0123456789abcdefghijklmnopqrstuvwxyz" else " " for c in form]
        forms.append("".join(letters).encode().split())
    return [form for form in forms if form]


SIGNS = "aA.-'_,09z\0\1\x7f\x80\u0130\u212a\u03a3\u03c3\u00df\u00e9\u4e2d\U0001f600\u200b\ufeff"
SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000"
WORDS = ["a", "intersection", "intersections", "intersec", "tion", "12.5", "u.s.", "---", "x" * 24]
TEXTS = st.lists(
    st.text(SIGNS + SPACES, max_size=40)
    | st.text(max_size=20).filter(lambda text: text.isprintable())
    | st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
    max_size=8,
)


@given(TEXTS)
def test_runs_are_those_found_word_by_word(texts: list[str]) -> None:
    assert corpus_runs(texts) == runs_word_by_word(texts)


@given(TEXTS)
def test_of_known_pieces_no_run_is_lost(texts: list[str]) -> None:
    every = corpus_runs(texts)
    known = {run for run in sorted(every)[::2] if b" " not in run}
    of_known = {run for run in every if known.issuperset(run.split())}
    assert of_known <= corpus_runs(texts, known) <= every


def test_runs_of_many_different_words() -> None:
    """More than a block of texts, than a table of pairs, and than the hash keeps apart."""
    rng = random.Random(3)
    texts = [" ".join(f"w{rng.randrange(9000)}" for _ in range(12)) for _ in range(2500)]
    assert corpus_runs(texts) == runs_word_by_word(texts)


def wordnet_lines(seed: int, count: int) -> list[tuple[str, str]]:
    """Pairs of lines of synonyms, with all kinds of endings and signs."""
    with zipfile.ZipFile(pycocoevalcap_file("meteor", "meteor-1.5.jar")) as jar:
        synsets, exceptions = (
            jar.read(f"synonym/english.{kind}").decode().split("\n")
            for kind in ("synsets", "exceptions")
        )
    rng = random.Random(seed)
    alike = defaultdict(list)
    for word, sets in zip(synsets[::2], synsets[1::2], strict=False):
        for synset in sets.split():
            alike[synset].append(word)
    groups = [words for words in alike.values() if len(words) > 1]
    forms = dict(zip(exceptions[::2], exceptions[1::2], strict=False))
    endings = ["", "", "s", "es", "ed", "ing", "er", "est", "ful", "sful", "s.", "'s", "ies", "men"]

    def inflected(word: str) -> str:
        if word in forms and rng.random() < 0.5:
            return rng.choice(forms[word].split())
        cut = word[:-1] if word.endswith(("e", "y")) and rng.random() < 0.5 else word
        signs = rng.choice(["_", "_", "-", " "])
        return (cut + rng.choice(endings)).replace("_", signs)

    def lines() -> tuple[str, str]:
        pairs = [rng.sample(rng.choice(groups), 2) for _ in range(6)]
        return " ".join(inflected(a) for a, _ in pairs), " ".join(inflected(b) for _, b in pairs)

    return [lines() for _ in range(count)]


@pytest.mark.java
def test_of_wordnet_no_match_is_lost(tmp_path: Path) -> None:
    """Small corpora, each with the synonyms cut down to it, and with all synonyms."""
    jar = pycocoevalcap_file("meteor", "meteor-1.5.jar")
    corpora = [wordnet_lines(seed, count=15) for seed in range(6)]
    db = sqlite3.connect(":memory:")
    synonyms.add_to_index(db, jar)
    cut = []
    for k, corpus in enumerate(corpora):
        folder = empty_lexicon(tmp_path / str(k))
        runs = corpus_runs([text for pair in corpus for text in pair])
        synonyms.write(db, {run for run in runs if b" " not in run}, folder / lexicon.SYNONYMS)
        cut.append(statistics(corpus, folder))
    whole = empty_lexicon(tmp_path / "whole")
    with zipfile.ZipFile(jar) as archive:
        archive.extractall(whole, [n for n in archive.namelist() if n.startswith("synonym/eng")])
    (whole / "synonym").rename(whole / lexicon.SYNONYMS)
    expected = statistics([pair for corpus in corpora for pair in corpus], whole)
    assert expected[:, 12].sum() > 50  # words matched as synonyms
    np.testing.assert_array_equal(np.concatenate(cut), expected)


def empty_lexicon(folder: Path) -> Path:
    """A lexicon without paraphrases, and for the time being without synonyms."""
    folder.mkdir()
    (folder / lexicon.PARAPHRASES).write_bytes(gzip.compress(b""))
    return folder


def statistics(pairs: list[tuple[str, str]], folder: Path) -> FloatArray:
    return meteor._score([f"SCORE ||| {a} ||| {b}" for a, b in pairs], folder, None)


def test_the_index_is_made_once(tmp_path: Path) -> None:
    kept(["car"], tmp_path / "cache")
    [index] = (tmp_path / "cache").iterdir()
    made = index.stat().st_mtime_ns
    kept(["vehicle"], tmp_path / "cache")
    assert [p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()] == [made]


def test_a_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    kept(["car"], tmp_path / "cache")
    [index] = (tmp_path / "cache").iterdir()
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="is damaged .* Delete it"):
        kept(["car"], tmp_path / "cache")


def test_without_a_cache_folder_nothing_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert ENTRIES[1] in kept(["car", "vehicle"], blocked / "cache")
    assert not list(temporary.iterdir())
