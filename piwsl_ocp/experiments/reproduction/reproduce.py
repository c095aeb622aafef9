"""Make the runs of some tables, keep their results, and show the tables beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.reproduction.comparison import fill
from piwsl_ocp.experiments.reproduction.pages import terminal_tables
from piwsl_ocp.experiments.reproduction.plan import Jobs, Plan, duration, jobs_of, plan
from piwsl_ocp.experiments.reproduction.published import PaperTable
from piwsl_ocp.experiments.reproduction.results import (
    Results,
    collect,
    file_of,
    read_all,
    require_writable,
)
from piwsl_ocp.experiments.reproduction.scales import Scale, find_scale, scale_names
from piwsl_ocp.experiments.reproduction.step_times import measure, times_name
from piwsl_ocp.experiments.reproduction.step_times import write as write_times
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.sweep.run import Launcher
from piwsl_ocp.experiments.sweep.run import run as sweep


@dataclass(frozen=True)
class Folders:
    """Where things are.

    Attributes:
        runs: run folders.
        results: small files of results, to be kept with the code.
        data: converted data sets.
        source: raw files from which missing data sets are made, None to make none.
    """

    runs: Path
    results: Path
    data: Path
    source: Path | None = None


class Reproduction:
    """Tables of the paper at one scale.

    Args:
        tables: of the paper.
        scale: of our runs.
        folders: where things are.
        console: where to say what happens.
        seeds: runs of each training, that of the scale by default.
        models: train these alone; all by default.
        missing_only: leave runs alone that have a kept result, with or without a run folder.
        time_again: time steps anew whose times are kept.

    Raises:
        UserError: if a model is unknown, or none of its cells can be run.
    """

    def __init__(
        self,
        tables: Sequence[PaperTable],
        scale: Scale,
        folders: Folders,
        console: Console,
        seeds: int | None = None,
        models: Sequence[str] = (),
        missing_only: bool = False,
        time_again: bool = False,
    ) -> None:
        self.tables = tables
        self.scale = scale
        self.folders = folders
        self.console = console
        self.missing_only = missing_only
        self.time_again = time_again
        self.plan: Plan = plan(tables, scale, seeds).of_models(models)
        if models and not self.plan.runnable:
            raise UserError(f"nothing to run with {' or '.join(models)} here at this scale")

    def show_jobs(self) -> None:
        """Print every run, whether it is there, and what cannot be run or lacks its data."""
        jobs = self._jobs(convert=False)
        for job in jobs.jobs:
            self._print(f"{_state(job):12} {job.run_folder}")
        for row in self.plan.timed:
            state = "to time" if row in jobs.to_time else "timed"
            self._print(f"{state:12} {times_name(row)}")
        self._print_missing(jobs)

    def run(self, launcher: Launcher, retry_failed: bool = False) -> bool:
        """Make what is missing and keep the results; a run that fails leaves the others alone.

        Args:
            launcher: where to train.
            retry_failed: go on with runs that failed before.

        Returns:
            Whether every run is finished; not where a data set is missing.

        Raises:
            UserError: if results cannot be kept.
            KeyboardInterrupt: when everything is saved.
        """
        require_writable(self.folders.results, self.scale.name)
        jobs = self._jobs(convert=True)
        self._print_missing(jobs)
        finished = sum(job.is_done for job in jobs.jobs)
        again = sum(self._has_result(job) and not job.is_begun for job in jobs.jobs)
        if again:
            lack = "not all measurements and" if self.missing_only else "but"
            advice = "" if self.missing_only else "--missing leaves them alone; "
            self._print(
                f"{again} of the runs have a kept result {lack} no run folder and are made again: "
                f"--report-only shows what is kept; {advice}"
                "--results FOLDER keeps the new ones elsewhere"
            )
        self._print(
            f"{finished} of {len(jobs.jobs)} runs are finished, in {self.folders.runs}: "
            "the same command goes on after Ctrl-C"
        )
        try:
            outcome = sweep(jobs.jobs, launcher, self.console, retry_failed=retry_failed)
        finally:
            for line in collect_if_there(self.folders):
                self._print(f"note: {line}")
        outcome.show(self.console)
        self._time_steps(jobs)
        return outcome.is_complete and not jobs.missing_data

    def show_tables(self) -> None:
        """Print the tables from the kept results."""
        results = read_all(self.folders.results, self.scale.name)
        for line in results.problems:
            self._print(f"note: {line}")
        for table in self.tables:
            filled = fill(table, self.scale, results, self.plan.seeds)
            self.console.print(*terminal_tables(filled, self.console.width))

    def _time_steps(self, jobs: Jobs) -> None:
        """Time the steps of rows that are not trained, on this machine, and keep the times."""
        kept = len(self.plan.timed) - len(jobs.to_time)
        if kept:
            self._print(f"times of {kept} rows are kept: --time-again measures them anew")
        for row in jobs.to_time:
            if row[0].data.name in jobs.missing_data:
                continue
            self._print(f"timing steps in turn: {times_name(row)}")
            write_times(measure(row, self.folders.data), self.folders.results)

    def _jobs(self, convert: bool) -> Jobs:
        kept = read_all(self.folders.results, self.scale.name)
        return jobs_of(
            self.plan,
            self.folders.data,
            self.folders.runs,
            self.folders.source,
            self._print,
            kept=kept if self.missing_only else None,
            timed=() if self.time_again else kept.timed,
            convert=convert,
        )

    def _has_result(self, job: Job) -> bool:
        return file_of(self.folders.results, self.scale.name, job.name).is_file()

    def _print_missing(self, jobs: Jobs) -> None:
        for reason, cells in self.plan.left_out.items():
            self._print(f"not run: {len(cells)} cells, {reason}")
        for name in self.plan.unmeasurable:
            self._print(f"not measured: this version has no measurement '{name}'")
        for name, reason in jobs.missing_data.items():
            self._print(f"no data set {name}: {reason}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)


def collect_if_there(folders: Folders) -> list[str]:
    """Keep the results of all finished runs; see `results.collect`."""
    return collect(folders.runs, folders.results) if folders.runs.is_dir() else []


def overview(
    tables: Sequence[PaperTable],
    results: Path,
    seeds: int | None = None,
    models: Sequence[str] = (),
) -> Table:
    """Return a table of tables: cells, runs, what is finished, and the cost of the rest.

    Args:
        tables: of the paper.
        results: folder of the kept results.
        seeds: runs of each training, those of each scale by default.
        models: count these alone; all by default.

    Raises:
        UserError: if a model is unknown.
    """
    shown = Table(
        title="The tables of the paper",
        caption=(
            "cells: that can be run at the scale, of all; runs: with a result, of all; runs shared "
            "by tables are counted in each. Cost: what is left, one run after the other; * holds "
            "estimates, ~ is nothing but estimates. cpu: one core; paper: one A100."
        ),
        caption_justify="left",
        expand=True,
        padding=(0, 0, 0, 1),
    )
    shown.add_column("table", no_wrap=True, ratio=1)
    for name in scale_names():
        for heading in (f"{name}\ncells", "runs", "cost"):
            shown.add_column(heading, justify="right", no_wrap=True)
    at_scale = [(find_scale(name), read_all(results, name)) for name in scale_names()]

    def columns(some: Sequence[PaperTable]) -> list[str]:
        plans = [(plan(some, scale, seeds).of_models(models), found) for scale, found in at_scale]
        return [text for needed, found in plans for text in _summary(needed, found)]

    for table in tables:
        shown.add_row(table.short_heading, *columns([table]))
    shown.add_section()
    shown.add_row("all, each run once", *columns(tables))
    return shown


def _summary(needed: Plan, results: Results) -> list[str]:
    if not needed.runnable:
        return [f"0/{needed.cells}", "–", "–"]
    seconds, guesses = needed.seconds(results)
    kinds = len(needed.wanted) + len(needed.timed)
    mark = "" if not guesses else "~" if guesses == kinds else "*"
    done = f"{needed.finished(results)}/{needed.runs}"
    cost = f"{mark}{duration(seconds)}" if seconds else "done"
    return [f"{needed.runnable}/{needed.cells}", done, cost]


def _state(job: Job) -> str:
    if job.is_done:
        return "done"
    if job.is_trained:
        return "to measure"
    if not job.is_begun:
        return "to do"
    try:
        return f"at {RunFolder(Path(job.run_folder)).last_step}"
    except UserError:
        return "damaged"
