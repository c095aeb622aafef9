"""The SLURM jobs of runs: which they are, what became of them, and how to cancel them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from piwsl_ocp.experiments.run_record import RunRecord, SlurmJob
from piwsl_ocp.experiments.sweep import slurm_queue
from piwsl_ocp.experiments.sweep.slurm_queue import JobState

#: Folder beside the run folders for scripts, logs and pickles of the jobs.
SUBMISSIONS = ".slurm"

#: In the folder of each submission: the names of its runs, in the order of the array.
RUNS_FILE = "runs.json"


def cancel_runs(folders: Sequence[Path | str]) -> int:
    """Cancel the SLURM jobs of runs that wait or run, and return how many there were.

    Raises:
        UserError: if SLURM is missing or does not answer.
    """
    slurm_queue.require_slurm()
    for root in {Path(folder).parent for folder in folders}:
        keep_lost_jobs(root)
    known = slurm_queue.states(jobs_of_runs(folders).values())
    active = sorted({job.number for job, state in known.items() if state.is_active})
    slurm_queue.cancel(active)
    return len(active)


def states_of_runs(folders: Sequence[Path | str]) -> dict[Path, JobState]:
    """Return the states of the SLURM jobs of runs by run folder, as far as SLURM knows them.

    Raises:
        SlurmSilent: if SLURM does not answer.
    """
    jobs = jobs_of_runs(folders)
    known = slurm_queue.states(jobs.values())
    return {Path(folder): known[job] for folder, job in jobs.items() if job in known}


class LastStates:
    """The states of the SLURM jobs of runs as SLURM last told them.

    Attributes:
        silence: why SLURM did not answer at the last look; empty if it did.
    """

    def __init__(self) -> None:
        self.silence = ""
        self._last: dict[Path, JobState | None] = {}

    def look(self, folders: Sequence[Path | str]) -> dict[Path, JobState]:
        """Return the states by run folder; if SLURM is silent, those of the look before."""
        given = [Path(folder) for folder in jobs_of_runs(folders)]
        try:
            known = states_of_runs(folders)
            self._last = {folder: known.get(folder) for folder in given}
            self.silence = ""
        except slurm_queue.SlurmSilent as error:
            self._last = {f: self._last.get(f, slurm_queue.UNKNOWN) for f in given}
            self.silence = str(error)
        return {folder: state for folder, state in self._last.items() if state is not None}


def jobs_of_runs(folders: Sequence[Path | str]) -> dict[Path | str, SlurmJob]:
    """Return the SLURM jobs of the runs that were given to one, by run folder."""
    return {folder: job for folder in folders if (job := RunRecord(folder).slurm_job)}


def keep_lost_jobs(root: Path) -> None:
    """Keep the jobs in the queue whose process was ended after SLURM took and before it kept them.

    Raises:
        SlurmSilent: if SLURM does not answer.
    """
    for number, state in slurm_queue.queue().items():
        script = re.search(rf"/{re.escape(SUBMISSIONS)}/([^/|]+)/", state.script)
        task = re.fullmatch(r"\d+(?:_(\d+))?", number)
        path = root / SUBMISSIONS / script[1] / RUNS_FILE if script else root
        if not (task and state.is_active and path.is_file()):
            continue
        record = RunRecord(root / json.loads(path.read_text())[int(task[1] or 0)])
        if record.slurm_job != (job := SlurmJob(number, path.parent.name)):
            record.keep_slurm_job(job)
