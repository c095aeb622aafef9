"""Runs of an experiment in a process of their own: train or go on, evaluate, leave the results.

The parent writes the jobs as one line of JSON to the standard input and keeps the pipe open. When
it closes the pipe, or ends, the training saves and stops. A SLURM job calls `run` by itself.
"""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import os
import signal
import sys
import threading
from pathlib import Path

import torch

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job, from_json
from piwsl_ocp.experiments.measurements import measure
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.run_record import RunRecord
from piwsl_ocp.ocp import interruption
from piwsl_ocp.ocp.interruption import TrainingInterrupted
from piwsl_ocp.ocp.ranks import Ranks
from piwsl_ocp.ocp.run import CHECKPOINT_FILE, train
from piwsl_ocp.ocp.run_lock import RunFolderBusy, only_process
from piwsl_ocp.ocp.state import read_checkpoint

EXIT_USER_ERROR = 2
EXIT_BUSY = 3
EXIT_INTERRUPTED = 130

#: Seconds to wait for the process before, which may still be ending.
LOCK_SECONDS = 60.0


def run(job: Job, ranks: Ranks | None = None) -> None:
    """Do what is left of a job, as the only process in its folder; keep the error of a failure.

    The result does not depend on where this is called: every process computes with one thread, the
    same rounding of tiny numbers, and repeatable algorithms.

    Args:
        job: what to do.
        ranks: the data-parallel processes, if a scheduler has started several.

    Raises:
        TrainingInterrupted: if it was asked to stop; the same call goes on.
    """
    _compute_repeatably()
    record = RunRecord(job.run_folder)
    try:
        if ranks is not None and ranks.rank > 0:
            if not job.is_trained:
                train(job.config, job.run_folder, ranks=ranks)
            return
        with only_process(job.run_folder, LOCK_SECONDS):
            record.forget_failure()
            _run(job, ranks)
    except (TrainingInterrupted, KeyboardInterrupt, RunFolderBusy):
        raise
    except Exception as error:
        if interruption.received:  # the signal ended a loader process, and the training with it
            raise TrainingInterrupted(f"{type(error).__name__} after a signal") from error
        record.keep_failure(error)
        raise


def _compute_repeatably() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)


def _run(job: Job, ranks: Ranks | None) -> None:
    path = Path(job.run_folder)
    if not job.is_trained:
        _set_unreadable_checkpoint_aside(path / CHECKPOINT_FILE)
        train(job.config, path, resume=job.is_begun, ranks=ranks)
        if interruption.received:  # after the last step: the training is whole, the rest waits
            raise TrainingInterrupted("after the last step")
    for name in job.missing_measurements:
        measure(name, RunFolder(path), Path(job.dataset_folder))


def _set_unreadable_checkpoint_aside(path: Path) -> None:
    """Rename a checkpoint that cannot be read, so that the training begins anew."""
    if not path.is_file():
        return
    try:
        read_checkpoint(path)
    except UserError as error:
        aside = path.with_name(f"{path.name}.unreadable")
        sys.stderr.write(f"{error}: renamed to {aside.name}, the training begins anew\n")
        path.replace(aside)


def _stop_with_parent() -> None:
    """Wait until the pipe from the parent is closed, then ask this process to stop."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Read the jobs, do one after the other, and return the exit code."""
    jobs = from_json(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    for job in jobs:
        try:
            run(job)
        except UserError as error:
            sys.stderr.write(f"error: the run in '{job.run_folder}' failed: {error}\n")
            return EXIT_BUSY if isinstance(error, RunFolderBusy) else EXIT_USER_ERROR
        except TrainingInterrupted:
            return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
