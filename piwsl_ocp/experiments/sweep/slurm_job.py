"""One run as a job of SLURM. Nothing heavy is imported here: a signal before submitit's handler
stands would be lost, and that is set only when this module is loaded."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import NoReturn

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

#: Stops at one and the same step after which a run is given up.
STOPS_WITHOUT_PROGRESS = 5


class SlurmRun:
    """A run that goes on where it stopped each time SLURM starts its job.

    It holds nothing but its description: all that it did is in the run folder. So it may be started
    again at any time, also after an end without warning.

    submitit would save from inside its signal handler, in the middle of a step, and forgets a
    SIGTERM. Here both signals ask the training to save and stop between two steps; then the job
    puts itself back into the queue.

    Args:
        job: what `piwsl_ocp.experiments.job.to_json` wrote of one job.
    """

    def __init__(self, job: str) -> None:
        self.job = job

    def __call__(self) -> str:
        """Do what is left of the run, and return its folder."""
        import piwsl_ocp.compat  # noqa: F401  (before fairchem)

        from piwsl_ocp.experiments.job import from_json
        from piwsl_ocp.experiments.worker import run
        from piwsl_ocp.ocp.interruption import TrainingInterrupted, stop_at_once
        from piwsl_ocp.ocp.ranks import Ranks

        (job,) = from_json(self.job)
        ranks = None
        if JobEnvironment().num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            ranks = Ranks.from_environment()
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, stop_at_once)
        try:
            run(job, ranks)
        except (TrainingInterrupted, KeyboardInterrupt) as interruption:
            for number in (signal.SIGTERM, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            # torch raises when a loader process ends, and the signal ends those, too
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            print(f"interrupted: {interruption}", flush=True)  # noqa: T201  (the job's log)
            self._back_into_the_queue(job)
        return job.run_folder

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit submits again if the signal comes before the training begins."""
        return DelayedSubmission(self)

    def _back_into_the_queue(self, job) -> NoReturn:
        """Requeue the job, unless SLURM is doing that already or somebody cancelled it."""
        from piwsl_ocp.errors import UserError
        from piwsl_ocp.experiments.run_record import RunRecord
        from piwsl_ocp.experiments.sweep.status import steps_done

        environment = JobEnvironment()
        if environment.global_rank > 0 or _state(environment.job_id) != "RUNNING":
            sys.exit(0)
        record = RunRecord(job.run_folder)
        if record.stops_without_progress(steps_done(job.run_folder)) >= STOPS_WITHOUT_PROGRESS:
            error = UserError(
                f"stopped {STOPS_WITHOUT_PROGRESS} times at the same step: raise time_minutes in "
                "the SLURM profile"
            )
            record.keep_failure(error)
            raise error
        subprocess.run(["scontrol", "requeue", environment.job_id], check=True, timeout=60)
        sys.exit(0)


def _state(job: str) -> str:
    """Return what SLURM says of this job, COMPLETING if it is being ended."""
    command = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else "RUNNING"
