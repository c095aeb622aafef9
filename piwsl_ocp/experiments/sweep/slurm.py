"""Runs as jobs of SLURM, submitted as arrays with submitit."""

from __future__ import annotations

import json
import math
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

import submitit
from filelock import FileLock, Timeout
from submitit.core.utils import FailedJobError, FailedSubmissionError

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job, to_json
from piwsl_ocp.experiments.processes import ENVIRONMENT
from piwsl_ocp.experiments.run_record import Failure, RunRecord, SlurmJob, last_lines
from piwsl_ocp.experiments.sweep import slurm_queue
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.slurm_job import SlurmRun
from piwsl_ocp.experiments.sweep.slurm_queue import JobState
from piwsl_ocp.experiments.sweep.slurm_runs import (
    RUNS_FILE,
    SUBMISSIONS,
    jobs_of_runs,
    keep_lost_jobs,
)

#: Seconds to wait for another process that submits runs of the same folder.
_LOCK_SECONDS = 600.0

#: Looks at the queue that must agree on a job's end: a job on its way back looks ended for a while.
_LOOKS = 3
#: Looks before a job without an error is said to have left no result, a minute as a rule: a network
#: file system may keep for half a minute that a file is not there.
_LOOKS_FOR_RESULT = 12

#: What sbatch says where SLURM does not answer.
_SILENCE = re.compile("unable to contact|timed out|connection refused", re.IGNORECASE)

#: Bytes of free space below which a disk counts as full.
_FULL_DISK = 2**20


