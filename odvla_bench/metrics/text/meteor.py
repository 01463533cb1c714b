"""METEOR 1.5 by its own Java program (Denkowski and Lavie, 2014), run as pycocoevalcap runs it.

The program aligns each prediction with its best reference and prints 23 counts; the score is
computed from them here, so that counts can be pooled again for an interval.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from odvla_bench.metrics.text.corpus import Corpus, FloatArray
from odvla_bench.metrics.text.java import JavaError, pycocoevalcap_file, run_lines
from odvla_bench.metrics.text.lexicon import PARAPHRASES, SYNONYMS, write_filtered

STATISTICS = 23
"""Columns, as the program prints them: lengths (2), function words (2), then for each of four
modules matches of content words (2) and function words (2), chunks, matched words (2); of each
two, the prediction's comes first."""

# METEOR 1.5's parameters for English, its default task.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_MODULE_WEIGHT = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase

_LENGTHS, _FUNCTION_WORDS, _MATCHES = slice(0, 2), slice(2, 4), slice(4, 20)
_CHUNKS, _WORDS = 20, slice(21, 23)

# Each JVM spends a second of CPU time on starting and compiling the aligner, some 500 captions'
# worth. Below ten times as much text, the optimising compiler never earns its own time.
_CHARACTERS_FOR_A_JVM = 250_000
_CHARACTERS_TO_OPTIMISE = 4_000_000


def meteor_statistics(
    corpus: Corpus,
    *,
    timeout_s: float | None = None,
    workers: int | None = None,
    cache: Path | None = None,
) -> FloatArray:
    """(P, 23) counts of each pair, to be pooled and given to `finish`.

    Args:
        corpus: P distinct pairs.
        timeout_s: wall-clock limit; by default 120 s and 1 s for each ten pairs of a JVM.
        workers: JVMs to run side by side; by default one for each core, fewer for little text.
        cache: folder of METEOR's index, see `lexicon.write_filtered`.

    Raises:
        JavaError: Java is missing, or METEOR failed or took too long.
    """
    lines = [_line(corpus, pair) for pair in range(len(corpus.hypothesis))]
    wanted = workers or min(_cores(), -(-sum(map(len, lines)) // _CHARACTERS_FOR_A_JVM))
    count = min(wanted, len(lines))
    with tempfile.TemporaryDirectory(prefix="odvla-meteor-") as temporary:
        lexicon = Path(temporary)
        write_filtered(corpus.texts, lexicon, cache=cache)
        with ThreadPoolExecutor(count) as pool:
            # Long texts tend to stand together; dealing them out in turn levels the load.
            jobs = [pool.submit(_score, lines[k::count], lexicon, timeout_s) for k in range(count)]
            parts = [job.result() for job in jobs]
    statistics = np.empty((len(lines), STATISTICS))
    for k, part in enumerate(parts):
        statistics[k::count] = part
    return _without_perfect_chunks(statistics)


def finish(statistics: FloatArray) -> FloatArray:
    """(…, 23) counts, of one pair or pooled → (…) METEOR."""
    matches = statistics[..., _MATCHES].reshape(*statistics.shape[:-1], 4, 2, 2)
    weighted = np.einsum("...mks,m,k->...s", matches, _MODULE_WEIGHT, [_DELTA, 1 - _DELTA])
    function_words = statistics[..., _FUNCTION_WORDS]
    length = _DELTA * (statistics[..., _LENGTHS] - function_words) + (1 - _DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted / length, -1, 0)
        f_mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        fragmentation = statistics[..., _CHUNKS] / statistics[..., _WORDS].mean(-1)
        score = f_mean * (1 - _GAMMA * fragmentation**_BETA)
    return np.maximum(np.nan_to_num(score, nan=0.0), 0.0)


def _without_perfect_chunks(statistics: FloatArray) -> FloatArray:
    """The counts with no chunk where a prediction is its reference: METEOR charges none for it."""
    matched = statistics[..., _MATCHES].reshape(-1, 8, 2).sum(1)
    perfect = (matched == statistics[..., _LENGTHS]).all(-1) & (statistics[..., _CHUNKS] == 1)
    result = statistics.copy()
    result[perfect, _CHUNKS] = 0
    return result


def _line(corpus: Corpus, pair: int) -> str:
    """The program's input line; as in pycocoevalcap, only predictions lose the separator."""
    prediction = corpus.texts[corpus.hypothesis[pair]].replace("|||", "").replace("  ", " ")
    line = " ||| ".join(["SCORE", *corpus.references_of(pair), prediction])
    return line.replace("\n", " ").replace("\r", " ")


def _score(lines: Sequence[str], lexicon: Path, timeout_s: float | None) -> FloatArray:
    """(len(lines), 23) counts from one run of the program."""
    jar = str(pycocoevalcap_file("meteor", "meteor-1.5.jar"))
    short = sum(map(len, lines)) < _CHARACTERS_TO_OPTIMISE
    compiler = ["-XX:TieredStopAtLevel=1"] if short else []
    options = ["-stdio", "-l", "en", "-norm"]
    options += ["-a", str(lexicon / PARAPHRASES), "-d", str(lexicon / SYNONYMS)]
    answers = run_lines(
        [*compiler, "-Xmx2G", "-jar", jar, "-", "-", *options],
        lines,
        purpose="METEOR",
        timeout_s=120 + 0.1 * len(lines) if timeout_s is None else timeout_s,
    )
    try:
        counts = np.array([answer.split() for answer in answers], np.float64)
    except ValueError:
        counts = np.empty(0)
    if counts.shape != (len(lines), STATISTICS):
        raise JavaError(f"METEOR gave {answers[0][:200]!r} where {STATISTICS} counts were due.")
    return counts


def _cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
