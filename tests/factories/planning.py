"""Packed grids and ragged columns of the planning goldens."""

from __future__ import annotations

import numpy as np


def unpacked(grid: np.ndarray) -> np.ndarray:
    """Grids of 0 and 1 from grids packed along their last axis."""
    return np.unpackbits(grid, axis=-1)


def flipped(grid: np.ndarray, *, rows: bool = False, cols: bool = False) -> np.ndarray:
    """Packed grids mirrored along rows and columns."""
    bits = unpacked(grid)
    return np.packbits(bits[..., :: -1 if rows else 1, :: -1 if cols else 1], axis=-1)


def owners(offsets: np.ndarray) -> np.ndarray:
    """Case of each row from the offsets of ragged columns."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
