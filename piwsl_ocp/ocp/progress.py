"""Progress of a training on the terminal, and the time its steps took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from fairchem.core.common import distutils
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor


class StepProgress:
    """A progress bar over training steps with rate and remaining time, on the first rank.

    Attributes:
        train_seconds: time spent in training steps, loading included, validation and saving not.
        shown: set to False to run without a bar.
    """

    #: Steps between two updates of the bar's loss, which waits for the device.
    every = 20

    def __init__(self) -> None:
        self.train_seconds = 0.0
        self.shown = sys.stderr.isatty()
        self._bar: Progress | None = None
        self._last = 0.0

    def start(self, step: int, total: int) -> None:
        """Prepare the bar at a step of the total."""
        self._last = time.perf_counter()
        if not (self.shown and distutils.is_master()):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar.add_task("training", total=total, completed=step, rate=0.0)

    def step(self, step: int, loss: Tensor) -> None:
        """Count one finished step."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.train_seconds += seconds
        if self._bar is not None and step % self.every == 0:
            rate = 1.0 / max(seconds, 1e-9)
            label = f"training (loss {loss.item():.3g})"
            self._bar.update(self._bar.task_ids[0], completed=step, description=label, rate=rate)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out of the training time, once where pauses are nested."""
        before = time.perf_counter()
        last = self._last
        try:
            yield
        finally:
            self._last = last + time.perf_counter() - before

    def __enter__(self) -> StepProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
