"""Text metrics beside pycocoevalcap: CPU seconds and memory on the same corpora, in one run.

    python -m benchmarks.text_metrics --samples 10000 --repeats 5
    python -m benchmarks.text_metrics --samples 80000 --repeats 5 --only ROUGE-L --corpora answers

Every measurement is a process of its own, so that neither side profits from the other; a side that
takes longer than `--timeout` is given up. A process makes `--calls` calls, one where a JVM starts
with each, and its time is their median; the ratio of the first calls is given too. CPU time is
user and system time of the process and of its JVMs; memory is that of the largest process. Corpora
are synthetic: long captions, nearly all different, and short answers, nearly all alike. Our side
uses METEOR's index, which one unmeasured call makes before. "METEOR" runs one JVM on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Usage, cpu, markdown, peak, seconds

Corpus = tuple[list[str], list[list[str]]]

_SENTENCES = (
    "on the {side} several {thing}s and a {colour} {thing} can be seen near the {place}",
    "the ego vehicle is driving on a {place} in {weather} weather at {number} km/h",
    "the {thing} -lrb- id {number} -rrb- does n't block the path its position is {number} {number}",
    "because the {thing} in the {side} is {action} it 's best to {plan} and {plan}",
    "there are {number} {thing}s to the {side} of the ego vehicle {action}",
    "a {colour} {thing} is {action} about {number} meters away",
)
_FILLERS = {
    "side": "front back left right front-left front-right back-left back-right",
    "thing": "car truck bus trailer pedestrian bicycle motorcycle barrier cone van animal",
    "colour": "red blue white black silver gray yellow green orange",
    "place": "street intersection highway tunnel bridge crosswalk roundabout driveway",
    "weather": "clear rainy cloudy foggy dark sunny",
    "action": "parked stopped overtaking reversing merging turning waiting crossing",
    "plan": "stop yield accelerate brake turn wait continue reverse",
}
_ANSWERS = [
    "yes",
    "no",
    "car",
    "truck",
    "bus",
    "barrier",
    "trailer",
    "pedestrian",
    "moving",
    "parked",
    "stopped",
]


def captions(samples: int) -> Corpus:
    """Captions of some fifty words, and predictions that differ in a third of them."""
    rng = random.Random(7)
    choices = {key: words.split() for key, words in _FILLERS.items()}

    def sentence() -> str:
        words = {key: rng.choice(values) for key, values in choices.items()}
        return rng.choice(_SENTENCES).format(number=f"{rng.uniform(0, 60):.1f}", **words)

    def prediction(text: str) -> str:
        words = text.split()
        for i in range(len(words)):
            if rng.random() < 0.15:
                words[i] = rng.choice(words)
        return " ".join(words) + " " + sentence()

    references = [[" ".join(sentence() for _ in range(rng.randint(3, 5)))] for _ in range(samples)]
    return [prediction(group[0]) for group in references], references


def answers(samples: int) -> Corpus:
    """Answers of one or two words, 235 different ones, half of them right."""
    rng = random.Random(8)
    pool = _ANSWERS + [str(n) for n in range(11)]
    pool += [f"{a} {b}" for a in _ANSWERS for b in _ANSWERS + pool][: 235 - len(pool)]
    truth = [rng.choice(pool) for _ in range(samples)]
    return [t if rng.random() < 0.5 else rng.choice(pool) for t in truth], [[t] for t in truth]


def _theirs(corpus: Corpus, scorers: list[str]) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    predictions, references = corpus
    gts = dict(enumerate(references))
    res = {i: [text] for i, text in enumerate(predictions)}
    if "bleu" in scorers:
        Bleu(4).compute_score(gts, res, verbose=0)
    for name, scorer in (("rouge_l", Rouge), ("cider", Cider), ("meteor", Meteor)):
        if name in scorers:
            scorer().compute_score(gts, res)


def _theirs_ptb(corpus: Corpus) -> Corpus:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    predictions, references = corpus
    sides = [[[text] for text in predictions], references]
    tokens = [
        PTBTokenizer().tokenize({i: [{"caption": t} for t in g] for i, g in enumerate(side)})
        for side in sides
    ]
    return [group[0] for group in tokens[0].values()], list(tokens[1].values())


def _ours(
    corpus: Corpus, scorers: list[str], tokenizer: str = "none", workers: int | None = None
) -> None:
    from odvla_bench.metrics.text import TextOptions, score_text

    options = TextOptions(workers=workers)
    _ = score_text(*corpus, metrics=scorers, tokenizer=tokenizer, options=options).corpus


def _ours_ptb(corpus: Corpus) -> None:
    from odvla_bench.metrics.text.corpus import read_samples
    from odvla_bench.metrics.text.tokenizer import tokenize

    tokenize(read_samples(*corpus), "ptb")


def _ours_meteor_start(corpus: Corpus) -> None:
    """Cut paraphrases and synonyms down to the whole corpus, and score one pair with them."""
    from odvla_bench.metrics.text import lexicon, meteor

    predictions, references = corpus
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lexicon.write_filtered([*predictions, *(g[0] for g in references)], folder)
        meteor._score([f"SCORE ||| {references[0][0]} ||| {predictions[0]}"], folder, None)


def _first(corpus: Corpus) -> Corpus:
    return corpus[0][:1], corpus[1][:1]


def _their_rouge(corpus: Corpus) -> Run:
    """ROUGE-L of dictionaries that the other scorers read too."""
    from pycocoevalcap.rouge.rouge import Rouge

    predictions, references = corpus
    gts, res = dict(enumerate(references)), {i: [text] for i, text in enumerate(predictions)}
    return lambda: Rouge().compute_score(gts, res)


def _our_rouge(corpus: Corpus) -> Run:
    """ROUGE-L of a corpus that the other scorers read too."""
    from odvla_bench.metrics.text.corpus import make_corpus
    from odvla_bench.metrics.text.scoring import TextOptions, _rouge_statistics

    pairs = make_corpus(*corpus)
    return lambda: [s.corpus() for s in _rouge_statistics(pairs, TextOptions()).values()]


def _all_of(scorers: list[str], tokenizer: str = "none", workers: int | None = None) -> Case:
    """Both sides from strings to scores."""
    read = _theirs_ptb if tokenizer == "ptb" else (lambda corpus: corpus)
    return (
        lambda corpus: lambda: _theirs(read(corpus), scorers),
        lambda corpus: lambda: _ours(corpus, scorers, tokenizer, workers),
    )


Run = Callable[[], object]
Case = tuple[Callable[[Corpus], Run], Callable[[Corpus], Run]]
"""What makes a corpus ready, unmeasured, and gives what is measured: theirs and ours."""
CASES: dict[str, Case] = {
    "PTB tokens": (lambda c: lambda: _theirs_ptb(c), lambda c: lambda: _ours_ptb(c)),
    "BLEU + CIDEr": _all_of(["bleu", "cider"]),
    "ROUGE-L": _all_of(["rouge_l"]),
    "ROUGE-L in the set": (_their_rouge, _our_rouge),
    "METEOR start": (
        lambda c: lambda: _theirs(_first(c), ["meteor"]),
        lambda c: lambda: _ours_meteor_start(c),
    ),
    "METEOR": _all_of(["meteor"], workers=1),
    "whole set": _all_of(["bleu", "meteor", "rouge_l", "cider"], "ptb"),
}
WITH_JVM = {"PTB tokens", "METEOR start", "METEOR", "whole set"}
CORPORA = {"captions": captions, "answers": answers}


def _cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _measure_here(case: str, corpus_name: str, given: argparse.Namespace) -> None:
    corpus = CORPORA[corpus_name](given.samples)
    for module in ("odvla_bench.metrics.text", "pycocoevalcap.cider.cider"):
        __import__(module)
    run = CASES[case][given.side](corpus)
    calls = []
    for _ in range(1 if case in WITH_JVM else given.calls):
        before = _cpu_seconds()
        run()
        calls.append(_cpu_seconds() - before)
    memory = [
        resource.getrusage(who).ru_maxrss / 1e3
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(json.dumps([calls, max(memory)]))


class Side(NamedTuple):
    """One side's processes."""

    calls: list[Usage]
    """The median call of each."""
    first: list[Usage]
    """The first call of each."""


