"""`odvla-bench check`: does anything of val, or of the answers, reach a model?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli.console import print_table


def check(
    build: Annotated[Path, typer.Argument(help="A build made by `odvla-bench build-data`.")],
) -> None:
    """Look for leaks: overlap of splits, text of val in train, ground truth in prompts."""
    from odvla_bench.datasets.checks import check_build, failures
    from odvla_bench.datasets.reader import open_build
    from odvla_bench.errors import FormatError

    checks = check_build(open_build(build))
    rows = [(c.what, c.found, c.status) for c in checks]
    print_table(f"{build}", ("check", "found", "status"), rows, numbers_from=3)
    if failed := failures(checks):
        names = "; ".join(c.what for c in failed)
        raise FormatError(f"{build}: leaks: {names}. Build it again from untouched raw data.")