class SlurmLauncher:
    """Makes runs as jobs of SLURM; jobs of an earlier call that wait or run are taken over.

    Args:
        profile: what each job asks for.
        cancel_on_interrupt: asked on Ctrl-C whether the jobs are to be cancelled; else they go on.
        poll_seconds: between two looks at the queue.
    """

    killed = ()

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
        self._unsent: dict[str, Job] = {}
        self._withdrawn: list[str] = []
        self._has_sent = False
        self._last_array: str | None = None
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
        self._unsent.clear()
        watched, self._watched = self._watched, {}
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._cancel_on_interrupt():
            slurm_queue.cancel([run.slurm_job.number for run in watched.values()])

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit what is not in the queue yet: as one array, or as few as SLURM's limit allows.

        SLURM limits the jobs at a time within each array alone. So of several arrays each begins
        when the one before has ended, unless the profile lets all jobs run at once.

        Where SLURM does not answer, jobs after the first ones wait for one of the next looks.

        Raises:
            UserError: if SLURM refuses jobs or does not answer; what it took before goes on.
        """
        self._unsent |= {job.run_folder: job for job in jobs}
        try:
            self._send()
        except slurm_queue.SlurmSilent:
            if not self._has_sent:
                raise

    def _send(self) -> None:
        """Submit what waits for that."""
        jobs = list(self._unsent.values())
        if not jobs:
            return
        root = Path(jobs[0].run_folder).parent
        with _only_one_that_submits(root):
            keep_lost_jobs(root)
            found = self._active(jobs)
            found |= self._submit([job for job in jobs if job.run_folder not in found])
        seconds = _LOOKS_FOR_RESULT * self.poll_seconds
        for job in jobs:
            self._watched[job.run_folder] = _Watched(job, found[job.run_folder], seconds)
        self._unsent.clear()

    def ended(self) -> dict[str, Failure | None]:
        """Return the runs that ended since the last look; none where SLURM does not answer."""
        with suppress(slurm_queue.SlurmSilent):
            self._send()
            self._cancel_stopped()
            known = slurm_queue.states(
                run.slurm_job for run in self._watched.values() if not run.job.is_done
            )
            for run in self._watched.values():
                run.look(known.get(run.slurm_job))
        found = {f: run.failure for f, run in self._watched.items() if run.has_ended}
        for folder in found:
            del self._watched[folder]
        found |= dict.fromkeys(self._withdrawn)
        self._withdrawn.clear()
        return found

    def stop(self, run_folder: str) -> None:
        """Cancel the job of one run, which saves; if SLURM is silent, at one of the next looks."""
        if self._unsent.pop(run_folder, None):
            self._withdrawn.append(run_folder)
        elif run_folder in self._watched:
            self._watched[run_folder].to_be_stopped = True
            with suppress(slurm_queue.SlurmSilent):
                self._cancel_stopped()

    def _cancel_stopped(self) -> None:
        runs = [r for r in self._watched.values() if r.to_be_stopped and not r.is_cancelled]
        slurm_queue.cancel([run.slurm_job.number for run in runs])
        for run in runs:
            run.is_cancelled = True

    def _active(self, jobs: Sequence[Job]) -> dict[str, SlurmJob]:
        """Return the SLURM job of each run that has one that waits or runs, by run folder."""
        found = jobs_of_runs([job.run_folder for job in jobs])
        known = slurm_queue.states(found.values())
        return {f: job for f, job in found.items() if job in known and known[job].is_active}

    def _submit(self, jobs: Sequence[Job]) -> dict[str, SlurmJob]:
        """Submit runs and return their SLURM jobs by run folder."""
        if not jobs:
            return {}
        cores = self.profile.tasks_per_node * self.profile.cpus_per_task
        slurm_queue.check_fits(self.profile.partition, cores)
        size = slurm_queue.largest_array()
        in_turn = self.profile.array_parallelism < len(jobs)
        submitted: dict[str, SlurmJob] = {}
        for start in range(0, len(jobs), size):
            try:
                before = self._last_array if in_turn else None
                array = self._submit_array(jobs[start : start + size], before)
            except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
                if _SILENCE.search(_last_line(error)):
                    silence = f"SLURM does not answer: {_last_line(error)}"
                    raise slurm_queue.SlurmSilent(silence) from None
                raise UserError(_refusal(error, len(jobs), len(submitted))) from None
            submitted |= array
            self._last_array = next(iter(array.values())).number.split("_")[0]
            self._has_sent = True
        return submitted

    def _submit_array(self, jobs: Sequence[Job], before: str | None) -> dict[str, SlurmJob]:
        """Submit runs as one array that begins when the array `before` has ended."""
        # A folder of its own for each submission: a new cluster gives old job numbers again.
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"{now}-{secrets.token_hex(3)}"
        folder = Path(jobs[0].run_folder).parent / SUBMISSIONS / name
        runs = json.dumps([job.name for job in jobs])
        write_atomically(folder / RUNS_FILE, lambda file: file.write(runs.encode()))
        executor = self._executor(folder, before)
        with executor.batch():
            submitted = [executor.submit(SlurmRun(to_json([job]))) for job in jobs]
        found = {
            job.run_folder: SlurmJob(one.job_id, name)
            for job, one in zip(jobs, submitted, strict=True)
        }
        for run_folder, slurm_job in found.items():
            RunRecord(run_folder).keep_slurm_job(slurm_job)
        return found

    def _executor(self, folder: Path, before: str | None) -> submitit.AutoExecutor:
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
            # submitit would give every job the port that this process was given
            slurm_setup=["unset MASTER_PORT", *self.profile.setup, *exports],
            slurm_srun_args=["--kill-on-bad-exit=1"],
            **parameters,
        )
        return executor


@dataclass
class _Watched:
    """A run whose job this process waits for.

    Attributes:
        job: the run.
        slurm_job: that makes it.
        seconds_for_result: after the end of a job without an error, in which a result may appear.
        looks: how often in succession its job looked ended.
        ended: when it first did so.
        end: how it ended, where SLURM knows it.
        to_be_stopped: whether its job is to be cancelled.
        is_cancelled: whether SLURM was told so.
    """

    job: Job
    slurm_job: SlurmJob
    seconds_for_result: float
    looks: int = 0
    ended: float = math.inf
    end: JobState | None = None
    to_be_stopped: bool = False
    is_cancelled: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether the run is finished, or its job will not run again."""
        if self.job.is_done:
            return True
        without_error = self.end is None or self.end.word == "COMPLETED"
        needed = self.seconds_for_result if without_error and not self.to_be_stopped else 0.0
        return self.looks >= _LOOKS and time.monotonic() - self.ended >= needed

    @property
    def failure(self) -> Failure | None:
        """Why an ended run is not finished; None if it is, or was stopped."""
        if self.to_be_stopped or self.job.is_done:
            return None
        return _failure(self.job, self.slurm_job, self.end)

    def look(self, state: JobState | None) -> None:
        """Take note of what SLURM says of the job."""
        if state is not None and state.is_active:
            self.looks, self.end = 0, None
            return
        if not self.looks:
            self.ended = time.monotonic()
        self.looks += 1
        self.end = state or self.end


@contextmanager
def _only_one_that_submits(root: Path) -> Iterator[None]:
    """Let one process at a time submit runs of a folder; the next one finds their jobs.

    Raises:
        UserError: if another process does not end with that, or the folder cannot be written.
    """
    folder = root / SUBMISSIONS
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise UserError(
            f"another process submits runs of '{root}', for more than {_LOCK_SECONDS:.0f} s: wait "
            "for it, or stop it first"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write to '{folder}': {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


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


def _failure(job: Job, slurm_job: SlurmJob, end: JobState | None) -> Failure:
    """Return why a job that has ended left its run unfinished."""
    kept = RunRecord(job.run_folder).failure
    if kept is not None:
        return kept
    root = Path(job.run_folder).parent
    if shutil.disk_usage(root).free < _FULL_DISK:
        return Failure(f"the disk of '{root}' is full: free space there", is_passing=True)
    explanation = end.explanation if end else "its job vanished, and SLURM keeps no account of it"
    return Failure(
        f"{explanation} (SLURM job {slurm_job.number}); the same command goes on with it",
        last_lines(_log(root, slurm_job)),
        is_passing=True,
    )


def _log(root: Path, job: SlurmJob) -> str:
    """Return what a job wrote to its error stream."""
    path = f"{job.submission or '*'}/{job.number}/{job.number}_0_log.err"
    files = sorted((root / SUBMISSIONS).glob(path))
    return files[-1].read_text(errors="replace") if files else ""
