"""Decoding that can only answer a plan: at each step, ids that leave the answer parsable.

A finite automaton reads the answer's characters, and each added token as one symbol. For every
state the ids that it accepts are worked out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from odvla_bench.baselines.opendrivevla.processing import IM_END
from odvla_bench.datasets.waypoints import TRAJ_END, TRAJ_START, WaypointCodec

_DIGITS = "0123456789"
_CHARACTERS = frozenset(_DIGITS + "-.,()[]")
_WHOLE_DIGITS = 3
"""Digits before the point: plans stay within a kilometre, and every answer ends."""


class State(NamedTuple):
    """Where an answer stands."""

    phase: str
    number: int = 0
    """Coordinates that are complete."""
    digits: int = 0
    """Digits before the point of the present one."""


_START = State("start")
_DONE = State("done")


class WaypointGrammar:
    """The automaton of a codec's answers between the trajectory markers, then the turn's end."""

    def __init__(self, codec: WaypointCodec, tokenizer: Any) -> None:
        """Collect the ids that can stand in an answer.

        Args:
            codec: how waypoints are written.
            tokenizer: whose ids.
        """
        self._numbers = 2 * codec.n_steps
        self._least = 2 if codec.variable_length else self._numbers
        own = codec.tokens()
        self._axis_of = {token: token[1] for token in own}
        symbols = [TRAJ_START, TRAJ_END, IM_END, *own]
        ids = tokenizer.convert_tokens_to_ids(symbols)
        self._symbols: dict[int, tuple[str, ...]] = {
            i: (symbol,) for i, symbol in zip(ids, symbols, strict=True)
        }
        if not own:
            texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
            self._symbols |= {
                i: tuple(text) for i, text in enumerate(texts) if text and set(text) <= _CHARACTERS
            }
        self.following = cache(self._following)

    def state_after(self, ids: Sequence[int]) -> State:
        """The state that an answer's ids lead to."""
        state = _START
        for i in ids:
            state = self.following(state).get(i, _DONE)
        return state

    def _following(self, state: State) -> dict[int, State]:
        """Id → state after it, for all ids that can follow."""
        reached = {i: self._walk(state, symbols) for i, symbols in self._symbols.items()}
        return {i: after for i, after in reached.items() if after is not None}

    def _walk(self, state: State | None, symbols: Sequence[str]) -> State | None:
        for symbol in symbols:
            if state is None:
                return None
            state = self._step(state, symbol)
        return state

    def _step(self, state: State, symbol: str) -> State | None:
        """The state after one symbol; None where it cannot follow."""
        phase, number, digits = state
        if symbol in self._axis_of:
            return self._token_step(state, self._axis_of[symbol])
        if symbol in _DIGITS:
            return _digit_step(state, symbol)
        if symbol == "-":
            return State("whole", number) if phase == "sign" else None
        complete = number >= self._least and number % 2 == 0
        structural = {
            ("start", TRAJ_START): State("open"),
            ("open", "["): State("pair"),
            ("pair", "("): State("sign", number),
            ("after", ","): State("pair", number) if number < self._numbers else None,
            ("after", "]"): State("close", number) if complete else None,
            ("open", TRAJ_END): State("end") if complete else None,
            ("close", TRAJ_END): State("end"),
            ("end", IM_END): _DONE,
            ("whole", "."): State("tenths", number) if digits else None,
            ("zero", "."): State("tenths", number),
            ("separator", ","): State("sign", number) if number % 2 else None,
            ("separator", ")"): State("after", number) if number % 2 == 0 else None,
        }
        return structural.get((phase, symbol))

    def _token_step(self, state: State, axis: str) -> State | None:
        """One coordinate as a token of its own, x before y."""
        if state.phase != "open" or axis != "xy"[state.number % 2]:
            return None
        number = state.number + 1
        return State("close" if number == self._numbers else "open", number)


class ConstrainedWaypoints(LogitsProcessor):  # type: ignore[misc]
    """Leaves only ids that a grammar accepts; for `generate` on embeddings, without beams."""

    def __init__(self, grammar: WaypointGrammar) -> None:
        """Take the grammar."""
        self._grammar = grammar

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, n) new ids and (B, V) scores → scores with everything else at minus infinity."""
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        for row, ids in enumerate(input_ids.tolist()):
            following = list(self._grammar.following(self._grammar.state_after(ids)))
            allowed[row, following if following else slice(None)] = True
        return scores.masked_fill(~allowed, -torch.inf)


def _digit_step(state: State, digit: str) -> State | None:
    phase, number, digits = state
    if phase in ("sign", "whole") and not digits:
        return State("zero", number) if digit == "0" else State("whole", number, 1)
    if phase == "whole":
        return State("whole", number, digits + 1) if digits < _WHOLE_DIGITS else None
    if phase == "tenths":
        return State("hundredths", number)
    return State("separator", number + 1) if phase == "hundredths" else None
