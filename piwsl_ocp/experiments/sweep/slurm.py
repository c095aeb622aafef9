"""Runs as jobs of SLURM, submitted as arrays with submitit."""

from __future__ import annotations

import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

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
        self.slots = profile.array_parallelism
        self.poll_seconds = poll_seconds
        self._cancel_on_interrupt = cancel_on_interrupt
        self._watched: dict[str, _Watched] = {}

    def __enter__(self) -> SlurmLauncher:
        slurm_queue.require_slurm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the jobs, which go on without this process; after Ctrl-C, perhaps cancel them."""
        with suppress(slurm_queue.SlurmSilent):
            self._cancel_stopped()
        watched, self._watched = self._watched, {}
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._cancel_on_interrupt():
            slurm_queue.cancel([run.number for run in watched.values()])

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit what is not in the queue yet: as one array, or as few as SLURM's limit allows.

        SLURM limits the jobs at a time within each array alone. So of several arrays each begins
        when the one before has ended, unless the profile lets all jobs run at once.

        Raises:
            UserError: if SLURM refuses jobs or does not answer; what it took before goes on.
        """
        numbers = self._active(jobs)
        numbers |= self._submit([job for job in jobs if job.run_folder not in numbers])
        for job in jobs:
            self._watched[job.run_folder] = _Watched(job, numbers[job.run_folder])

    def ended(self) -> dict[str, Failure | None]:
        """Return the runs that ended since the last look; none where SLURM does not answer."""
        with suppress(slurm_queue.SlurmSilent):
            self._cancel_stopped()
            known = slurm_queue.states(
                run.number for run in self._watched.values() if not run.job.is_done
            )
            for run in self._watched.values():
                run.look(known.get(run.number))
        found = {f: run.failure for f, run in self._watched.items() if run.has_ended}
        for folder in found:
            del self._watched[folder]
        return found

    def stop(self, run_folder: str) -> None:
        """Cancel the job of one run, which saves; if SLURM is silent, at one of the next looks."""
        if run_folder in self._watched:
            self._watched[run_folder].to_be_stopped = True
            with suppress(slurm_queue.SlurmSilent):
                self._cancel_stopped()

    def _cancel_stopped(self) -> None:
        runs = [r for r in self._watched.values() if r.to_be_stopped and not r.is_cancelled]
        slurm_queue.cancel([run.number for run in runs])
        for run in runs:
            run.is_cancelled = True

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
        """Submit runs and return the numbers of their jobs by run folder."""
        if not jobs:
            return {}
        cores = self.profile.tasks_per_node * self.profile.cpus_per_task
        slurm_queue.check_fits(self.profile.partition, cores)
        size = slurm_queue.largest_array()
        in_turn = self.profile.array_parallelism < len(jobs)
        numbers: dict[str, str] = {}
        before = None
        for start in range(0, len(jobs), size):
            try:
                array = self._submit_array(jobs[start : start + size], before)
            except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
                raise UserError(_refusal(error, len(jobs), len(numbers))) from None
            numbers |= array
            before = next(iter(array.values())).split("_")[0] if in_turn else None
        return numbers

    def _submit_array(self, jobs: Sequence[Job], before: str | None) -> dict[str, str]:
        """Submit runs as one array that begins when the array `before` has ended."""
        executor = self._executor(Path(jobs[0].run_folder).parent, before)
        with executor.batch():
            submitted = [executor.submit(SlurmRun(to_json([job]))) for job in jobs]
        numbers = {job.run_folder: slurm.job_id for job, slurm in zip(jobs, submitted, strict=True)}
        for folder, number in numbers.items():
            RunRecord(folder).keep_slurm_job(number)
        return numbers

    def _executor(self, root: Path, before: str | None) -> submitit.AutoExecutor:
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
        parameters = self.profile.parameters()
        if before is not None:  # which has waited for what the profile may want to wait for
            more = {**parameters["slurm_additional_parameters"], "dependency": f"afterany:{before}"}
            parameters["slurm_additional_parameters"] = more
        executor.update_parameters(
            name="piwsl",
            slurm_setup=[*self.profile.setup, *exports],
            slurm_srun_args=["--kill-on-bad-exit=1"],
            **parameters,
        )
        return executor


@dataclass
class _Watched:
    """A run whose job this process waits for.

    Attributes:
        job: the run.
        number: of its SLURM job.
        looks: how often in succession its job looked ended.
        end: how it ended, where SLURM knows it.
        to_be_stopped: whether its job is to be cancelled.
        is_cancelled: whether SLURM was told so.
    """

    job: Job
    number: str
    looks: int = 0
    end: JobState | None = None
    to_be_stopped: bool = False
    is_cancelled: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether the run is finished, or its job will not run again."""
        return self.looks >= _LOOKS or self.job.is_done

    @property
    def failure(self) -> Failure | None:
        """Why an ended run is not finished; None if it is, or was stopped."""
        if self.to_be_stopped or self.job.is_done:
            return None
        return _failure(self.job, self.number, self.end)

    def look(self, state: JobState | None) -> None:
        """Take note of what SLURM says of the job."""
        if state is not None and state.is_active:
            self.looks = 0
            return
        self.looks += 1
        self.end = state or self.end


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


def _refusal(error: Exception, wanted: int, taken: int) -> str:
    """Return in one line that SLURM refuses jobs after it took some."""
    if not taken:
        return f"SLURM refuses the jobs: {_last_line(error)}"
    return (
        f"SLURM refuses {wanted - taken} of {wanted} jobs: {_last_line(error)}; the others are in "
        "the queue, and the same command submits the rest when SLURM takes them"
    )


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
