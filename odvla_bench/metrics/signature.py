"""The string that goes with a number: every choice that can move it, as sacreBLEU prints it.

A signature is `key:value` pairs joined by `|`. The build whose ground truth was used is unknown
to the metrics; its place is kept as `build:-` until the caller fills it.
"""

from __future__ import annotations

from collections.abc import Iterable

from odvla_bench.errors import InputError
from odvla_bench.provenance import package_version

_NO_BUILD = "build:-"


def format_signature(pairs: Iterable[tuple[str, object]]) -> str:
    """Pairs in order, then the place of the build and the version of this package.

    >>> format_signature([("metric", "bleu"), ("n", 3)]).rpartition("|")[0]
    'metric:bleu|n:3|build:-'
    """
    texts = [f"{_clean(key)}:{_clean(value)}" for key, value in pairs]
    return "|".join([*texts, _NO_BUILD, f"version:{package_version()}"])


def with_build(signature: str, fingerprint: str) -> str:
    """The signature with the build's fingerprint in its place.

    Raises:
        InputError: the signature has no free place for it.
    """
    parts = signature.split("|")
    if _NO_BUILD not in parts:
        raise InputError(
            f"Signature {signature!r} has no free place for a build; take it from the scores."
        )
    parts[parts.index(_NO_BUILD)] = f"build:{_clean(fingerprint)}"
    return "|".join(parts)


def _clean(value: object) -> str:
    """A value without the characters that separate pairs."""
    return str(value).replace("|", "/").replace(":", "=").replace(" ", "_")
