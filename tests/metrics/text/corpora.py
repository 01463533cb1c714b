"""Random corpora with the traits that scorers stumble over, and the reference scorers' answers."""

from __future__ import annotations

import random
from typing import Any

from odvla_bench.metrics.text.corpus import read_samples
from odvla_bench.metrics.text.tokenizer import tokenize

_TEXT = (
    "the a car cars truck is are turning turns left right No. no. etc. U.S. a.m. fig. it's don't "
    "cannot 12.5m/s 30 km/h [1.2, -3.4] (red) <b> é café naïve 中文 ½ £5 “quoted” driving drive "
    "vehicle automobile quickly fast rapidly pedestrian person walking walks street road 1 7 p."
)
WORDS = _TEXT.split()
ANSWERS = ("yes", "no", "0", "3", "car", "traffic cone", "not standing", "No.", "")


def caption(rng: random.Random, longest: int = 14) -> str:
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(longest)))
    return text + rng.choice(["", ".", " ", "!"])


def corpus(seed: int, size: int, most_references: int = 3) -> tuple[list[str], list[list[str]]]:
    rng = random.Random(seed)
    predictions: list[str] = []
    references: list[list[str]] = []
    for _ in range(size):
        if rng.random() < 0.3:
            predictions.append(rng.choice(ANSWERS))
            references.append([rng.choice(ANSWERS)])
            continue
        group = [caption(rng) for _ in range(rng.randint(1, most_references))]
        words = group[0].split()
        rng.shuffle(words)
        predictions.append(rng.choice([caption(rng), group[-1], " ".join(words)]))
        references.append(group)
    return predictions, references


def our_tokens(
    predictions: list[str], references: list[list[str]], tokenizer: str
) -> tuple[list[str], list[list[str]]]:
    samples = tokenize(read_samples(predictions, references), tokenizer)
    rest = iter(samples.reference.tolist())
    groups = [[samples.texts[next(rest)] for _ in group] for group in references]
    return [samples.texts[i] for i in samples.prediction.tolist()], groups


def pycocoevalcap_tokens(
    predictions: list[str], references: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    tokens = [
        tokenizer.tokenize(
            {i: [{"caption": text} for text in group] for i, group in enumerate(side)}
        )
        for side in ([[text] for text in predictions], references)
    ]
    return [group[0] for group in tokens[0].values()], list(tokens[1].values())


def pycocoevalcap_scores(
    predictions: list[str], references: list[list[str]], *, meteor: bool
) -> tuple[dict[str, float], dict[str, list[float]]]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts = dict(enumerate(references))
    res = {i: [text] for i, text in enumerate(predictions)}
    corpus_scores: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    pooled, each = Bleu(4).compute_score(gts, res, verbose=0)
    for n in range(4):
        corpus_scores[f"Bleu_{n + 1}"], samples[f"Bleu_{n + 1}"] = pooled[n], each[n]
    corpus_scores["ROUGE_L"], samples["ROUGE_L"] = Rouge().compute_score(gts, res)
    corpus_scores["CIDEr"], samples["CIDEr"] = Cider().compute_score(gts, res)
    if meteor:
        from pycocoevalcap.meteor.meteor import Meteor

        corpus_scores["METEOR"], samples["METEOR"] = Meteor().compute_score(gts, res)
    return corpus_scores, samples