def _measure(case: str, corpus_name: str, given: argparse.Namespace, side: int, to: Side) -> None:
    """One run of one side, in a fresh process; none where it takes too long."""
    command = [sys.executable, "-m", "benchmarks.text_metrics", "--samples", str(given.samples)]
    command += ["--one", case, "--corpus", corpus_name, "--side", str(side)]
    command += ["--calls", str(given.calls)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=given.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its JVM with it
            return
    if process.returncode:
        raise SystemExit(f"{case} failed")
    calls, memory = json.loads(output.splitlines()[-1])
    to.calls.append(Usage(statistics.median(calls), memory))
    to.first.append(Usage(calls[0], memory))


def _row(corpus_name: str, case: str, given: argparse.Namespace) -> list[str]:
    sides = Side([], []), Side([], [])
    for _ in range(given.repeats):  # in turn, so that a machine that slows down slows both
        for number, side in enumerate(sides):
            _measure(case, corpus_name, given, number, side)
    row = [corpus_name, f"{given.samples:,}", case]
    if not all(side.calls for side in sides):
        return [*row, f"no run within {given.timeout} s", "", "", "", ""]
    row += [seconds(side.calls) for side in sides]
    for runs in zip(*sides, strict=True):
        theirs, ours = map(cpu, runs)
        row.append(f"{theirs / ours:.1f}×")
    return [*row, " → ".join(f"{peak(side.calls) / 1e3:.2f}" for side in sides)]


def main() -> None:
    """Print a Markdown table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--corpora", nargs="*", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--calls", type=int, default=5, help="calls in each process")
    parser.add_argument("--timeout", type=int, default=3_600, help="seconds for one measurement")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        _measure_here(given.one, given.corpus, given)
        return
    if {"METEOR", "METEOR start", "whole set"} & set(given.only):
        _ours(_first(answers(1)), ["meteor"])
    header = ["corpus", "samples", "part", "pycocoevalcap, CPU s", "odvla_bench", "ratio"]
    header += ["first calls", "peak GB"]
    print(markdown(header, []))
    for corpus_name in given.corpora:
        for case in given.only:
            print(f"| {' | '.join(_row(corpus_name, case, given))} |", flush=True)


if __name__ == "__main__":
    main()
