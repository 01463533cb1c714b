"""Tokenizers: the Penn Treebank tokenizer of pycocoevalcap, and plain ones.

All give strings whose tokens are separated by single spaces, except `"none"` and `"lower"`, which
leave white space as it is (BLEU and CIDEr split on any, ROUGE-L on each single space).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

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

TextLists = tuple[list[str], list[list[str]]]


def tokenize(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: str,
    *,
    timeout_s: float | None = None,
) -> TextLists:
    r"""Tokenized predictions and references, aligned with the input.

    Args:
        predictions: N strings.
        references: N sequences of strings.
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
    flat = [text for group in references for text in group]
    if tokenizer == "ptb":
        tokens = _ptb_in_order([list(predictions), flat], timeout_s)
    elif tokenizer == "ptb-compat":
        tokens = [_ptb_misaligned(texts, timeout_s) for texts in (list(predictions), flat)]
    else:
        plain = _PLAIN[tokenizer]
        tokens = [[plain(text) for text in texts] for texts in (predictions, flat)]
    rest = iter(tokens[1])
    return tokens[0], [[next(rest) for _ in group] for group in references]


_PLAIN: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "lower": str.lower,
    "word-lower": lambda text: " ".join(re.findall(r"\w+", text.lower())),
}
TOKENIZERS = ("ptb", "ptb-compat", *_PLAIN)


def _ptb_in_order(sequences: list[list[str]], timeout_s: float | None) -> list[list[str]]:
    """PTB tokens of several sequences of texts, each distinct text tokenized once, by one JVM.

    CoreNLP's lexer looks past the end of a line in two rules: "No." keeps its period when the
    next line starts with a digit, and "p." loses it before a line that starts with a tag. A text
    is therefore told apart by what follows it, and that is put on a line of its own behind it.
    """
    keyed = [_with_what_follows(texts) for texts in sequences]
    distinct = list(dict.fromkeys(key for keys in keyed for key in keys))
    lines: list[str] = []
    at: dict[tuple[str, str], int] = {}
    for text, following in distinct:
        at[text, following] = len(lines)
        lines += [text, following] if following else [text]
    tokens = _ptb(lines, timeout_s)
    return [[tokens[at[key]] for key in keys] for keys in keyed]


def _with_what_follows(texts: list[str]) -> list[tuple[str, str]]:
    clean = [text.translate(_LINE_ENDS) for text in texts]
    return [
        (text, _lookahead(after) if text.endswith(".") else "")
        for text, after in zip(clean, [*clean[1:], ""], strict=True)
    ]


def _lookahead(text: str) -> str:
    """What the lexer can see of a following line: a digit, a tag, or nothing that matters."""
    if text[:1].isdecimal():
        return "1"
    return text if text.startswith("<") else "x"


def _ptb_misaligned(texts: list[str], timeout_s: float | None) -> list[str]:
    """PTB tokens by position in the output, whatever line each came from."""
    return _ptb([text.replace("\n", " ") for text in texts], timeout_s)[: len(texts)]


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
