"""Runs on this machine: a queue, several processes, one run each."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.processes import (
    POLL_SECONDS,
    STOP_SECONDS,
    Worker,
    available_cores,
    start,
    stop,
)
from piwsl_ocp.experiments.run_record import Failure, RunRecord, last_lines
from piwsl_ocp.ocp.devices import visible_gpus

#: Exit codes of a process that saved and stopped, and of one that another kept out of the folder.
_INTERRUPTED, _BUSY = 130, 3


class LocalLauncher:
    """Makes runs in processes of this machine, each with one thread and at most one GPU.

    Args:
        parallel: processes at a time; by default one for each GPU, or else for each core.

    Attributes:
        killed: names of the runs that did not save in time at the end.
    """

    poll_seconds = POLL_SECONDS

    def __init__(self, parallel: int | None = None) -> None:
        self._gpus = visible_gpus()
        self.slots = parallel or len(self._gpus) or available_cores()
        self.killed: list[str] = []
        self._waiting: dict[str, Job] = {}
        self._working: dict[str, Worker] = {}
        self._stopping: dict[str, float] = {}

    def __enter__(self) -> LocalLauncher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let every run save and stop."""
        self._waiting.clear()
        self._stopping.clear()
        working, self._working = self._working, {}
        late = stop(list(working.values()))
        self.killed = [Path(folder).name for folder, worker in working.items() if worker in late]

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put runs at the end of the queue; the next one goes to the next free process."""
        self._waiting |= {job.run_folder: job for job in jobs}
        self._start()

    def ended(self) -> dict[str, Failure | None]:
        """Return the runs that ended since the last look, and start the next ones."""
        now, found = time.monotonic(), {}
        for folder, deadline in self._stopping.items():
            if folder not in self._working:  # it was still in the queue
                found[folder] = None
            elif now > deadline:
                self._working[folder].process.kill()
        for folder in [f for f, w in self._working.items() if w.process.poll() is not None]:
            worker = self._working.pop(folder)
            found[folder] = None if folder in self._stopping else _failure(folder, worker)
            stop([worker])
        for folder in found:
            self._stopping.pop(folder, None)
        self._start()
        return found

    def stop(self, run_folder: str) -> None:
        """Let one run save and stop, or take it out of the queue."""
        if run_folder in self._working:
            self._working[run_folder].process.stdin.close()
        elif self._waiting.pop(run_folder, None) is None:
            return
        self._stopping.setdefault(run_folder, time.monotonic() + STOP_SECONDS)

    def _start(self) -> None:
        while self._waiting and len(self._working) < self.slots:
            folder = next(iter(self._waiting))
            self._working[folder] = start([self._waiting.pop(folder)], self._free_gpu())

    def _free_gpu(self) -> str | None:
        """Return the GPU with the fewest runs, None where there is no GPU."""
        busy = Counter(worker.gpu for worker in self._working.values())
        return min(self._gpus, key=lambda gpu: busy[gpu], default=None)


def _failure(folder: str, worker: Worker) -> Failure | None:
    """Return why a process that has ended did not finish its run, None if it did."""
    code = worker.process.returncode
    if code == 0:
        return None
    kept = RunRecord(folder).failure
    if kept is not None:
        return kept
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        reason = f"its process was ended by {name}{memory}; the same command goes on with it"
        return Failure(reason, last_lines(worker.written()), is_passing=True)
    if code == _INTERRUPTED:
        reason = "its process was asked to stop; the same command goes on with it"
        return Failure(reason, is_passing=True)
    return Failure(worker.last_line(), last_lines(worker.written()), is_passing=code == _BUSY)
