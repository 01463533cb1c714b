"""The files that sources are built from: what they are, where they are found, on what terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odvla_bench.errors import InputError
from odvla_bench.registry import suggest

UNSTATED = "unstated"


@dataclass(frozen=True)
class Requirement:
    """A file that a source needs."""

    key: str
    """Its name among the source's files, such as "train"."""
    names: tuple[str, ...]
    """Paths to look for, relative to where the source's files lie; the first found counts."""
    found_at: str
    """Where a user gets it, in a sentence."""
    license: str
    """Terms of its own text, as its publisher states them, on top of nuScenes' own."""
    size: str
    """Size of the published file, for a person."""
    table: str
    """Table of the build that its records are counted in."""
    records: int | None = None
    """Records in the published file, where that is known."""
    bytes: int | None = None
    """Exact size of the published file, where that is known."""
    place: Literal["sources", "nuscenes"] = "sources"
    """Under which root it lies."""


@dataclass(frozen=True)
class Source:
    """A source and which of its files are there."""

    name: str
    found: Mapping[str, Path]
    missing: tuple[Requirement, ...]

    @property
    def available(self) -> bool:
        """Whether there is anything to build from."""
        return bool(self.found) or not self.missing

    @property
    def why(self) -> str:
        """What is missing, and where it is found; empty when nothing is."""
        return " ".join(f"No {m.names[0]} ({m.size}): {m.found_at}." for m in self.missing)


def look_for(
    name: str,
    requires: Sequence[Requirement],
    *,
    nuscenes_root: Path,
    sources_root: Path | None = None,
    given: Mapping[str, Path] | None = None,
) -> Source:
    """Find the files of one source.

    Args:
        name: the source.
        requires: its files.
        nuscenes_root: where those of nuScenes lie.
        sources_root: where the language files lie, flat or in a folder of the source's name.
        given: "source.key", or "source" for one that has a single file → the file itself.

    Raises:
        InputError: a file that was named is not there.
    """
    found: dict[str, Path] = {}
    for need in requires:
        roots = (
            [nuscenes_root]
            if need.place == "nuscenes"
            else [sources_root / name, sources_root]
            if sources_root
            else []
        )
        named = (given or {}).get(f"{name}.{need.key}") or (given or {}).get(name)
        if named is not None and not named.is_file():
            raise InputError(f"{named}: no such file, but it is named for {name}.{need.key}.")
        places = [named] if named else [root / n for root in roots for n in need.names]
        if path := next((p for p in places if p.is_file()), None):
            found[need.key] = path.resolve()
    return Source(name, found, tuple(n for n in requires if n.key not in found))


def check_given(given: Mapping[str, Path], requires: Mapping[str, Sequence[Requirement]]) -> None:
    """Refuse files that are named for no requirement.

    Raises:
        UnknownNameError: no such requirement; the message lists what exists.
    """
    known = [f"{name}.{need.key}" for name, needs in requires.items() for need in needs]
    known += [name for name, needs in requires.items() if len(needs) == 1]
    for name in given:
        if name not in known:
            raise suggest(name, known, kind="source file")
