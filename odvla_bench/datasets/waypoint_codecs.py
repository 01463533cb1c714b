"""The waypoint codecs: `text`, `delta` and `bins`; `waypoints.py` has their contract."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from odvla_bench.datasets.released_parser import parse_released
from odvla_bench.datasets.schema import FUTURE_LENGTH
from odvla_bench.datasets.waypoints import (
    TRAJ_END,
    TRAJ_START,
    Decoded,
    DecodedBatch,
    FloatArray,
    ParseStatus,
)
from odvla_bench.errors import InputError, OdvlaError
from odvla_bench.registry import suggest

MAX_ANSWER_CHARS = 16_384
"""Longer answers fail unread; 512 new tokens, the released limit, are about 2,000 characters."""

REPAIR_POLICIES = ("none", "released")
_END_OF_TURN = ("<|im_end|>", "<|endoftext|>")
_NUMBER = r"-?(?:0|[1-9][0-9]*)\.[0-9]{2}"
_NUMBERS = re.compile(_NUMBER)

Points = Sequence[Sequence[float]]


class _Reading(NamedTuple):
    """One answer read, before it becomes arrays."""

    points: Points
    status: ParseStatus
    reason: str = ""


@dataclass(frozen=True)
class _Codec(ABC):
    """What the codecs share: checks, markers, arrays."""

    n_steps: int = FUTURE_LENGTH
    """Waypoints in a complete answer."""
    variable_length: bool = False
    """Whether 1 to `n_steps` waypoints are right too, as an agent's future may end early."""

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise OdvlaError(f"A waypoint codec needs n_steps of 1 or more; {self.n_steps} given.")

    @property
    def repair(self) -> str:
        """No repair: what is not exact fails."""
        return "none"

    @abstractmethod
    def _render(self, points: list[list[float]]) -> str:
        """The text of checked points."""

    @abstractmethod
    def _read(self, body: str) -> Points:
        """The points of an answer in the exact form; ValueError says what is not."""

    def _read_inexact(self, text: str, why: str) -> _Reading:  # noqa: ARG002
        """What a repair policy makes of an answer that is not exact; here there is none."""
        return self._failed(why)

    def tokens(self) -> tuple[str, ...]:
        """No tokens: the text is spelt with the tokenizer's own."""
        return ()

    def encode(self, x_m: npt.ArrayLike, y_m: npt.ArrayLike) -> str:
        """The text of one trajectory, without `<traj_start>` and `<traj_end>`.

        Args:
            x_m: (n,) metres; n is `n_steps`, or less where the codec has `variable_length`.
            y_m: (n,) metres.

        Raises:
            InputError: wrong length, or a value that is not finite.
        """
        x, y = np.asarray(x_m, np.float64), np.asarray(y_m, np.float64)
        if x.ndim != 1 or x.shape != y.shape:
            raise InputError(f"Waypoints need x and y of one length; got {x.shape} and {y.shape}.")
        return self.encode_batch(np.stack([x, y], -1)[None])[0]

    def encode_batch(self, xy_m: npt.ArrayLike) -> list[str]:
        """The texts of (N, n, 2) trajectories, metres.

        With `variable_length`, NaN rows at the end of a trajectory are steps that do not exist.

        Raises:
            InputError: wrong shape, or a value that is not finite; names the trajectory.
        """
        xy = np.asarray(xy_m, np.float64)
        lengths = self._lengths(xy).tolist()
        return [self._render(row[:n]) for row, n in zip(xy.tolist(), lengths, strict=True)]

    def decode(self, text: str) -> Decoded:
        """The trajectory of one answer; a failed parse is NaN in all `n_steps` steps."""
        reading = self._decode(text)
        points = np.array(reading.points, np.float64)
        return Decoded(points[:, 0], points[:, 1], reading.status, reading.reason)

    def decode_batch(self, texts: Sequence[str]) -> DecodedBatch:
        """The trajectories of N answers."""
        readings = [self._decode(text) for text in texts]
        missing = [[math.nan, math.nan]]
        rows = [[*r.points, *missing * (self.n_steps - len(r.points))] for r in readings]
        return DecodedBatch(
            np.array(rows, np.float64).reshape(len(rows), self.n_steps, 2),
            np.array([r.status for r in readings], np.str_),
            tuple(r.reason for r in readings),
        )

    def _decode(self, text: str) -> _Reading:
        if len(text) > MAX_ANSWER_CHARS:
            return self._failed(f"longer than {MAX_ANSWER_CHARS:,} characters")
        try:
            reading = _Reading(self._read(_without_frame(text)), "strict")
        except ValueError as error:
            reading = self._read_inexact(text, str(error))
        if reading.status != "failed" and not all(
            math.isfinite(v) for p in reading.points for v in p
        ):
            return self._failed("a coordinate is too large for a float")
        return reading

    def _failed(self, reason: str) -> _Reading:
        return _Reading([[math.nan, math.nan]] * self.n_steps, "failed", reason)

    def _lengths(self, xy_m: FloatArray) -> npt.NDArray[np.int64]:
        """(N,) existing steps of (N, n, 2) waypoints, checked."""
        fits = xy_m.ndim == 3 and xy_m.shape[2] == 2 and self._min_steps <= xy_m.shape[1]
        if not fits or xy_m.shape[1] > self.n_steps:
            raise InputError(
                f"Waypoints have shape {xy_m.shape}; (N, n, 2) with n of {self._steps} expected."
            )
        exists = ~np.isnan(xy_m).all(-1)
        lengths = np.asarray(exists.sum(-1), np.int64)
        leading = np.arange(xy_m.shape[1]) < lengths[:, None]
        bad = (exists != leading) | (exists & ~np.isfinite(xy_m).all(-1))
        rows = np.flatnonzero(bad.any(-1) | (lengths < self._min_steps))
        if len(rows):
            raise InputError(
                f"Trajectory {rows[0]} cannot be written: {xy_m[rows[0]].tolist()}. "
                f"Give {self._steps} finite waypoints, without gaps."
            )
        return lengths

    @property
    def _min_steps(self) -> int:
        return 1 if self.variable_length else self.n_steps

    @property
    def _steps(self) -> str:
        return f"1 to {self.n_steps}" if self.variable_length else str(self.n_steps)

    def _sequence(self, pair: str, separator: str = "") -> str:
        """The regular expression of as many pairs as are right."""
        return f"{pair}(?:{separator}{pair}){{{self._min_steps - 1},{self.n_steps - 1}}}"


