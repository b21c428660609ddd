"""Progress bars with the time that is left, for the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def listening(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A listener that draws one bar a task on standard error; one that does nothing when ``quiet``.

    What follows a tab in a task's name is news of it, which change while it is the same task."""
    if quiet:
        yield lambda task, done, total: None
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        tasks = {}

        def listen(task: str, done: int, total: int) -> None:
            name, _, news = task.partition("\t")
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            description = f"{name}: {news}" if news else name
            progress.update(tasks[name], completed=done, total=total, description=description)

        yield listen
