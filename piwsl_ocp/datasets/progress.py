"""Progress of long work: a bar with rate and remaining time on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")

#: Items between two updates of the bar.
STRIDE = 32


class RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


def track(
    items: Iterable[Item], label: str, total: int | None = None, enabled: bool = True
) -> Iterator[Item]:
    """Yield the items and show how far they are.

    Args:
        items: anything.
        label: what is being done.
        total: number of items; None: not known, no remaining time.
        enabled: show nothing if False, nor where standard error is no terminal.
    """
    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total)
        number = 0
        for number, item in enumerate(items, start=1):
            yield item
            if number % STRIDE == 0:
                bar.update(task, completed=number)
        bar.update(task, completed=number, total=number)
