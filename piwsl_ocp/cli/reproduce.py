"""The commands `piwsl reproduce` and `piwsl report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from piwsl_ocp.cli.sweep import (
    LauncherName,
    Parallel,
    RetryFailed,
    Runs,
    WhenInterrupted,
    WhereToTrain,
    make_launcher,
    say_how_to_go_on,
)
from piwsl_ocp.errors import UserError

console = Console(highlight=False)

Results = Annotated[Path, typer.Option(help="Folder of the kept results.")]
ScaleName = Annotated[
    str, typer.Option("--scale", help="cpu: small models and samples; paper: as published.")
]
ScaleProfile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="What a SLURM job asks for: cpu, a100, or a YAML file. Default: cpu at cpu scale, "
        "a100 at paper scale.",
    ),
]


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="Such as 1, A4, table_1, figure_2, or all.")
    ] = None,
    scale: ScaleName = "cpu",
    runs: Runs = Path("runs/reproduce"),
    results: Results = Path("results"),
    data: Annotated[Path, typer.Option(help="Folder of the converted data sets.")] = Path("data"),
    data_source: Annotated[
        Path | None, typer.Option(help="Folder of raw files; missing data sets are made of them.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs of each training. Default: 2 (cpu), 3 (paper).")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Train this model alone. Repeatable. Default: all.")
    ] = None,
    launcher: WhereToTrain = LauncherName.local,
    parallel: Parallel = None,
    profile: ScaleProfile = None,
    retry_failed: RetryFailed = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Leave runs alone whose result is kept already.")
    ] = False,
    time_again: Annotated[
        bool,
        typer.Option("--time-again", help="Time steps anew (Table A9) whose times are kept."),
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Show tables, runs and costs at each scale.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and what they lack, train nothing.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Show the table from the kept results.")
    ] = False,
    on_interrupt: WhenInterrupted = None,
) -> None:
    """Train what a table of the paper needs, and set the results beside the published numbers.

    Runs and times that are there are kept: the same command again goes on where the last one
    stopped. Runs that tables share are made once.
    """
    from piwsl_ocp.experiments.reproduction.plan import select
    from piwsl_ocp.experiments.reproduction.reproduce import Folders, Reproduction, overview
    from piwsl_ocp.experiments.reproduction.scales import find_scale

    if table is None and not list_:
        raise UserError("name a table, such as 1 or A4, or all; --list shows what there is")
    at_scale = find_scale(scale)
    tables = select("all" if table is None else table)
    if list_:
        console.print(overview(tables, results, seeds, model or ()))
        return
    folders = Folders(runs, results, data, data_source)
    reproduction = Reproduction(
        tables,
        at_scale,
        folders,
        console,
        seeds,
        model or (),
        missing_only=missing,
        time_again=time_again,
    )
    if report_only and not dry_run:
        reproduction.show_tables()
        return
    made_by = make_launcher(
        launcher, parallel, profile, on_interrupt, usual_profile=at_scale.profile
    )
    if dry_run:
        reproduction.show_jobs()
        return
    try:
        complete = reproduction.run(made_by, retry_failed=retry_failed)
    except KeyboardInterrupt:
        say_how_to_go_on(launcher, str(runs), made_by.killed)
        raise
    reproduction.show_tables()
    if not complete:
        raise typer.Exit(1)


def report(
    scale: ScaleName = "cpu",
    runs: Runs = Path("runs/reproduce"),
    results: Results = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the pages. Default: RESULTS/SCALE, whose pages are renewed."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the pages in the folder of --out.")
    ] = False,
) -> None:
    """Write report.html, report.md and tables.csv: our results beside the paper's; show a summary.

    Results of finished runs in the folder of run folders are kept first; without that folder the
    pages are made of what is kept already.
    """
    from piwsl_ocp.atomic_file import require_absent
    from piwsl_ocp.experiments.reproduction.reproduce import Folders
    from piwsl_ocp.experiments.reproduction.summary import terminal_table
    from piwsl_ocp.experiments.reproduction.write import PAGES, write_report

    folders = Folders(runs, results, Path("data"))
    if out is not None and not overwrite:
        require_absent(*(out / name for name in PAGES))
    written = write_report(scale, folders, out or results / scale)
    console.print(terminal_table(written.tables))
    for line in written.lines:
        console.print(line, markup=False, soft_wrap=True)
