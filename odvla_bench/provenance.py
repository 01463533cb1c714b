"""Where things come from: digests of files and the versions that made them."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

_READ_BYTES = 1 << 22


def package_version(distribution: str = "odvla-bench") -> str:
    """The installed version of a distribution, or "not installed"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


new_hash = hashlib.sha256
"""The hash behind every fingerprint; processors compute it faster than BLAKE2."""


def hexdigest(h: hashlib._Hash) -> str:
    """The fingerprint of what a hash was fed: its first 128 bits, hexadecimal."""
    return h.hexdigest()[:32]


def digest_text(*parts: str) -> str:
    """The fingerprint of strings, each length-prefixed."""
    h = new_hash()
    for part in parts:
        raw = part.encode()
        h.update(len(raw).to_bytes(8, "little") + raw)
    return hexdigest(h)


def digest_file(path: Path) -> str:
    """The fingerprint of a file's bytes."""
    h = new_hash()
    with path.open("rb") as f:
        while block := f.read(_READ_BYTES):
            h.update(block)
    return hexdigest(h)
