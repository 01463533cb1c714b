"""A reader for pickles from strangers: numpy arrays and plain containers, and nothing else.

A pickle is a program. This reader runs it with a vocabulary of its own: each global name that a
legitimate file needs stands for a small function here, which checks its arguments and builds the
value without numpy's unpickling hooks; every other name is refused. Afterwards the result is
walked, and anything but plain data in it is refused too. `pickle_opcodes.py` looks at the program
before it runs.

Memory stays below five times the file's size plus 700 bytes for each opcode, for a value that the
file names over and over is charged to a budget. Time is not bounded as well: a hostile file of the
allowed size can cost minutes.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from odvla_bench.datasets.pickle_opcodes import (
    MAX_DEPTH,
    PLAIN_ADVICE,
    TORCH_ADVICE,
    RefusedError,
    check_opcodes,
)
from odvla_bench.errors import InputError

MAX_BYTES = 1 << 28
MAX_OPCODES = 5_000_000

_DTYPE = re.compile(r"[<>|=]?(?:[biufc](?:1|2|4|8|16)|[SU][1-9][0-9]{0,8})")
_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, np.generic, np.ndarray)


def load_plain_pickle(
    path: str | Path, *, max_bytes: int = MAX_BYTES, max_opcodes: int = MAX_OPCODES
) -> Any:
    """The plain data of a pickle file, read without running anything that the file brings.

    Args:
        path: a pickle of any protocol, written by Python 2 or 3 and numpy 1 or 2.
        max_bytes: largest file to read.
        max_opcodes: longest program to run; an array takes about 25 opcodes, a number one.

    Returns:
        dict, list, tuple, set, frozenset, str, bytes, numbers, None and numpy arrays, scalars and
        dtypes of numbers or strings, nested up to 64 deep and holding no container inside itself.
        An OrderedDict comes back as a dict, which keeps its order.

    Raises:
        InputError: no such file, too large, truncated or damaged, or it needs something else than
            plain data; the message names the file, what was refused, and what to do.
    """
    path = Path(path)
    data = _read_bytes(path, max_bytes)
    try:
        check_opcodes(data, max_opcodes=max_opcodes)
        return _plain(_PlainUnpickler(data).load(), {}, depth=0)
    except RefusedError as error:
        raise InputError(f"{path}: refused {error}") from None
    except Exception as error:
        raise InputError(
            f"{path}: not a readable pickle ({type(error).__name__}: {error}). "
            "The file is truncated, damaged or of another format; fetch it again."
        ) from error


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    with path.open("rb") as f:
        data = f.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(
            f"{path}: larger than {max_bytes:,} bytes; raise max_bytes if it should be."
        )
    if data.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: a zip archive, as torch.save writes. {TORCH_ADVICE}")
    return data


class _PlainUnpickler(pickle.Unpickler):
    """Python's unpickler with a vocabulary of checked stand-ins."""

    def __init__(self, data: bytes) -> None:
        """Read `data`; text of Python 2 is taken byte for byte."""
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._globals = _Vocabulary(budget=4 * len(data)).globals()

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for the global of exactly that name."""
        if (module, name) in self._globals:
            return self._globals[module, name]
        advice = TORCH_ADVICE if module.partition(".")[0] == "torch" else PLAIN_ADVICE
        raise RefusedError(f"the global {module}.{name}. {advice}")


class _Global:
    """A stand-in for a global: it can be called, and a pickle cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError(f"a change to a global. {PLAIN_ADVICE}")


