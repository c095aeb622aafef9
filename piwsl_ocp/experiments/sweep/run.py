"""Make the runs of an experiment with a launcher; what is finished stays, what fails is told."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import Progress

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.processes import interruptible
from piwsl_ocp.experiments.progress import progress_bar
from piwsl_ocp.experiments.run_record import Failure, RunRecord
from piwsl_ocp.experiments.sweep.status import steps_done, steps_of

#: Seconds between two looks at what the runs have logged.
LOOK_SECONDS = 3.0


class Launcher(AbstractContextManager, Protocol):
    """Makes runs somewhere, while it is entered as a context.

    At the end of the context no run is left under way, or what is left goes on without this
    process, or was cancelled: as fits the place, and what the user wants after Ctrl-C.

    Attributes:
        slots: runs at a time.
        killed: names of the runs that did not save in time at the end of the context.
        poll_seconds: to wait between two looks.
    """

    slots: int
    killed: Sequence[str]
    poll_seconds: float

    def submit(self, jobs: Sequence[Job]) -> None:
        """Begin or go on with runs, in this order as slots become free.

        Raises:
            UserError: if the runs are refused.
        """
        ...

    def ended(self) -> Mapping[str, Failure | None]:
        """Return the runs that ended since the last look: by folder, why, None if all is well."""
        ...

    def stop(self, run_folder: str) -> None:
        """Let one run save and stop; its end comes later, and is no failure."""
        ...


def make_runs(
    launcher: Launcher, feed: Callable[[Mapping[str, Failure | None]], Sequence[Job]]
) -> None:
    """Make runs until none is under way.

    Args:
        launcher: where to make them.
        feed: is given the runs that ended, none at first, and returns the runs to begin now. It is
            called again after each look.

    Raises:
        UserError: if the launcher refuses runs.
        KeyboardInterrupt: after Ctrl-C, when the launcher has let go of the runs.
    """
    under_way: set[str] = set()
    ended: Mapping[str, Failure | None] = {}
    with launcher, interruptible(launcher.poll_seconds) as pause:
        while True:
            if jobs := feed(ended):
                launcher.submit(jobs)
                under_way |= {job.run_folder for job in jobs}
            if not under_way:
                return
            pause()
            ended = launcher.ended()
            under_way -= ended.keys()


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        jobs: every run.
        failures: why runs failed, by run folder.
    """

    jobs: tuple[Job, ...]
    failures: Mapping[str, Failure]

    @property
    def is_complete(self) -> bool:
        """Whether every run is finished."""
        return not self.failures

    def show(self, console: Console) -> None:
        """Say what failed, with the last lines of the logs, and how to go on."""
        for folder, failure in self.failures.items():
            line = f"failed: {Path(folder).name}: {failure.reason}"
            console.print(line, markup=False, soft_wrap=True)
            for text in failure.log.splitlines():
                console.print(f"    {text}", markup=False, soft_wrap=True)
        finished = len(self.jobs) - len(self.failures)
        console.print(f"{finished} of {len(self.jobs)} runs are finished")
        if self.failures:
            console.print("the same command with --retry-failed tries the failed ones again")


def run(
    jobs: Sequence[Job], launcher: Launcher, console: Console, *, retry_failed: bool = False
) -> Outcome:
    """Make the runs that are not finished; one that failed does not touch the others.

    Args:
        jobs: the runs, each in a folder of its own.
        launcher: where to make them.
        console: where to show the progress.
        retry_failed: go on with runs that failed in an earlier call, too.

    Raises:
        UserError: if the launcher cannot make any run.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    folders = [job.run_folder for job in jobs]
    if len(set(folders)) < len(folders):
        raise UserError("two runs have the same folder: leave one of them out")
    failures = {} if retry_failed else _earlier_failures(jobs)
    left = [job for job in jobs if not job.is_done and job.run_folder not in failures]
    if left:
        for job in left:
            RunRecord(job.run_folder).forget_failure()
        with progress_bar(console) as bar:
            steps = _Steps(bar, jobs, console)
            batches = iter([left])

            def feed(ended: Mapping[str, Failure | None]) -> list[Job]:
                failures.update({folder: why for folder, why in ended.items() if why})
                steps.update()
                return next(batches, [])

            make_runs(launcher, feed)
            steps.look()
    return Outcome(tuple(jobs), failures)


def _earlier_failures(jobs: Sequence[Job]) -> dict[str, Failure]:
    found = {job.run_folder: RunRecord(job.run_folder).failure for job in jobs if not job.is_done}
    return {folder: failure for folder, failure in found.items() if failure is not None}


class _Steps:
    """Brings the bar up to date from what the runs have logged; without a terminal, says what is
    finished."""

    def __init__(self, bar: Progress, jobs: Sequence[Job], console: Console) -> None:
        self._bar, self._console, self._number = bar, console, len(jobs)
        self._left = [job for job in jobs if not job.is_done]
        total = sum(steps_of(job.config) or 0 for job in jobs)
        self._done = total - sum(steps_of(job.config) or 0 for job in self._left)
        self._task = bar.add_task("", total=total or None)
        self._looked = -math.inf

    def update(self) -> None:
        """Look at the runs, unless that was done a moment ago."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.look()

    def look(self) -> None:
        """Look at the runs."""
        finished = [job for job in self._left if job.is_done]
        for job in finished:
            self._left.remove(job)
            self._done += steps_of(job.config) or 0
            if not self._console.is_terminal:
                count = self._number - len(self._left)
                line = f"{count} of {self._number}: {job.name}"
                self._console.print(line, markup=False, soft_wrap=True)
        done = self._done + sum(steps_done(job.run_folder) for job in self._left)
        label = f"{self._number - len(self._left)} of {self._number} runs"
        self._bar.update(self._task, completed=done, description=label)
        self._looked = time.monotonic()