class _PairCodec(_Codec):
    """`[(a,b),…]` of two-decimal numbers."""

    @property
    def resolution_m(self) -> tuple[float, float]:
        """A centimetre on both axes."""
        return 0.01, 0.01

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pairs = self._sequence(rf"\({_NUMBER},{_NUMBER}\)", separator=",")
        return re.compile(rf"\[{pairs}\]")

    def _number_pairs(self, body: str) -> list[tuple[str, str]]:
        """The numbers of an answer in the exact form, as text."""
        if not self._pattern.fullmatch(body):
            raise ValueError(f"not [(x,y),…] with {self._steps} pairs of two-decimal numbers")
        return _pairs(_NUMBERS.findall(body))


@dataclass(frozen=True)
class TextCodec(_PairCodec):
    """Absolute positions, `[(x1,y1),…,(x6,y6)]` with two decimals and no spaces."""

    name: str = field(default="text", init=False)
    repair: str = "none"
    """`none`, or `released`: what the released evaluation makes of an answer that is not exact.
    Where that aborts, and where it would score an infinite coordinate, the parse has failed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repair not in REPAIR_POLICIES:
            raise suggest(self.repair, list(REPAIR_POLICIES), kind="repair policy")
        if self.variable_length and self.repair != "none":
            raise OdvlaError(
                f"Repair policy {self.repair!r} fills an answer to {self.n_steps} steps, which "
                "contradicts variable_length; use one or the other."
            )

    def _render(self, points: list[list[float]]) -> str:
        return "[" + ",".join([f"({x:.2f},{y:.2f})" for x, y in points]) + "]"

    def _read(self, body: str) -> Points:
        return [(float(x), float(y)) for x, y in self._number_pairs(body)]

    def _read_inexact(self, text: str, why: str) -> _Reading:
        if self.repair == "none":
            return self._failed(why)
        try:
            points, repairs = parse_released(text, self.n_steps)
        except ValueError as error:
            return self._failed(str(error))
        return _Reading(points, "repaired", "; ".join(repairs))


@dataclass(frozen=True)
class DeltaCodec(_PairCodec):
    """Displacement of each step, `[(dx1,dy1),…]`; the first is from the frame's origin.

    Positions are rounded first and differenced then, in whole centimetres, so that errors do not
    add up: a decoded position is the one that the `text` codec gives.
    """

    name: str = field(default="delta", init=False)

    def _render(self, points: list[list[float]]) -> str:
        rounded = [(_centimetres(x), _centimetres(y)) for x, y in points]
        steps = zip([(0, 0), *rounded], rounded, strict=False)
        return "[" + ",".join([f"({_cm(x - u)},{_cm(y - v)})" for (u, v), (x, y) in steps]) + "]"

    def _read(self, body: str) -> Points:
        x = y = 0
        points = []
        for dx, dy in self._number_pairs(body):
            x, y = x + int(dx.replace(".", "")), y + int(dy.replace(".", ""))
            points.append((_metres(x), _metres(y)))
        return points


@dataclass(frozen=True)
class BinCodec(_Codec):
    """Absolute positions as one token a coordinate, `<x_017><y_204>…`.

    Each axis is cut into uniform bins; a token stands for its bin's centre. A value outside the
    range is written as the nearest bin: `clipped` tells which ones, for a builder to count. The
    default range is ours: it holds a plan of 3 s at 23 m/s.
    """

    name: str = field(default="bins", init=False)
    x_range_m: tuple[float, float] = (-30.0, 30.0)
    y_range_m: tuple[float, float] = (-10.0, 70.0)
    x_bins: int = 600
    y_bins: int = 800

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, low, high, count in self._axes:
            if not (math.isfinite(high - low) and low < high and count >= 1):
                raise OdvlaError(
                    f"Bins of the {axis} axis need low < high and a count of 1 or more; "
                    f"{axis}_range_m is ({low}, {high}) and {axis}_bins is {count}."
                )

    @property
    def resolution_m(self) -> tuple[float, float]:
        """Width of a bin along x and y, metres."""
        x, y = ((high - low) / count for _, low, high, count in self._axes)
        return x, y

    def tokens(self) -> tuple[str, ...]:
        """All x tokens, then all y tokens, in the order of the axis."""
        return tuple(_token(axis, i, n) for axis, _, _, n in self._axes for i in range(n))

    def clipped(self, xy_m: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """(..., 2) coordinates, metres → (..., 2) whether `encode` moves them into the range."""
        xy = np.asarray(xy_m, np.float64)
        low, high = np.array([self.x_range_m, self.y_range_m]).T
        return (xy < low) | (xy > high)

    @property
    def _axes(self) -> tuple[tuple[str, float, float, int], ...]:
        return ("x", *self.x_range_m, self.x_bins), ("y", *self.y_range_m, self.y_bins)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pair = "".join(f"<{axis}_[0-9]{{{_width(n)}}}>" for axis, _, _, n in self._axes)
        return re.compile(self._sequence(pair))

    def _render(self, points: list[list[float]]) -> str:
        x_axis, y_axis = self._axes
        return "".join([_bin_token(x, *x_axis) + _bin_token(y, *y_axis) for x, y in points])

    def _read(self, body: str) -> Points:
        if not self._pattern.fullmatch(body):
            raise ValueError(f"not {self._steps} pairs of an x and a y token")
        indices = _pairs([int(digits) for digits in re.findall(r"[0-9]+", body)])
        if any(i >= self.x_bins or j >= self.y_bins for i, j in indices):
            raise ValueError("a token that is not in the vocabulary")
        (dx, dy), x_low, y_low = self.resolution_m, self.x_range_m[0], self.y_range_m[0]
        return [(x_low + (i + 0.5) * dx, y_low + (j + 0.5) * dy) for i, j in indices]


def _without_frame(text: str) -> str:
    """An answer without white space around it, end-of-turn tokens and the pair of markers."""
    body = text.strip()
    while body.endswith(_END_OF_TURN):
        body = body[: body.rindex("<|")].rstrip()
    if body.startswith(TRAJ_START) and body.endswith(TRAJ_END):
        return body[len(TRAJ_START) : -len(TRAJ_END)]
    return body


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _centimetres(value_m: float) -> int:
    """Whole centimetres, of any size and rounded as the `text` codec rounds."""
    return int(f"{value_m:.2f}".replace(".", ""))


def _cm(centimetres: int) -> str:
    """Whole centimetres as metres with two decimals."""
    whole, rest = divmod(abs(centimetres), 100)
    return f"{'-' if centimetres < 0 else ''}{whole}.{rest:02d}"


def _metres(centimetres: int) -> float:
    try:
        return centimetres / 100
    except OverflowError:
        return math.inf


def _width(count: int) -> int:
    return len(str(count - 1))


def _token(axis: str, index: int, count: int) -> str:
    return f"<{axis}_{index:0{_width(count)}d}>"


def _bin_token(value: float, axis: str, low: float, high: float, count: int) -> str:
    inside = min(max(value, low), high)
    return _token(axis, min(int((inside - low) / (high - low) * count), count - 1), count)
