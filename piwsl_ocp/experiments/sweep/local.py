"""Runs on this machine: a queue, several processes, one run each."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.processes import (
    Worker,
    available_cores,
    interruptible,
    start,
    stop,
)
from piwsl_ocp.experiments.run_record import Failure, RunRecord, last_lines

#: Exit code of a process that saved and stopped.
_INTERRUPTED = 130


class LocalLauncher:
    """Makes runs in processes of this machine, each with one thread.

    Args:
        parallel: processes at a time; one for each core by default.
    """

    def __init__(self, parallel: int | None = None) -> None:
        self.parallel = parallel or available_cores()

    def run(self, jobs: Sequence[Job], on_poll: Callable[[], None]) -> Mapping[str, Failure]:
        """Make all runs; the next one goes to the next free process.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when every run has saved and stopped.
        """
        waiting, working = deque(jobs), {}
        failures: dict[str, Failure] = {}
        try:
            with interruptible() as pause:
                while waiting or working:
                    while waiting and len(working) < self.parallel:
                        job = waiting.popleft()
                        working[job.run_folder] = start([job])
                    pause()
                    for folder in [f for f, w in working.items() if w.process.poll() is not None]:
                        failure = _failure(folder, working[folder])
                        stop([working.pop(folder)])
                        if failure is not None:
                            failures[folder] = failure
                    on_poll()
        finally:
            stop(list(working.values()))
        return failures


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
        return Failure(reason, last_lines(worker.written()))
    if code == _INTERRUPTED:
        return Failure("its process was asked to stop; the same command goes on with it")
    return Failure(worker.last_line(), last_lines(worker.written()))
