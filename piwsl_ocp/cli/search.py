"""The commands `piwsl search run` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from piwsl_ocp.cli.sweep import (
    LauncherName,
    Profile,
    Runs,
    WhenInterrupted,
    WhereToTrain,
    make_launcher,
    say_what_was_killed,
)

console = Console(highlight=False)
app = typer.Typer(
    help="Search for the best values of settings with Optuna, on validation data alone.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(help="YAML file with name, config, space, trials and more.")]


@app.command()
def run(
    file: File,
    launcher: WhereToTrain = LauncherName.local,
    runs: Runs = Path("runs"),
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trials at a time. Default: one for each core, or the profile's, but at most a "
            "quarter of all, for they learn from those before.",
        ),
    ] = None,
    profile: Profile = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the best configuration here, too.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file, show what would be done; no more.")
    ] = False,
    on_interrupt: WhenInterrupted = None,
) -> None:
    """Train with values that Optuna draws, stop hopeless trials, write best.yml and search.html.

    Trials are judged by the primary validation metric; test data are never looked at. The same
    command goes on with a search that was interrupted, or whose file now wants more trials.
    """
    from piwsl_ocp.experiments.search.plan import read_search
    from piwsl_ocp.experiments.search.result import require_own_or_new

    plan = read_search(file, runs)
    in_queue = parallel and parallel * len(plan.search.seeds)
    made_by = make_launcher(launcher, in_queue, profile, on_interrupt)
    if out is not None and not overwrite:
        require_own_or_new(plan, out)
    if dry_run:
        _show_plan(plan)
        return
    try:
        _search(plan, made_by, parallel, out)
    except KeyboardInterrupt:
        _say("interrupted: what was done is saved, the same command goes on")
        say_what_was_killed(made_by.killed)
        if launcher is LauncherName.slurm:
            _say(f"jobs that were not cancelled go on: `piwsl sweep cancel {plan.folder}`")
        raise


@app.command()
def status(file: File, runs: Runs = Path("runs")) -> None:
    """Show the trials of a search, the best first."""
    from piwsl_ocp.experiments.search.plan import read_search
    from piwsl_ocp.experiments.search.status import table
    from piwsl_ocp.experiments.search.study import is_open, read_study

    plan = read_search(file, runs)
    console.print(table(plan, read_study(plan), is_open(plan)))


def _search(plan, launcher, parallel: int | None, out: Path | None) -> None:
    from optuna.trial import TrialState

    from piwsl_ocp.experiments.search.page import PAGE, write_page
    from piwsl_ocp.experiments.search.result import RESULT, counts, write_result
    from piwsl_ocp.experiments.search.run import run as run_search
    from piwsl_ocp.experiments.search.study import best_of, open_study, trials_of

    results = [plan.folder / RESULT, *([out] if out else [])]
    with open_study(plan) as study:

        def write() -> None:
            write_result(plan, study, *results)
            write_page(plan, study)

        _say(f"{counts(study) or 'no trial yet'}, {plan.search.trials} wanted, in {plan.folder}")
        run_search(plan, study, launcher, console, parallel=parallel, on_end=write)
        write()
        _say(f"{counts(study)}; {plan.folder / PAGE}")
        left = len(trials_of(study, TrialState.RUNNING))
        if left:
            _say(f"the same command goes on with {left} trials that were set aside")
        best = best_of(study)
        if best is None:
            _say(f"no trial is finished: `piwsl search status {plan.file}` says why")
            raise typer.Exit(1)
        _say(f"best: trial {best.number}, {plan.metric} {best.value:.4g} on validation, made in")
        for job in plan.jobs(best.params):
            _say(f"  {job.run_folder}")
        _say(f"train with it: piwsl train {results[-1]}")
        if left:
            raise typer.Exit(1)


def _show_plan(plan) -> None:
    search = plan.search
    seeds = ", ".join(str(seed) for seed in search.seeds)
    steps = "" if plan.steps is None else f", {plan.steps} steps each"
    _say(f"{search.trials} trials with seed {seeds}{steps}, in {plan.folder}")
    for key, values in search.space.items():
        found = values.model_dump(exclude_unset=True)
        _say(f"{key}: " + ", ".join(f"{name} {value}" for name, value in found.items()))
    _say(f"judged by {plan.metric} on validation; stopped from step {plan.warmup_steps} on")


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
