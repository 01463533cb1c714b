"""Where the visual tokens of a keyframe come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from odvla_bench.baselines.opendrivevla.configuration import MAP, OBJECT, SCENE, TRACK

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """What perception tells the language model of one keyframe."""

    scene: FloatArray
    """(90, 256) six cameras of 3 x 5 cells."""
    agents: FloatArray
    """(Na, 256)"""
    map: FloatArray
    """(Nm, 256)"""
    instance_id: npt.NDArray[np.int64]
    """(Na,) the build's number of each agent's track; -1 where it is not known."""

    def counts(self) -> dict[str, int]:
        """Placeholder → tokens that it stands for."""
        return {
            SCENE: len(self.scene),
            TRACK: len(self.agents),
            MAP: len(self.map),
            OBJECT: 1,
        }

    def agent_row(self, instance_id: int) -> int:
        """The row of an agent; -1 where the keyframe has no token for it."""
        rows = np.flatnonzero(self.instance_id == instance_id) if instance_id >= 0 else []
        return int(rows[0]) if len(rows) else -1


class TokenSource(Protocol):
    """Visual tokens by keyframe: a feature store, or tokens made from annotations."""

    @property
    def fingerprint(self) -> str:
        """Digest of what the tokens are made from and how."""

    def __getitem__(self, sample_token: str) -> VisualTokens:
        """The tokens of a keyframe.

        Raises:
            InputError: there are none; names the keyframe.
        """
