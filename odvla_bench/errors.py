"""Error families of odvla_bench.

Every message says what was wrong, where (file, row, token) and what to do. The command line
prints the message without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence


class OdvlaError(Exception):
    """A mistake in what the user gave; the base of every error this package raises on purpose."""

    exit_code = 2


class InputError(OdvlaError):
    """A file or table that cannot be read as what it should be."""


class PredictionError(OdvlaError):
    """Predictions that cannot be scored; `problems` holds one line for each defect."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        """Keep `problems` beside the message, which lists them."""
        self.problems = tuple(problems)
        super().__init__("\n  ".join([message, *self.problems]))


class FormatError(OdvlaError):
    """A build or result of another format version, or one that contradicts its manifest."""


class UnknownNameError(OdvlaError):
    """A name that no registry entry has; the message lists what exists."""


class MissingDependencyError(OdvlaError):
    """An optional dependency that is not installed; the message ends with the install command."""

    def __init__(self, module: str, *, extra: str, purpose: str) -> None:
        """Name the module, what needed it, and the extra of this package that brings it."""
        super().__init__(
            f"{purpose} needs `{module}`, which is not installed. "
            f"Install it with: pip install 'odvla-bench[{extra}]'"
        )
