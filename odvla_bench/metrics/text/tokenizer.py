"""Tokenizers: the Penn Treebank tokenizer of pycocoevalcap, and plain ones.

All give strings whose tokens are separated by single spaces, except `"none"` and `"lower"`, which
leave white space as it is (BLEU and CIDEr split on any, ROUGE-L on each single space).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from odvla_bench.metrics.text.corpus import Samples, number_distinct
from odvla_bench.metrics.text.java import pycocoevalcap_file, run_lines
from odvla_bench.registry import suggest

# As pycocoevalcap 1.2 lists them. The bracket names are upper case and the tokens lower case by
# then, so that brackets stay: its numbers depend on it.
PUNCTUATION = frozenset(
    ["", "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-"]
    + [".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# What CoreNLP takes for the end of a line; pycocoevalcap replaces only "\n".
_LINE_ENDS = str.maketrans(dict.fromkeys("\n\r\x0b\x0c\u2028\u2029", " "))


def tokenize(samples: Samples, tokenizer: str, *, timeout_s: float | None = None) -> Samples:
    r"""The samples with their texts tokenized.

    Args:
        samples: texts as they are.
        tokenizer: `"ptb"` as pycocoevalcap, with line separators inside a text taken as spaces;
            `"ptb-compat"` with its defect, by which `\r`, `\x0b`, `\x0c`, U+2028 and U+2029 split
            a text and shift all later ones; `"none"`; `"lower"`; `"word-lower"`, the `\w+` runs of
            the lower-cased text.
        timeout_s: limit for the PTB tokenizer; by default 60 s and 1 s for each 100,000 characters.

    Raises:
        UnknownNameError: no such tokenizer.
        JavaError: PTB tokenization failed, took too long, or found no Java runtime.
    """
    if tokenizer not in TOKENIZERS:
        raise suggest(tokenizer, list(TOKENIZERS), kind="tokenizer")
    if tokenizer == "ptb":
        return _ptb_in_order(samples, timeout_s)
    if tokenizer == "ptb-compat":
        return _ptb_misaligned(samples, timeout_s)
    plain = _PLAIN[tokenizer]
    return samples if plain is None else samples.mapped(list(map(plain, samples.texts)))


_PLAIN: dict[str, Callable[[str], str] | None] = {
    "none": None,
    "lower": str.lower,
    "word-lower": lambda text: " ".join(re.findall(r"\w+", text.lower())),
}
TOKENIZERS = ("ptb", "ptb-compat", *_PLAIN)


def _ptb_in_order(samples: Samples, timeout_s: float | None) -> Samples:
    """PTB tokens of predictions and of references, each distinct text tokenized once, by one JVM.

    CoreNLP's lexer looks past the end of a line in two rules: "No." keeps its period when the
    next line starts with a digit, and "p." loses it before a line that starts with a tag. A text
    is therefore told apart by what follows it, and that is put on a line of its own behind it.
    """
    texts = [text.translate(_LINE_ENDS) for text in samples.texts]
    views, view = number_distinct([*map(_lookahead, texts), _lookahead(""), ""])
    looks = np.array([text.endswith(".") for text in texts])
    sides = []
    for ids in (samples.prediction, samples.reference):
        following = view[np.append(ids[1:], len(texts))]
        sides.append(ids.astype(np.int64) * len(views) + np.where(looks[ids], following, view[-1]))
    code, at = np.unique(np.concatenate(sides), return_inverse=True)
    text_of, view_of = np.divmod(code, len(views))
    lines: list[str] = []
    place = []
    for text, following in zip(text_of.tolist(), view_of.tolist(), strict=True):
        place.append(len(lines))
        lines += [texts[text], views[following]] if views[following] else [texts[text]]
    return samples.mapped(_ptb(lines, timeout_s), np.array(place)[at])


def _lookahead(text: str) -> str:
    """What the lexer can see of a following line: a digit, a tag, or nothing that matters."""
    if text[:1].isdecimal():
        return "1"
    return text if text.startswith("<") else "x"


def _ptb_misaligned(samples: Samples, timeout_s: float | None) -> Samples:
    """PTB tokens by position in the output, whatever line each came from."""
    tokens: list[str] = []
    for ids in (samples.prediction, samples.reference):
        lines = [samples.texts[i].replace("\n", " ") for i in ids.tolist()]
        tokens += _ptb(lines, timeout_s)[: len(lines)]
    return samples.mapped(tokens, np.arange(len(tokens)))


def _ptb(lines: list[str], timeout_s: float | None) -> list[str]:
    """The tokens of each output line of CoreNLP 3.4.1's PTBTokenizer, punctuation dropped."""
    if timeout_s is None:
        timeout_s = 60 + 1e-5 * sum(map(len, lines))
    arguments = [
        # A run of a few seconds gains nothing from the optimising compiler, and pays for it.
        "-XX:TieredStopAtLevel=1",
        "-cp",
        str(pycocoevalcap_file("tokenizer", "stanford-corenlp-3.4.1.jar")),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    answers = run_lines(arguments, lines, purpose="PTB tokenization", timeout_s=timeout_s)
    return [
        " ".join([token for token in line.rstrip().split(" ") if token not in PUNCTUATION])
        for line in answers
    ]
