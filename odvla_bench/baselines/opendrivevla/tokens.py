"""What the language model needs of a keyframe's visual tokens, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from odvla_bench.baselines.opendrivevla.configuration import MAP, OBJECT, SCENE, TRACK
from odvla_bench.baselines.opendrivevla.features import FeatureStore
from odvla_bench.datasets.reader import Build
from odvla_bench.errors import InputError


class VisualTokens(Protocol):
    """What perception tells of one keyframe."""

    @property
    def scene(self) -> npt.NDArray[np.float32]:
        """(90, 256) six cameras of 3 x 5 cells."""

    @property
    def agents(self) -> npt.NDArray[np.float32]:
        """(Na, 256) tokens of the agents."""

    @property
    def map(self) -> npt.NDArray[np.float32]:
        """(Nm, 256) tokens of the map elements."""

    @property
    def instance_id(self) -> npt.NDArray[np.int64]:
        """(Na,) the build's number of each agent's track; -1 where it is not known."""


class TokenSource(Protocol):
    """Visual tokens by keyframe: a feature store, or tokens made from annotations."""

    @property
    def signature(self) -> str:
        """What the tokens are made from and how; says `privileged` where it is annotations."""

    @property
    def fingerprint(self) -> str:
        """Digest of the tokens."""

    def __getitem__(self, sample_token: str) -> VisualTokens:
        """The tokens of a keyframe.

        Raises:
            InputError: there are none; names the keyframe.
        """


ANNOTATIONS = "annotations"
"""In place of a folder: tokens made from the build's annotations, which are privileged."""

IMAGES = "images"
"""In place of a folder: the model's own perception looks at the images."""


def open_source(
    folder: str, build: Build, *, visual: bool, source: TokenSource | None = None
) -> TokenSource | None:
    """The visual tokens that prompts need; None where they show none.

    Args:
        folder: of a feature store, or `annotations`, or empty.
        build: the build whose keyframes are meant.
        visual: whether the prompts show visual tokens.
        source: what to use instead of a folder.

    Raises:
        InputError: they show some, and there are none.
    """
    if not visual or source is not None:
        return source if visual else None
    if not folder:
        raise InputError(
            "The prompts show visual tokens: name a feature store with --tokens. A text-only model "
            "is one trained with --inputs ego,history,command."
        )
    if folder == ANNOTATIONS:
        from odvla_bench.baselines.opendrivevla.build_tokens import AnnotationTokens

        return AnnotationTokens(build)
    return FeatureStore(Path(folder))


def slot_counts(tokens: VisualTokens | None) -> dict[str, int]:
    """Placeholder → tokens that it stands for; none without tokens."""
    if tokens is None:
        return {}
    return {SCENE: len(tokens.scene), TRACK: len(tokens.agents), MAP: len(tokens.map), OBJECT: 1}


def agent_row(tokens: VisualTokens | None, instance_id: int) -> int:
    """The row of an agent; -1 where the keyframe has no token for it."""
    if tokens is None or instance_id < 0:
        return -1
    rows = np.flatnonzero(tokens.instance_id == instance_id)
    return int(rows[0]) if len(rows) else -1
