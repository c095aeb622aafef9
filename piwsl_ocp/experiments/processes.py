"""Processes that run jobs on this machine: started, watched, asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job, to_json
from piwsl_ocp.ocp.interruption import stop_on_signal

#: What every process of a run finds in its environment, here and in a SLURM job.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

#: Seconds between two looks at the running jobs.
POLL_SECONDS = 0.5
#: Seconds that a job may take to save when it is asked to stop.
STOP_SECONDS = 60.0


@dataclass
class Worker:
    """A process that does some jobs one after the other, what it wrote, and its GPU if set."""

    process: subprocess.Popen
    output: BinaryIO
    gpu: str | None = None

    def written(self) -> str:
        """Return what the process wrote so far."""
        self.output.seek(0)
        return self.output.read().decode(errors="replace")

    def last_line(self) -> str:
        """Return the last line that the process wrote, without `error: `."""
        lines = self.written().strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "a run failed without a message"


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[Job], parallel: int, on_poll: Callable[[], None] = lambda: None
) -> None:
    """Run jobs in `parallel` processes with one thread each; every process gets each n-th job.

    It is for jobs that are of use together alone: the first that fails stops them all.

    Args:
        jobs: what to do, the longest first.
        parallel: number of processes.
        on_poll: called about twice a second, to show progress.

    Raises:
        UserError: if a job fails; the others are asked to save and stop.
        KeyboardInterrupt: after all jobs have saved and stopped.
    """
    shares = [jobs[number::parallel] for number in range(parallel)]
    workers: list[Worker] = []
    try:
        for share in shares:
            if share:
                workers.append(start(share))
        with interruptible() as pause:
            while any(not _has_ended(worker) for worker in workers):
                pause()
                on_poll()
    finally:
        stop(workers)


@contextmanager
def interruptible(seconds: float = POLL_SECONDS) -> Iterator[Callable[[], None]]:
    """Yield a function that waits a while and raises KeyboardInterrupt after Ctrl-C.

    Elsewhere in the loop Ctrl-C is only noted: an exception in the midst of a library's compiled
    code, which draws progress from logs, may be swallowed there.

    Args:
        seconds: to wait; Ctrl-C is heeded within `POLL_SECONDS`.
    """
    with stop_on_signal((signal.SIGINT,)) as request:

        def pause() -> None:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0 and not request.asked:
                time.sleep(min(left, POLL_SECONDS))
            if request.asked:
                raise KeyboardInterrupt

        yield pause


def start(jobs: Sequence[Job], gpu: str | None = None) -> Worker:
    """Start a process that does jobs one after the other.

    Args:
        jobs: what to do.
        gpu: the only GPU that it sees; None: what this process sees.
    """
    of_gpu = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    output = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the process has ended)
    process = subprocess.Popen(
        [sys.executable, "-m", "piwsl_ocp.experiments.worker"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env={**os.environ, **ENVIRONMENT, **of_gpu},
        # Ctrl-C reaches this process alone, which then asks the workers to stop, once.
        start_new_session=True,
    )
    process.stdin.write(f"{to_json(jobs)}\n".encode())
    process.stdin.flush()
    return Worker(process, output, gpu)


def _has_ended(worker: Worker) -> bool:
    """Return whether a worker has ended; raise a UserError if it failed."""
    code = worker.process.poll()
    if code not in (None, 0):
        raise UserError(worker.last_line())
    return code is not None


def stop(workers: Sequence[Worker]) -> list[Worker]:
    """Close the pipes, wait for the workers to save, kill those that do not, and return these."""
    late: list[Worker] = []
    deadline = time.monotonic() + STOP_SECONDS
    try:
        for worker in workers:
            worker.process.stdin.close()
        for worker in workers:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                late.append(worker)
            worker.process.kill()
            worker.process.wait()
            worker.output.close()
    return late
