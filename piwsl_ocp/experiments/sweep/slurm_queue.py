"""What SLURM says of jobs, in its own words and in ours."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.run_record import SlurmJob

#: States in which a job will not run again.
_ENDED = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "it was cancelled",
    "COMPLETED": "its job ended without a result",
    "DEADLINE": "its deadline passed",
    "FAILED": "its job was killed or failed without a message",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "out of memory: ask for more memory_gb in the SLURM profile",
    "PREEMPTED": "it was preempted, and this cluster does not requeue",
    "REVOKED": "it was revoked",
    "TIMEOUT": "it ran into the time limit before it could save",
}

#: Seconds that SLURM may take to answer.
_SECONDS = 60

#: Jobs that SLURM takes as one array where it is not set otherwise.
_LARGEST_ARRAY = 1001


class SlurmSilent(UserError):
    """SLURM did not answer; it may do so later."""


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Attributes:
        word: SLURM's word for it.
        reason: why it waits.
        script: path of what it runs; empty where SLURM does not tell.
    """

    word: str
    reason: str = ""
    script: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the job runs or may yet run."""
        return self.word not in _ENDED

    @property
    def explanation(self) -> str:
        """Why a job that has ended may have left its run unfinished."""
        return _ENDED.get(self.word, self.word)


#: The state of a job of which SLURM has not told anything yet.
UNKNOWN = JobState("UNKNOWN")


def require_slurm() -> None:
    """Raise a UserError where SLURM's commands are missing."""
    for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
        if shutil.which(name) is None:
            raise UserError(
                f"SLURM is not installed here: no '{name}' in PATH; use --launcher local"
            )


def states(jobs: Iterable[SlurmJob]) -> dict[SlurmJob, JobState]:
    """Return the states of the jobs that SLURM still knows.

    A job in the queue that has the number of another one, but not its script, is not meant.

    Raises:
        SlurmSilent: if SLURM does not answer.
    """
    wanted = set(jobs)
    if not wanted:
        return {}
    in_queue = queue()
    missing = sorted({job.number for job in wanted} - in_queue.keys())
    known = {**in_queue, **(_accounted(missing) if missing else {})}
    found = {job: known[job.number] for job in wanted if job.number in known}
    return {job: s for job, s in found.items() if not s.script or job.submission in s.script}


def queue() -> dict[str, JobState]:
    """Return the states of the user's jobs in the queue by their numbers.

    Raises:
        SlurmSilent: if SLURM does not answer.
    """
    return parse(
        _ask(
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--user={getpass.getuser()}",
            "--format=%i|%T|%r|%o",
        )
    )


def parse(answer: str) -> dict[str, JobState]:
    """Read lines of job, state, reason and script, separated by |."""
    found = {}
    for line in answer.splitlines():
        job, word, reason, script = (*line.split("|", 3), "", "", "")[:4]
        if word:
            found[job] = JobState(word.split()[0], "" if reason == "None" else reason, script)
    return found


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs."""
    if jobs:
        _ask("scancel", *jobs)


def largest_array() -> int:
    """Return how many jobs SLURM takes as one array; the usual number where it does not answer."""
    with suppress(SlurmSilent):
        found = re.search(
            r"^MaxArraySize *= *(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE
        )
        if found is not None:
            return max(1, int(found[1]))  # 0: it takes none
    return _LARGEST_ARRAY


def check_fits(partition: str | None, cores: int) -> None:
    """Check that a job can ever start; SLURM itself lets one that is too big wait for ever.

    Args:
        partition: one, or several separated by commas, of which SLURM takes the first that is
            free; None for the cluster's default.
        cores: that the job needs on a node.

    Raises:
        UserError: if there is no such partition, or none of its nodes has so many cores.
        SlurmSilent: if SLURM does not answer.
    """
    # --all: hidden partitions take jobs too; whether the user may use one is for sbatch to say.
    ask = ("sinfo", "--all", "--noheader")
    partitions = [name.strip() for name in _ask(*ask, "-o", "%P").splitlines()]
    names = [name.rstrip("*") for name in partitions]
    if partition is None:
        partition = next((name.rstrip("*") for name in partitions if name.endswith("*")), None)
    if partition is None:
        raise UserError(
            "SLURM has no default partition: set `partition` in the profile, one of "
            + ", ".join(names)
        )
    chosen = partition.split(",")
    for name in chosen:
        if name not in names:
            raise UserError(f"SLURM has no partition '{name}': use one of {', '.join(names)}")
    # sinfo takes --all or --partition, not both.
    nodes = (line.split("|") for line in _ask(*ask, "--Node", "-o", "%R|%c").split())
    largest = max((int(count.rstrip("+")) for name, count in nodes if name in chosen), default=0)
    if cores > largest:
        raise UserError(
            f"the SLURM profile asks for {cores} cores on a node, and the largest node of "
            f"partition '{partition}' has {largest}: lower cpus_per_task or tasks_per_node"
        )


def _accounted(jobs: Sequence[str]) -> Mapping[str, JobState]:
    """Return what the accounting knows; nothing on a cluster that has none."""
    command = ("--noheader", "--allocations", "--parsable2", "--format=JobID,State")
    try:
        return parse(_ask("sacct", *command, f"--jobs={','.join(jobs)}"))
    except SlurmSilent:
        return {}


def _ask(*command: str) -> str:
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmSilent(f"SLURM does not answer: {error}") from None
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise SlurmSilent(f"SLURM does not answer: {reason}")
    return answer.stdout
