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


def digest_text(*parts: str) -> str:
    """A 128-bit hexadecimal digest of strings, each length-prefixed."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode()
        h.update(len(raw).to_bytes(8, "little") + raw)
    return h.hexdigest()


def digest_file(path: Path) -> str:
    """A 128-bit hexadecimal digest of a file's bytes."""
    h = hashlib.blake2b(digest_size=16)
    with path.open("rb") as f:
        while block := f.read(_READ_BYTES):
            h.update(block)
    return h.hexdigest()
