"""Progress bars: on a terminal only, on standard error, gone when the work is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Callback = Callable[[int, int], None]


@contextmanager
def progress(what: str, words: Callable[[int], str] | None = None) -> Iterator[Callback]:
    """Give the callback ``(done, total)`` of a bar; silent if standard error is no terminal.

    Parameters
    ----------
    what
        What is being done.
    words
        What else to say, such as a speed, when so much is done.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    if words is not None:
        columns.append(TextColumn("{task.fields[words]}"))
    columns += [TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, words="")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, words="" if words is None else words(done))

        yield show
