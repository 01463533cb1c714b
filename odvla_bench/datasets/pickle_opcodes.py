"""What a pickle of plain data may consist of, checked opcode by opcode before it is run."""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

MAX_DEPTH = 64

PLAIN_ADVICE = (
    "Only numpy arrays of numbers or strings, dict, list, tuple, set, str, bytes, numbers and None "
    "are read. If you trust the file, load it in its own environment and save the arrays as "
    "Parquet, JSON or such a plain pickle."
)
TORCH_ADVICE = (
    "Tensors are not read. Where the file was made, turn each into an array with "
    "`tensor.cpu().numpy()` and save it again with `pickle.dump`."
)

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_TUPLES = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE")
_REFUSED = {
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), f"an extension code. {PLAIN_ADVICE}"),
    **dict.fromkeys(("PERSID", "BINPERSID"), f"a reference to a tensor's storage. {TORCH_ADVICE}"),
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"), f"a class instance. {PLAIN_ADVICE}"),
    **dict.fromkeys(
        ("NEXT_BUFFER", "READONLY_BUFFER"), f"a buffer outside the file. {PLAIN_ADVICE}"
    ),
}


class RefusedError(Exception):
    """What a pickle asked for and does not get, and what to do."""


class _Effect(NamedTuple):
    """What an opcode does to the unpickler's stack."""

    pops: int
    """Values taken; below the mark if it also takes all down to the mark."""
    to_mark: bool
    pushes: int


def _effect(opcode: pickletools.OpcodeInfo) -> _Effect:
    to_mark = pickletools.markobject in opcode.stack_before
    pops = len(opcode.stack_before) - (2 if to_mark else 0)
    return _Effect(pops, to_mark, len(opcode.stack_after))


_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}


def check_opcodes(data: bytes, *, max_opcodes: int) -> None:
    """Refuse a pickle that plain data has no use for, or that could bring the process down.

    Refused are references to things outside the file, instances of classes, too many opcodes, memo
    indices that jump (the unpickler allocates memory up to the index; a pickler counts up), and
    deeply nested tuples (hashing one recurses without a check, down to a segmentation fault).

    Raises:
        RefusedError: something is refused.
        Exception: of some kind, where `data` is no complete pickle.
    """
    tuples = _TupleDepth()
    puts = 0
    argument: Any
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if opcode.name in _REFUSED:
            raise RefusedError(_REFUSED[opcode.name])
        if count >= max_opcodes:
            raise RefusedError(f"a program of more than {max_opcodes:,} opcodes.")
        if opcode.name in _PUTS:
            puts += 1
            if not 0 <= argument <= puts:
                raise RefusedError(f"a memo index that jumps, at byte {position}.")
        if tuples.after(opcode.name, argument) > MAX_DEPTH:
            raise RefusedError(f"tuples nested more than {MAX_DEPTH} deep, at byte {position}.")


class _TupleDepth:
    """The unpickler's stack and memo, with each value's depth of nested tuples in its place."""

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}

    def after(self, name: str, argument: int) -> int:
        """Depth of the topmost value after one more opcode; 0 where there is none."""
        stack, marks, memo = self._stack, self._marks, self._memo
        if name in _PUTS:
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        else:
            self._apply(_EFFECTS[name], is_tuple=name in _TUPLES)
        return stack[-1] if stack else 0

    def _apply(self, effect: _Effect, *, is_tuple: bool) -> None:
        start = (self._marks.pop() if effect.to_mark else len(self._stack)) - effect.pops
        if start < 0:
            raise IndexError("an opcode takes more than there is")
        depth = 1 + max(self._stack[start:], default=0) if is_tuple else 0
        self._stack[start:] = [depth] * effect.pushes
