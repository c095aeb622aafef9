"""The results of a sweep: a row for each point of its grid, mean and spread over the seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.compare import QUANTITIES, Run, Statistic
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.origins import Origin, origin_warnings, versions_of
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.sweep.plan import read_grid
from piwsl_ocp.experiments.tables import bordered_width, format_statistic, title_of, unit_of

#: What a narrow terminal shows.
_MAIN_QUANTITIES = ("energy_rmse", "force_rmse", "consistency_error")

#: Characters in a line that the value of a setting needs at least.
_SETTING_WIDTH = 10


@dataclass(frozen=True)
class Point:
    """A point of the grid.

    Attributes:
        settings: those that vary in the grid, but for the seed, as text.
        runs: the finished ones, ordered by seed.
        planned: how many there are to be.
        problems: why finished runs are left out, one line each.
        origins: code and data of each of the finished runs.
    """

    settings: Mapping[str, str]
    runs: tuple[Run, ...]
    planned: int
    problems: tuple[str, ...]
    origins: tuple[Origin, ...]

    @property
    def unit(self) -> str:
        """Energy unit of the errors; empty without a finished run."""
        return self.runs[0].read("unit") if self.runs else ""

    def statistic(self, quantity: str) -> Statistic | None:
        """Return mean and standard deviation of a quantity, None without a finished run."""
        return Statistic.of([run.values[quantity] for run in self.runs]) if self.runs else None


def read_points(path: Path | str, root: Path | str) -> list[Point]:
    """Return the points of an experiment's grid with the results there are.

    Args:
        path: file of the experiment.
        root: folder of the run folders.

    Raises:
        UserError: for a mistake in the file, or where no run is finished, or none can be read.
    """
    grid = read_grid(path, root)
    labels = _labels([settings for settings, _ in grid])
    jobs: dict[tuple[str, ...], dict[str, Job]] = {}
    for settings, job in grid:
        names = tuple(texts[_whole(settings[name])] for name, texts in labels.items())
        jobs.setdefault(names, {})[job.run_folder] = job
    points = [
        _point(dict(zip(labels, names, strict=True)), [*planned.values()])
        for names, planned in jobs.items()
    ]
    if not any(point.runs for point in points):
        if problems := notes(points):
            raise UserError(f"experiment '{path}': no run can be read, such as: {problems[0]}")
        raise UserError(
            f"experiment '{path}': no run with errors is finished in '{root}': "
            f"make them with `piwsl sweep run {path} --runs {root}`"
        )
    units = sorted({point.unit for point in points if point.runs})
    if len(units) > 1:
        raise UserError(f"experiment '{path}': runs in different units: {', '.join(units)}")
    return points


def notes(points: Sequence[Point]) -> list[str]:
    """Return the runs that are left out, and in what code and data of the others differ."""
    problems = [problem for point in points for problem in point.problems]
    return [*problems, *origin_warnings(o for point in points for o in point.origins)]


def terminal_table(points: Sequence[Point], width: int, title: str) -> Table:
    """Return the results for a terminal, the most important ones where all are too wide.

    Args:
        points: of the grid.
        width: characters in a line of the terminal.
        title: name of the experiment.
    """
    unit = next(point.unit for point in points if point.runs)
    names = [*points[0].settings]
    lines = {quantity: _column(points, quantity, unit) for quantity in QUANTITIES}
    caption = (
        "Mean ± sample standard deviation over seeds; checkpoint with the best validation "
        "metric, test split. Forces per Cartesian component."
    )
    folded = [[" " * _SETTING_WIDTH]] * len(names)
    if bordered_width([*folded, ["00 of 00"], *lines.values()]) > width:
        lines = {quantity: lines[quantity] for quantity in _MAIN_QUANTITIES}
        caption += " A wider terminal or --csv shows all."
    table = Table(title=escape(title), caption=caption, caption_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    table.add_column("runs", justify="right", no_wrap=True)
    for heading, *_ in lines.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for point, *values in zip(points, *(line[1:] for line in lines.values()), strict=True):
        runs = f"{len(point.runs)} of {point.planned}"
        table.add_row(*point.settings.values(), runs, *values, end_section=True)
    return table


def _point(settings: Mapping[str, str], planned: Sequence[Job]) -> Point:
    """Return a point with its finished runs; those whose results are damaged become problems."""
    found: list[tuple[Run, Origin]] = []
    problems = []
    for job in (job for job in planned if job.is_done):
        run = Run(RunFolder(Path(job.run_folder)))
        if not run.folder.has_result():
            continue
        try:
            found.append((run, _origin_of_readable(run, job.dataset_folder)))
        except UserError as error:
            problems.append(f"left out: {error}")
    found.sort(key=lambda pair: pair[0].folder.seed)
    runs, origins = zip(*found, strict=True) if found else ((), ())
    return Point(settings, runs, len(planned), tuple(problems), origins)


def _origin_of_readable(run: Run, dataset_folder: str) -> Origin:
    """Return the origin of a run.

    Raises:
        UserError: if something of the table cannot be read from the run.
    """
    _ = run.folder.seed, run.values, run.read("unit")
    versions = versions_of(run.folder.status)
    return Origin(
        commit=versions.pop("commit", "unknown"),
        data=dataset_folder,
        train_data=run.read("training", "checksum"),
        test_data=run.read("dataset", "checksum"),
        versions=versions,
    )


def _column(points: Sequence[Point], quantity: str, unit: str) -> list[str]:
    """Return the heading and the values of a quantity, empty where no run is finished."""
    values = [point.statistic(quantity) for point in points]
    title = title_of(quantity).replace(" ", "\n", 1)
    return [
        f"{title}\n{unit_of(quantity, unit)}",
        *("" if value is None else format_statistic(quantity, value) for value in values),
    ]


def csv_text(points: Sequence[Point]) -> str:
    """Return one line for each point: settings, seeds, means, standard deviations, origin."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    statistics = [f"{name}_{part}" for name in QUANTITIES for part in ("mean", "std")]
    origin = ("commit", "train_data")
    writer.writerow([*points[0].settings, "seeds", "planned", "unit", *statistics, *origin])
    for point in points:
        seeds = " ".join(str(run.folder.seed) for run in point.runs)
        found = [point.statistic(name) for name in QUANTITIES]
        values = [part for one in found for part in ((one.mean, one.std) if one else ("", ""))]
        values += [" ".join(sorted({getattr(o, name) for o in point.origins})) for name in origin]
        writer.writerow([*point.settings.values(), seeds, point.planned, point.unit, *values])
    return buffer.getvalue()


def _labels(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return a label of each value of the settings that differ between points, but for the seed.

    It is short where the short ones tell all values of the setting apart.
    """
    labels = {}
    for name in (name for name in points[0] if name != "seed"):
        short = {_whole(point[name]): _short(name, point[name]) for point in points}
        if len(short) > 1:
            distinct = len(set(short.values())) == len(short)
            labels[name] = short if distinct else {whole: whole for whole in short}
    return labels


def _short(name: str, value: Any) -> str:
    if name == "config":
        return Path(value).stem
    if name == "dataset" and "train" in value:
        return Path(value["train"]["src"]).parent.parent.name
    return _whole(value)


def _whole(value: Any) -> str:
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return str(value)
