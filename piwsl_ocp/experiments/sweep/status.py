"""How far the runs of a sweep are, read from their folders and from SLURM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.run_folder import CONFIG_FILE, RunFolder
from piwsl_ocp.experiments.run_record import RunRecord
from piwsl_ocp.experiments.sweep.slurm_queue import UNKNOWN

#: States that change by themselves, or may do so.
ACTIVE = ("pending", "running", "preempted", "unknown")

_STYLES = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "damaged": "red",
    "interrupted": "yellow",
}


@dataclass(frozen=True)
class RunStatus:
    """The state of one run.

    Attributes:
        name: name of the run folder.
        state: planned, pending, running, finished, failed, interrupted, preempted, damaged, or
            unknown where only SLURM knows it and does not answer.
        step: last logged step.
        steps: steps of the whole training, None where that is not known.
        seconds_left: estimate from the time of the steps so far; not a number if unknown.
        metric: the primary metric at the last validation; not a number before it.
        note: why it failed or waits.
    """

    name: str
    state: str
    step: int = 0
    steps: int | None = None
    seconds_left: float = math.nan
    metric: float = math.nan
    note: str = ""


def steps_of(config: Mapping[str, Any]) -> int | None:
    """Return the steps of a training, None if its length is given in epochs."""
    return (config.get("optim") or {}).get("max_steps")


def steps_done(run_folder: Path | str) -> int:
    """Return the last logged step of a run, 0 if it has not begun."""
    if not (Path(run_folder) / CONFIG_FILE).is_file():
        return 0
    return RunFolder(Path(run_folder)).last_step


def status_of_jobs(jobs: Sequence[Job], slurm: Mapping[Path, Any] | None = None) -> list[RunStatus]:
    """Return the state of planned runs, finished ones included.

    Args:
        jobs: the runs.
        slurm: states of their SLURM jobs, see `slurm_runs.states_of_runs`.
    """
    return [
        _status(
            Path(job.run_folder), not job.missing_measurements, steps_of(job.config), slurm or {}
        )
        for job in jobs
    ]


def status_of_folder(root: Path | str, slurm: Mapping[Path, Any] | None = None) -> list[RunStatus]:
    """Return the state of every run in a folder of run folders.

    Raises:
        UserError: if there is no such folder.
    """
    return [_status(folder, True, None, slurm or {}) for folder in run_folders(root)]


def run_folders(root: Path | str) -> list[Path]:
    """Return the folders below `root` in which a run was begun or handed to SLURM.

    Raises:
        UserError: if there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no folder '{root}': name an experiment, or the folder of its runs")
    return [
        path
        for path in sorted(root.iterdir())
        if (path / CONFIG_FILE).is_file() or RunRecord(path).folder.is_dir()
    ]


def table(statuses: Sequence[RunStatus], title: str = "", note: str = "") -> Group:
    """Return the states as a table for the terminal, with the notes below.

    Args:
        statuses: of the runs.
        title: name of the experiment, where they are those of one.
        note: a last line about all of them.
    """
    table = Table(title=escape(title) or None)
    table.add_column("run", overflow="fold")
    for name in ("state", "step", "left", "validation"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for status in statuses:
        steps = "" if status.steps is None else f" of {status.steps}"
        table.add_row(
            status.name,
            f"[{_STYLES.get(status.state, 'dim')}]{status.state}",
            f"{status.step}{steps}",
            _duration(status.seconds_left),
            "" if math.isnan(status.metric) else f"{status.metric:.4g}",
        )
    counts = {status.state: 0 for status in statuses}
    for status in statuses:
        counts[status.state] += 1
    table.caption = ", ".join(f"{count} {state}" for state, count in counts.items())
    notes = [Text(f"{status.name}: {status.note}") for status in statuses if status.note]
    if note:
        notes.append(Text(note))
    return Group(table, *notes)


def is_active(statuses: Sequence[RunStatus]) -> bool:
    """Return whether any run goes on by itself, or may do so."""
    return any(status.state in ACTIVE for status in statuses)


def may_be_queued(statuses: Sequence[RunStatus]) -> bool:
    """Return whether a run may be in the queue of a local sweep, of which nothing is kept."""
    return any(
        status.state == "planned" or (status.state == "interrupted" and not status.note)
        for status in statuses
    )


def _status(
    folder: Path, measured: bool, steps: int | None, slurm: Mapping[Path, Any]
) -> RunStatus:
    try:
        return _read_status(folder, measured, steps, slurm)
    except UserError as error:
        return RunStatus(folder.name, "damaged", steps=steps, note=str(error))


def _read_status(
    folder: Path, measured: bool, steps: int | None, slurm: Mapping[Path, Any]
) -> RunStatus:
    begun = (folder / CONFIG_FILE).is_file()
    finished = begun and measured and RunFolder(folder).is_finished
    state, note = ("finished", "") if finished else _state(folder, begun, slurm)
    if not begun:
        return RunStatus(folder.name, state, steps=steps, note=note)
    run = RunFolder(folder)
    if finished and run.has_result():
        run.result()  # a damaged one is told
    steps = steps if steps is not None else steps_of(run.config)
    step, (seconds_per_step, metric) = run.last_step, _logged(run)
    left = max(0, steps - step) * seconds_per_step if steps and not finished else math.nan
    return RunStatus(folder.name, state, step, steps, left, metric, note)


def _state(folder: Path, begun: bool, slurm: Mapping[Path, Any]) -> tuple[str, str]:
    """Return the state of a run that is not finished, and a note."""
    record = RunRecord(folder)
    if record.is_worked_on:
        return "running", ""
    if record.failure is not None:
        return "failed", record.failure.reason
    job = slurm.get(folder)
    if job == UNKNOWN:
        return "unknown", ""
    if job is not None and job.is_active:
        if job.word == "PENDING":
            return ("preempted" if begun else "pending"), job.reason
        return "running", job.word.lower()
    if job is not None and not job.is_active:
        return "interrupted", job.explanation
    return ("interrupted" if begun else "planned"), ""


def _logged(run: RunFolder) -> tuple[float, float]:
    """Return seconds per step and the last validation metric, not a number where unknown."""
    try:
        validation = run.metrics("val")
    except UserError:
        return math.nan, math.nan
    if not len(validation) or run.primary_metric not in validation:
        return math.nan, math.nan
    return run.seconds_per_step, float(validation[run.primary_metric].iloc[-1])


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
