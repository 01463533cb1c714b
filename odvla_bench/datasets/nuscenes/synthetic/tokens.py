"""Deterministic tokens and random streams."""

from __future__ import annotations

import numpy as np

from odvla_bench.provenance import digest_text


def fixed_token(table: str, name: str) -> str:
    """The token of a row that every tree has alike, such as a category's: 32 hex characters."""
    return digest_text("nuscenes-synthetic", table, name)


class TokenSource:
    """Random tokens and generators of one scene, each purpose with a stream of its own."""

    def __init__(self, seed: int, scene: str) -> None:
        """Fix the seed; streams of other scenes and purposes are independent."""
        self._seed, self._scene = seed, scene

    def generator(self, purpose: str) -> np.random.Generator:
        """The stream of a purpose, from its start."""
        key = int(digest_text(str(self._seed), self._scene, purpose), 16)
        return np.random.default_rng(key)

    def take(self, purpose: str, count: int) -> list[str]:
        """The first `count` tokens of a purpose, 32 hex characters each."""
        text = self.generator(f"token {purpose}").bytes(16 * count).hex()
        return [text[i : i + 32] for i in range(0, 32 * count, 32)]
