"""Where things come from and are kept: digests, versions, and the cache folder."""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path

_READ_BYTES = 1 << 22


def package_version(distribution: str = "odvla-bench") -> str:
    """The installed version of a distribution, or "not installed"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def default_cache_dir() -> Path:
    """`$ODVLA_CACHE`, or `odvla_bench` under the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ODVLA_CACHE") or home / "odvla_bench")


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
