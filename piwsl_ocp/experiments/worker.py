"""Runs of an experiment in a process of their own: train or go on, evaluate, leave the results.

The parent writes the jobs as one line of JSON to the standard input and keeps the pipe open. When
it closes the pipe, or ends, the training saves and stops.
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
from piwsl_ocp.experiments.measurements import MEASUREMENTS
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.ocp.interruption import TrainingInterrupted
from piwsl_ocp.ocp.run import train

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def run(job: Job) -> None:
    """Do what is left of a job."""
    path = Path(job.run_folder)
    if not job.is_trained:
        train(job.config, path, resume=job.is_begun)
    for name in job.missing_measurements:
        MEASUREMENTS[name].measure(RunFolder(path), Path(job.dataset_folder))


def _stop_with_parent() -> None:
    """Wait until the pipe from the parent is closed, then ask this process to stop."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Read the jobs, do one after the other, and return the exit code."""
    jobs = from_json(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for job in jobs:
        try:
            run(job)
        except UserError as error:
            sys.stderr.write(f"error: the run in '{job.run_folder}' failed: {error}\n")
            return EXIT_USER_ERROR
        except TrainingInterrupted:
            return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
