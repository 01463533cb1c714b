"""Text metrics beside pycocoevalcap: CPU seconds and memory on the same corpora, in one run.

    python -m benchmarks.text_metrics --samples 10000 --repeats 5

Every measurement is a process of its own, so that neither side profits from the other. CPU time
is user and system time of the process and of its JVMs; memory is that of the largest process.
Corpora are synthetic: long captions, nearly all different, and short answers, nearly all alike.
Our side uses the paraphrase index, which one unmeasured call makes before.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

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


def _ours(corpus: Corpus, scorers: list[str], tokenizer: str = "none") -> None:
    from odvla_bench.metrics.text import score_text

    _ = score_text(*corpus, metrics=scorers, tokenizer=tokenizer).corpus


def _ours_ptb(corpus: Corpus) -> None:
    from odvla_bench.metrics.text.tokenizer import tokenize

    tokenize(*corpus, "ptb")


def _ours_meteor_start(corpus: Corpus) -> None:
    """Cut the paraphrase table down to the whole corpus, and score one pair with it."""
    from odvla_bench.metrics.text import meteor, paraphrases

    predictions, references = corpus
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table.gz")
        paraphrases.write_filtered([*predictions, *(g[0] for g in references)], table)
        meteor._score([f"SCORE ||| {references[0][0]} ||| {predictions[0]}"], table, None)


def _first(corpus: Corpus) -> Corpus:
    return corpus[0][:1], corpus[1][:1]


_NGRAMS = ["bleu", "cider"]
_ALL = ["bleu", "meteor", "rouge_l", "cider"]
CASES: dict[str, tuple[Callable[[Corpus], object], Callable[[Corpus], object]]] = {
    "PTB tokens": (_theirs_ptb, _ours_ptb),
    "BLEU + CIDEr": (lambda c: _theirs(c, _NGRAMS), lambda c: _ours(c, _NGRAMS)),
    "ROUGE-L": (lambda c: _theirs(c, ["rouge_l"]), lambda c: _ours(c, ["rouge_l"])),
    "METEOR start": (lambda c: _theirs(_first(c), ["meteor"]), _ours_meteor_start),
    "METEOR": (lambda c: _theirs(c, ["meteor"]), lambda c: _ours(c, ["meteor"])),
    "whole set": (lambda c: _theirs(_theirs_ptb(c), _ALL), lambda c: _ours(c, _ALL, "ptb")),
}
CORPORA = {"captions": captions, "answers": answers}


def _cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _measure_here(case: str, corpus_name: str, samples: int, side: int) -> None:
    corpus = CORPORA[corpus_name](samples)
    for module in ("odvla_bench.metrics.text", "pycocoevalcap.cider.cider"):
        __import__(module)
    before = _cpu_seconds()
    CASES[case][side](corpus)
    cpu = _cpu_seconds() - before
    memory = {
        who: resource.getrusage(getattr(resource, f"RUSAGE_{who}")).ru_maxrss / 1e6
        for who in ("SELF", "CHILDREN")
    }
    print(json.dumps({"cpu": cpu, "python_gb": memory["SELF"], "java_gb": memory["CHILDREN"]}))


def _measure(
    case: str, corpus_name: str, samples: int, side: int, repeats: int
) -> dict[str, float]:
    """Medians over fresh processes."""
    command = [sys.executable, "-m", "benchmarks.text_metrics", "--samples", str(samples)]
    command += ["--one", case, "--corpus", corpus_name, "--side", str(side)]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--corpora", nargs="*", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        _measure_here(given.one, given.corpus, given.samples, given.side)
        return
    _ours(_first(answers(1)), ["meteor"])
    print("| corpus | samples | part | pycocoevalcap CPU s | ours CPU s | ratio "
          "| pycocoevalcap Python / Java GB | ours Python / Java GB |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for corpus_name in given.corpora:
        for case in given.cases:
            theirs, ours = (
                _measure(case, corpus_name, given.samples, side, given.repeats) for side in (0, 1)
            )
            sizes = [f"{m['python_gb']:.2f} / {m['java_gb']:.2f}" for m in (theirs, ours)]
            row = [corpus_name, f"{given.samples:,}", case, f"{theirs['cpu']:.2f}"]
            row += [f"{ours['cpu']:.2f}", f"{theirs['cpu'] / ours['cpu']:.1f}×", *sizes]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
