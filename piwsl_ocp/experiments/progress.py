"""The bar that shows how far several runs are."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Seconds over which the speed is averaged for the remaining time.
SPEED_SECONDS = 120.0


def progress_bar(console: Console) -> Progress:
    """Return a bar with share, elapsed and remaining time; it is hidden without a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=SPEED_SECONDS,
        disable=not console.is_terminal,
    )
