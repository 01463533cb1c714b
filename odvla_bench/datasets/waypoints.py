"""Waypoints as text, and text as waypoints.

A codec writes a plan or a future as the answer a language model learns, and reads what a model
answers. Coordinates are metres in the LIDAR frame of the keyframe, x right and y forward, at
0.5, 1.0, … 3.0 s; a codec only sees numbers, so any frame comes back as it went in.

    text    `[(x1,y1),…]`, absolute positions, two decimals, `-0.00` as Python prints it: the
            answer of OpenDriveVLA (arXiv 2503.23463).
    delta   the same form for the displacement of each step.
    bins    one vocabulary token a coordinate, `<x_017><y_204>…`.

Decoding is strict. Around the exact form an answer may have white space, both of `<traj_start>`
and `<traj_end>`, and end-of-turn tokens, which are the tokenizer's and not the model's; anything
else is a failed parse, unless the codec has a repair policy, and then it counts as repaired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from odvla_bench.registry import Registry, suggest

FloatArray = npt.NDArray[np.float64]
ParseStatus = Literal["strict", "repaired", "failed"]

TRAJ_START = "<traj_start>"
TRAJ_END = "<traj_end>"


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one answer was read as."""

    x_m: FloatArray
    """(n,) metres right; where the parse failed, `n_steps` NaN."""
    y_m: FloatArray
    """(n,) metres forward; likewise."""
    status: ParseStatus
    reason: str
    """Empty when strict; else what was repaired, or why it failed."""


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """What N answers were read as."""

    xy_m: FloatArray
    """(N, n_steps, 2) metres; NaN where a parse failed or a variable-length answer has no step."""
    status: npt.NDArray[np.str_]
    """(N,) a `ParseStatus` each."""
    reason: tuple[str, ...]
    """N reasons, as in `Decoded`."""


class WaypointCodec(Protocol):
    """A way to write waypoints as text; `decode` undoes `encode` to the codec's resolution."""

    @property
    def name(self) -> str:
        """The name `get_codec` knows it by."""

    @property
    def n_steps(self) -> int:
        """Waypoints in a complete answer."""

    @property
    def variable_length(self) -> bool:
        """Whether an answer may have fewer waypoints than `n_steps`."""

    @property
    def repair(self) -> str:
        """The repair policy for answers that are not exact; `none` where there is no other."""

    @property
    def resolution_m(self) -> tuple[float, float]:
        """Quantisation step along x and y, metres; a decoded value is off by half of it or less."""

    def tokens(self) -> tuple[str, ...]:
        """Tokens to add to the vocabulary, not as special ones, which decoding may leave out."""

    def encode(self, x_m: npt.ArrayLike, y_m: npt.ArrayLike) -> str:
        """The text of one trajectory, without markers; (n,) metres each."""

    def decode(self, text: str) -> Decoded:
        """The trajectory of one answer; never raises, whatever a model says."""

    def encode_batch(self, xy_m: npt.ArrayLike) -> list[str]:
        """The texts of (N, n, 2) trajectories, metres."""

    def decode_batch(self, texts: Sequence[str]) -> DecodedBatch:
        """The trajectories of N answers."""


WAYPOINT_CODECS: Registry[Callable[..., WaypointCodec]] = Registry(
    "waypoint codec",
    {
        "text": "odvla_bench.datasets.waypoint_codecs:TextCodec",
        "delta": "odvla_bench.datasets.waypoint_codecs:DeltaCodec",
        "bins": "odvla_bench.datasets.waypoint_codecs:BinCodec",
    },
)


def get_codec(name: str, **options: Any) -> WaypointCodec:
    """The codec of that name.

    Args:
        name: `text`, `delta` or `bins`.
        options: fields of the codec, such as `n_steps`, `repair` or `x_range_m`.

    Raises:
        UnknownNameError: no such codec, or no such option of it.
        OdvlaError: an option's value makes no codec.
    """
    codec: Any = WAYPOINT_CODECS.get(name)
    known = [f.name for f in dataclasses.fields(codec) if f.init]
    for option in options:
        if option not in known:
            raise suggest(option, known, kind=f"option of the waypoint codec {name!r}:")
    return codec(**options)
