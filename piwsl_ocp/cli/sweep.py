"""The commands `piwsl sweep run`, `status`, `table` and `cancel`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from piwsl_ocp.errors import UserError

#: Seconds that may pass between two runs of a queue on this machine, for a process to start.
QUEUE_SECONDS = 60.0

console = Console(highlight=False)
app = typer.Typer(help="Many runs, here or on SLURM.", no_args_is_help=True)

Experiment = Annotated[Path, typer.Argument(help="YAML file with name, grid, set, measurements.")]
What = Annotated[Path, typer.Argument(help="File of an experiment, or folder of run folders.")]
Runs = Annotated[Path, typer.Option(help="Folder of the run folders.")]


class LauncherName(str, Enum):
    """Where runs are made."""

    local = "local"
    slurm = "slurm"


class OnInterrupt(str, Enum):
    """What becomes of SLURM jobs on Ctrl-C."""

    leave = "leave"
    cancel = "cancel"


WhereToTrain = Annotated[LauncherName, typer.Option(help="Where to train.")]
Parallel = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at a time. Default: one for each GPU or core; the profile's."),
]
Profile = Annotated[
    str | None,
    typer.Option(help="What a SLURM job asks for: cpu, a100, or a YAML file. Default: cpu."),
]
WhenInterrupted = Annotated[
    OnInterrupt | None,
    typer.Option(help="SLURM jobs on Ctrl-C. Default: ask on a terminal, else leave."),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Go on with runs that failed before.")
]


@app.command()
def run(
    experiment: Experiment,
    launcher: WhereToTrain = LauncherName.local,
    runs: Runs = Path("runs"),
    parallel: Parallel = None,
    profile: Profile = None,
    retry_failed: RetryFailed = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and what is wrong with them; no more.")
    ] = False,
    on_interrupt: WhenInterrupted = None,
) -> None:
    """Make the runs of an experiment. What is finished is kept; the same command goes on."""
    from piwsl_ocp.experiments.sweep.plan import name_of, read_experiment
    from piwsl_ocp.experiments.sweep.run import run as run_sweep

    made_by = make_launcher(launcher, parallel, profile, on_interrupt)
    jobs = read_experiment(experiment, runs)
    if dry_run:
        if not _show_plan(name_of(experiment), jobs):
            raise typer.Exit(1)
        return
    console.print(
        f"{len(jobs)} runs in {runs}, {sum(job.is_done for job in jobs)} of them finished"
    )
    try:
        outcome = run_sweep(jobs, made_by, console, retry_failed=retry_failed)
    except KeyboardInterrupt:
        say_how_to_go_on(launcher, f"{experiment} --runs {runs}", made_by.killed)
        raise
    outcome.show(console)
    if not outcome.is_complete:
        raise typer.Exit(1)


@app.command()
def status(
    what: What,
    runs: Runs = Path("runs"),
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again until nothing runs any more.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
) -> None:
    """Show how far the runs are: state, step, remaining time, last validation metric."""
    from piwsl_ocp.experiments.sweep.plan import name_of
    from piwsl_ocp.experiments.sweep.status import is_active, may_be_queued, table

    look = _looker(what, runs)
    title = "" if what.is_dir() else name_of(what)
    statuses, silence = look()
    if not watch:
        console.print(table(statuses, title, silence))
        return
    with Live(table(statuses, title, silence), console=console, auto_refresh=False) as live:
        active = time.monotonic()
        while True:
            if is_active(statuses):
                active = time.monotonic()
            elif not may_be_queued(statuses) or time.monotonic() - active > QUEUE_SECONDS:
                break
            time.sleep(interval)
            statuses, silence = look()
            live.update(table(statuses, title, silence), refresh=True)


@app.command()
def table(
    experiment: Experiment,
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option("--csv", help="CSV file to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
) -> None:
    """Show the results: a row for each point of the grid, mean and spread over the seeds."""
    from piwsl_ocp.atomic_file import require_absent, write_atomically
    from piwsl_ocp.experiments.sweep.plan import name_of
    from piwsl_ocp.experiments.sweep.table import csv_text, notes, read_points, terminal_table

    if out is not None and not overwrite:
        require_absent(out)
    points = read_points(experiment, runs)
    console.print(terminal_table(points, console.width, name_of(experiment)))
    for note in notes(points):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if out is not None:
        write_atomically(out, lambda file: file.write(csv_text(points).encode()))


@app.command()
def cancel(what: What, runs: Runs = Path("runs")) -> None:
    """Cancel the SLURM jobs of the runs; what they saved stays."""
    from piwsl_ocp.experiments.sweep.slurm_runs import cancel_runs

    console.print(f"{cancel_runs(_folders(what, runs))} SLURM jobs cancelled")


def make_launcher(
    name: LauncherName,
    parallel: int | None,
    profile: str | None,
    on_interrupt: OnInterrupt | None = None,
    usual_profile: str = "cpu",
):
    """Return what makes the runs where the options of a command say.

    Args:
        name: of the launcher.
        parallel: runs at a time, None for what the place or the profile allows.
        profile: of SLURM jobs, None for the usual one.
        on_interrupt: what becomes of SLURM jobs on Ctrl-C, None to ask or leave them.
        usual_profile: where none is asked for.

    Raises:
        UserError: for an option of SLURM without SLURM, or a wrong profile.
    """
    if name is LauncherName.local:
        for option, given in (("--profile", profile), ("--on-interrupt", on_interrupt)):
            if given is not None:
                raise UserError(f"{option} is for SLURM jobs: add --launcher slurm or leave it out")
        from piwsl_ocp.experiments.sweep.local import LocalLauncher

        return LocalLauncher(parallel)
    from piwsl_ocp.experiments.sweep.profile import SlurmProfile
    from piwsl_ocp.experiments.sweep.slurm import SlurmLauncher

    settings = SlurmProfile.read(usual_profile if profile is None else profile)
    if parallel is not None:
        settings = settings.model_copy(update={"array_parallelism": parallel})

    def cancel_jobs() -> bool:
        if on_interrupt is None and sys.stdin.isatty():
            return typer.confirm("\ncancel the SLURM jobs?", default=False)
        return on_interrupt is OnInterrupt.cancel

    return SlurmLauncher(settings, cancel_jobs)


def say_how_to_go_on(launcher: LauncherName, what: str, killed: Sequence[str] = ()) -> None:
    """Say after Ctrl-C what becomes of the runs.

    Args:
        launcher: that made them.
        what: arguments by which `piwsl sweep` finds them.
        killed: runs that did not save in time.
    """
    if launcher is LauncherName.local:
        saved = "the rest" if killed else "everything"
        console.print(f"interrupted: {saved} is saved, the same command goes on")
        say_what_was_killed(killed)
        return
    console.print(
        "interrupted: jobs that were not cancelled go on; the same command waits for them, "
        f"`piwsl sweep status {what}` shows them, `piwsl sweep cancel {what}` cancels them",
        markup=False,
        soft_wrap=True,
    )


def say_what_was_killed(runs: Sequence[str]) -> None:
    """Say which runs did not save in time after Ctrl-C and were ended."""
    for name in runs:
        line = f"killed, for it did not save in time: {name}; it goes on from its last checkpoint"
        console.print(line, markup=False, soft_wrap=True)


def _show_plan(name: str, jobs) -> bool:
    """Show runs and what is wrong with them; return whether nothing is."""
    from piwsl_ocp.experiments.sweep.status import status_of_jobs, table
    from piwsl_ocp.ocp.config import check_config

    console.print(table(status_of_jobs(jobs), name))
    is_right = True
    for job in jobs:
        try:
            check_config(job.config)
        except UserError as error:
            is_right = False
            console.print(f"would fail: {job.name}: {error}", markup=False, soft_wrap=True)
    return is_right


def _looker(what: Path, runs: Path):
    """Return a function that looks at the runs of an experiment or a folder.

    It returns their states, and why SLURM does not answer, if it does not.
    """
    from piwsl_ocp.experiments.sweep.slurm_runs import LastStates
    from piwsl_ocp.experiments.sweep.status import run_folders, status_of_folder, status_of_jobs

    slurm = LastStates()
    if what.is_dir():
        return lambda: (status_of_folder(what, slurm.look(run_folders(what))), slurm.silence)
    from piwsl_ocp.experiments.sweep.plan import read_experiment

    jobs = read_experiment(what, runs)
    folders = [job.run_folder for job in jobs]
    return lambda: (status_of_jobs(jobs, slurm.look(folders)), slurm.silence)


def _folders(what: Path, runs: Path) -> list[Path]:
    from piwsl_ocp.experiments.sweep.plan import read_experiment
    from piwsl_ocp.experiments.sweep.status import run_folders

    if what.is_dir():
        return run_folders(what)
    return [Path(job.run_folder) for job in read_experiment(what, runs)]
