"""Runs as jobs of SLURM, submitted as one array with submitit."""

from __future__ import annotations

import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job, to_json
from piwsl_ocp.experiments.processes import ENVIRONMENT
from piwsl_ocp.experiments.run_record import Failure, RunRecord, last_lines
from piwsl_ocp.experiments.sweep import slurm_queue
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.slurm_job import SlurmRun
from piwsl_ocp.experiments.sweep.slurm_queue import JobState

#: Folder beside the run folders for scripts, logs and pickles of the jobs.
SUBMISSIONS = ".slurm"

#: Looks at the queue that must agree on a job's end: a job on its way back looks ended for a while.
_LOOKS = 3

#: Bytes of free space below which a disk counts as full.
_FULL_DISK = 2**20


class SlurmLauncher:
    """Makes runs as jobs of SLURM; jobs of an earlier call that wait or run are taken over.

    Args:
        profile: what each job asks for.
        cancel_on_interrupt: asked on Ctrl-C whether the jobs are to be cancelled; else they go on.
        poll_seconds: between two looks at the queue.
    """

    def __init__(
        self,
        profile: SlurmProfile,
        cancel_on_interrupt: Callable[[], bool] = lambda: False,
        poll_seconds: float = 5.0,
    ) -> None:
        self.profile = profile
        self._cancel_on_interrupt = cancel_on_interrupt
        self._poll_seconds = poll_seconds

    def run(self, jobs: Sequence[Job], on_poll: Callable[[], None]) -> Mapping[str, Failure]:
        """Submit what is not in the queue yet, wait for all of it, and return the failures.

        Raises:
            UserError: if SLURM is missing or refuses the jobs.
            KeyboardInterrupt: after Ctrl-C; the jobs go on or are cancelled.
        """
        slurm_queue.require_slurm()
        numbers = self._active(jobs)
        try:
            numbers |= self._submit([job for job in jobs if job.run_folder not in numbers])
            ends = self._wait(jobs, numbers, on_poll)
        except KeyboardInterrupt:
            if self._cancel_on_interrupt():
                slurm_queue.cancel(list(numbers.values()))
            raise
        return {
            job.run_folder: _failure(job, numbers[job.run_folder], ends.get(job.run_folder))
            for job in jobs
            if not job.is_done
        }

    def _active(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Return the number of the SLURM job of each run that has one, by run folder."""
        numbers = {job.run_folder: RunRecord(job.run_folder).slurm_job for job in jobs}
        numbers = {folder: number for folder, number in numbers.items() if number}
        known = slurm_queue.states(numbers.values())
        return {
            folder: number
            for folder, number in numbers.items()
            if number in known and known[number].is_active
        }

    def _submit(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Submit runs as one array and return the numbers of their jobs by run folder."""
        if not jobs:
            return {}
        cores = self.profile.tasks_per_node * self.profile.cpus_per_task
        slurm_queue.check_fits(self.profile.partition, cores)
        executor = self._executor(Path(jobs[0].run_folder).parent)
        try:
            with executor.batch():
                submitted = [executor.submit(SlurmRun(to_json([job]))) for job in jobs]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            raise UserError(f"SLURM refuses the jobs: {_last_line(error)}") from None
        numbers = {job.run_folder: slurm.job_id for job, slurm in zip(jobs, submitted, strict=True)}
        for folder, number in numbers.items():
            RunRecord(folder).keep_slurm_job(number)
        return numbers

    def _executor(self, root: Path) -> submitit.AutoExecutor:
        # A folder of its own for each submission: a new cluster gives old job numbers again.
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = root / SUBMISSIONS / f"{now}-{secrets.token_hex(3)}"
        executor = submitit.AutoExecutor(
            folder=folder / "%j",
            cluster="slurm",
            slurm_max_num_timeout=1000,
            slurm_python=_python(),
        )
        exports = [f"export {name}={shlex.quote(value)}" for name, value in ENVIRONMENT.items()]
        executor.update_parameters(
            name="piwsl",
            slurm_setup=[*self.profile.setup, *exports],
            slurm_srun_args=["--kill-on-bad-exit=1"],
            **self.profile.parameters(),
        )
        return executor

    def _wait(
        self, jobs: Sequence[Job], numbers: Mapping[str, str], on_poll: Callable[[], None]
    ) -> dict[str, JobState]:
        """Wait until every run has ended; return how, by run folder, where SLURM knows it."""
        looks = dict.fromkeys(numbers, 0)
        ends: dict[str, JobState] = {}
        while waiting := [
            job for job in jobs if looks[job.run_folder] < _LOOKS and not job.is_done
        ]:
            time.sleep(self._poll_seconds)
            on_poll()
            try:
                known = slurm_queue.states(numbers[job.run_folder] for job in waiting)
            except slurm_queue.SlurmSilent:
                continue
            for job in waiting:
                state = known.get(numbers[job.run_folder])
                if state is not None and state.is_active:
                    looks[job.run_folder] = 0
                    continue
                looks[job.run_folder] += 1
                if state is not None:
                    ends[job.run_folder] = state
        return ends


def cancel_runs(folders: Sequence[Path | str]) -> int:
    """Cancel the SLURM jobs of runs that wait or run, and return how many there were.

    Raises:
        UserError: if SLURM is missing or does not answer.
    """
    slurm_queue.require_slurm()
    numbers = [number for folder in folders if (number := RunRecord(folder).slurm_job)]
    known = slurm_queue.states(numbers)
    active = sorted({number for number in numbers if number in known and known[number].is_active})
    slurm_queue.cancel(active)
    return len(active)


def states_of_runs(folders: Sequence[Path | str]) -> dict[str, JobState]:
    """Return the states of the SLURM jobs of runs by job number; nothing where SLURM is missing."""
    numbers = [number for folder in folders if (number := RunRecord(folder).slurm_job)]
    try:
        return slurm_queue.states(numbers)
    except slurm_queue.SlurmSilent:
        return {}


def _python() -> str:
    """Return the command that starts Python in a job.

    Until submitit's handler stands, its signal would end the process, and SLURM would not requeue
    the job. It is ignored until then: SLURM ends and requeues a job that does not heed it.
    """
    script = 'trap "" USR2; exec "$@"'
    return f"sh -c {shlex.quote(script)} sh {shlex.quote(sys.executable)}"


def _last_line(error: Exception) -> str:
    output = getattr(error, "stderr", None) or str(error)
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: error: ") if lines else type(error).__name__


def _failure(job: Job, number: str, end: JobState | None) -> Failure:
    """Return why a job that has ended left its run unfinished."""
    kept = RunRecord(job.run_folder).failure
    if kept is not None:
        return kept
    root = Path(job.run_folder).parent
    if shutil.disk_usage(root).free < _FULL_DISK:
        return Failure(f"the disk of '{root}' is full: free space there")
    explanation = end.explanation if end else "its job vanished, and SLURM keeps no account of it"
    return Failure(
        f"{explanation} (SLURM job {number}); the same command goes on with it",
        last_lines(_log(root, number)),
    )


def _log(root: Path, number: str) -> str:
    """Return what the last job of that number wrote to its error stream."""
    files = sorted((root / SUBMISSIONS).glob(f"*/{number}/{number}_0_log.err"))
    return files[-1].read_text(errors="replace") if files else ""
