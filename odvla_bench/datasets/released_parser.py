"""The lenient trajectory parser of the released OpenDriveVLA evaluation, as rules in order.

The released code edits an answer with ten regular-expression rules, collects every `(x,y)` or
`[x,y]` and fits the list to six points. What it makes of an answer is kept, quirks included;
the expressions are written anew so that each one takes time linear in the text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Point = tuple[float, float]


class Rule(NamedTuple):
    """One edit: what it mends, the pattern, what takes its place."""

    name: str
    pattern: re.Pattern[str]
    replacement: str


def _rule(name: str, pattern: str, replacement: str = "") -> Rule:
    return Rule(name, re.compile(pattern), replacement)


_DECIMAL = r"\d+\.\d+"

RULES = (
    _rule("letters removed", r"[A-Za-z]+"),
    _rule("Chinese characters removed", r"[\u4e00-\u9fff]+"),
    _rule("repeated points after a number joined", r"(?<=\d)\.{2,}", "."),
    _rule("angle brackets removed", r"[<>]+"),
    _rule(
        "comma put between two numbers",
        rf"(?<!\d)({_DECIMAL})\s+({_DECIMAL})(?=\s*[,)])",
        r"\1, \2",
    ),
    _rule(
        "minus between two numbers read as comma", rf"(?<!\d)({_DECIMAL})-({_DECIMAL})", r"\1, \2"
    ),
    _rule(
        "third coordinate dropped",
        rf"(\(\s*-?{_DECIMAL},\s*-?{_DECIMAL}),\s*-?{_DECIMAL}(?=\s*\))",
        r"\1",
    ),
    _rule("white space removed", r"\s+"),
    _rule("second decimal point removed", rf"(?<!\d)({_DECIMAL})\.(\d+)", r"\1\2"),
    _rule("double decimal point joined", r"(?<!\d)(\d+)\.\.(\d+)", r"\1.\2"),
    _rule("minus after a decimal point removed", r"(?<!\d)(\d+)\.-(\d+)", r"\1.\2"),
)
"""The edits in the order of the released code; the names tell a reader what was repaired."""

_PAIR = re.compile(r"[\[(]([-+.\d]+),([-+.\d]+)[\])]")


def parse_released(text: str, n_steps: int) -> tuple[list[Point], tuple[str, ...]]:
    """The points that the released parser finds, and the names of the repairs that it took.

    Args:
        text: a model's answer.
        n_steps: points wanted; the released code wants six. A shorter answer is filled with its
            last point, a longer one is cut, but every pair must read as numbers.

    Returns:
        `n_steps` points (x, y), metres, and the repairs in the order they were made.

    Raises:
        ValueError: no pair was found, or one does not read as numbers. The released evaluation
            aborts there.
    """
    repairs = []
    for rule in RULES:
        edited = rule.pattern.sub(rule.replacement, text)
        if edited != text:
            repairs.append(rule.name)
        text = edited
    points = [(float(x), float(y)) for x, y in _PAIR.findall(text)]
    if not points:
        raise ValueError("no coordinate pair found")
    if len(points) < n_steps:
        repairs.append(f"last of {len(points)} points repeated")
    elif len(points) > n_steps:
        repairs.append(f"first {n_steps} of {len(points)} points kept")
    points += [points[-1]] * (n_steps - len(points))
    return points[:n_steps], tuple(repairs)
