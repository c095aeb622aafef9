"""Runs of an experiment in a process of their own: train or go on, evaluate, leave the results.

The parent writes the jobs as one line of JSON to the standard input and keeps the pipe open. When
it closes the pipe, or ends, the training saves and stops.
"""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.evaluate import evaluate
from piwsl_ocp.experiments.aspirin import RESULT as BOND_SCAN
from piwsl_ocp.experiments.aspirin import scan_run
from piwsl_ocp.experiments.run_folder import CONFIG_FILE, RunFolder
from piwsl_ocp.ocp.interruption import TrainingInterrupted
from piwsl_ocp.ocp.run import train

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        config: a resolved configuration.
        run_folder: where it goes; a run that is there already is gone on with.
        dataset_folder: the data to evaluate on.
        bond_scan: whether to scan the bond of the embedded aspirin.
    """

    config: dict[str, Any]
    run_folder: str
    dataset_folder: str
    bond_scan: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the training is finished and every result is there."""
        path = Path(self.run_folder)
        if not (path / CONFIG_FILE).is_file():
            return False
        run = RunFolder(path)
        scanned = not self.bond_scan or (path / BOND_SCAN).is_file()
        return run.is_finished and run.has_result() and scanned


def to_json(jobs: Sequence[Job]) -> str:
    """Return jobs as one line."""
    return json.dumps([asdict(job) for job in jobs])


def from_json(line: str) -> list[Job]:
    """Return the jobs that `to_json` wrote."""
    return [Job(**fields) for fields in json.loads(line)]


def run(job: Job) -> None:
    """Do what is left of a job."""
    path = Path(job.run_folder)
    begun = (path / CONFIG_FILE).is_file()
    if not (begun and RunFolder(path).is_finished):
        train(job.config, path, resume=begun)
    made, data = RunFolder(path), Path(job.dataset_folder)
    if not made.has_result():
        evaluate(path, data)
    if job.bond_scan and not (path / BOND_SCAN).is_file():
        scan_run(made, data)


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
