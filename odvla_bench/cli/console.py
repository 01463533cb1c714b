"""What commands print: tables, key facts, progress; plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table

_LOG_WIDTH = 200
"""Where output goes to a file, lines are cut for no terminal's width."""


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, width=_LOG_WIDTH)
    )


out = _console(stderr=False)
log = _console(stderr=True)


class Advance(Protocol):
    """Tells of progress."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """`done` of `total` units are finished, the last of them `what`."""


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A progress bar on a terminal, one plain line a unit in a log; on standard error."""
    if not log.is_terminal:
        yield lambda done, total, what: log.print(f"{title}: {done}/{total} {what}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=log) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def print_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers_from: int = 1
) -> None:
    """Print a table; columns from `numbers_from` on are aligned to the right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i >= numbers_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    out.print(table)