class _Dtype:
    """A dtype in the making: numbers and strings only."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, spec: Any) -> None:
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            raise RefusedError(f"the array type {spec!r}. {PLAIN_ADVICE}")
        self.value: np.dtype[Any] = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        _, order, subdtype, names, fields, *_ = state
        if (subdtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise RefusedError(f"a structured array type. {PLAIN_ADVICE}")
        if order in "<>":
            self.value = self.value.newbyteorder(order)


class _Array:
    """An array in the making: the pickle gives its data after it."""

    __slots__ = ("_charge", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, charge: Callable[[int], None]) -> None:
        self._charge = charge
        self.value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _array(raw, dtype, shape, "F" if fortran else "C")
        self._charge(self.value.nbytes)


class _Vocabulary:
    """The globals of plain data, and one file's budget for what they copy."""

    def __init__(self, budget: int) -> None:
        self._left = budget

    def globals(self) -> dict[tuple[str, str], _Global]:
        """Each allowed (module, name), in the spellings of Python 2 and 3 and numpy 1 and 2."""
        names: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): _uncallable,
            ("numpy", "dtype"): lambda spec, *_flags: _Dtype(spec),
            ("collections", "OrderedDict"): self._dict,
            ("_codecs", "encode"): self._encode,
        }
        for package in ("numpy.core", "numpy._core"):
            names[f"{package}.multiarray", "_reconstruct"] = lambda *_: _Array(self._charge)
            names[f"{package}.multiarray", "scalar"] = self._scalar
            names[f"{package}.numeric", "_frombuffer"] = self._frombuffer
        for module in ("builtins", "__builtin__"):
            names[module, "set"] = self._set
            names[module, "frozenset"] = lambda items=(): frozenset(self._set(items))
            names[module, "complex"] = complex
            names[module, "bytes"] = lambda: b""
        return {name: _Global(call) for name, call in names.items()}

    def _charge(self, amount: int) -> None:
        """Count a copy of something, which the file can ask for many times over."""
        self._left -= amount
        if self._left < 0:
            raise RefusedError("a program that makes more data than the file holds.")

    def _dict(self, items: Any = ()) -> dict[Any, Any]:
        self._charge(len(items))
        return dict(items)

    def _set(self, items: Any = ()) -> set[Any]:
        self._charge(len(items))
        return set(items)

    def _encode(self, text: str, codec: str) -> bytes:
        if not isinstance(text, str) or codec != "latin1":
            raise RefusedError(f"_codecs.encode with {codec!r}. {PLAIN_ADVICE}")
        self._charge(len(text))
        return text.encode("latin1")

    def _scalar(self, dtype: Any, raw: Any) -> Any:
        scalar = _array(raw, dtype, (), "C")
        self._charge(scalar.nbytes)
        return scalar[()]

    def _frombuffer(self, raw: Any, dtype: Any, shape: Any, order: str) -> _Array:
        array = _Array(self._charge)
        array.__setstate__((1, shape, dtype, order == "F", raw))
        return array


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """A writable array of its own, from parts of a pickle, which are checked here."""
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray):
        raise RefusedError(f"an array that is not made of a type and bytes. {PLAIN_ADVICE}")
    if min(shape, default=0) < 0 or len(raw) != math.prod(shape) * dtype.value.itemsize:
        raise ValueError(f"{len(raw)} bytes do not fill an array of shape {shape}")
    return np.frombuffer(raw, dtype.value).reshape(shape, order=order).copy(order="K")


def _uncallable(*_args: Any) -> Any:
    raise RefusedError(f"a call of numpy.ndarray. {PLAIN_ADVICE}")


def _plain(value: Any, done: dict[int, tuple[Any, Any]], *, depth: int) -> Any:
    """`value` with its stand-ins replaced by what they made, checked all through.

    `done` has each container seen, by id, and what it became: a file that names one container many
    times costs no more than its size. A container that has become nothing yet is being walked.
    """
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, _Array | _Dtype):
        if value.value is None:
            raise RefusedError("an array without its data.")
        return value.value
    if id(value) not in done:
        if depth >= MAX_DEPTH:
            raise RefusedError(f"containers nested more than {MAX_DEPTH} deep.")
        done[id(value)] = (value, None)
        done[id(value)] = (value, _plain_container(value, done, depth + 1))
    plain = done[id(value)][1]
    if plain is None:
        raise RefusedError("a container that holds itself.")
    return plain


def _plain_container(value: Any, done: dict[int, tuple[Any, Any]], depth: int) -> Any:
    """A container of plain values; what is hashed holds no stand-in, which are not hashable."""
    if isinstance(value, dict):
        return {
            _plain(k, done, depth=depth): _plain(v, done, depth=depth) for k, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([_plain(item, done, depth=depth) for item in value])
    raise RefusedError(f"a result that is no data: {type(value).__name__.lstrip('_')}.")
