"""Lazy name → object lookup, with a "did you mean" for names that do not exist."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from odvla_bench.errors import UnknownNameError

T = TypeVar("T")


def suggest(name: str, known: Iterator[str] | list[str], *, kind: str) -> UnknownNameError:
    """The error for an unknown `name` of some `kind`: the nearest name, and all that exist."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


class Registry(Generic[T]):
    """Names of one kind of object; a value may be the object or a `"module:attribute"` string.

    Strings are imported on first use, so that listing names costs no import.
    """

    def __init__(self, kind: str, entries: Mapping[str, T | str]) -> None:
        """Take the singular noun for messages and the entries, in the order to list them."""
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: str) -> T:
        """The object of that name.

        Raises:
            UnknownNameError: no such name; the message lists what exists.
        """
        if name not in self._entries:
            raise suggest(name, list(self._entries), kind=self.kind)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = cast(T, getattr(importlib.import_module(module), attribute))
            self._entries[name] = entry
        return entry
