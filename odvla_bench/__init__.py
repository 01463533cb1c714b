"""Data, metrics and a reference model for driving with language on nuScenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odvla_bench.datasets.reader import Build, open_build

__all__ = ["Build", "open_build"]


def __getattr__(name: str) -> Any:
    # Importing the package must stay cheap: pyarrow and DuckDB come with the first use.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from odvla_bench.datasets import reader

    return getattr(reader, name)
