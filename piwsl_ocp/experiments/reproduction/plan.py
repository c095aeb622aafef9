"""Which runs some tables need at a scale, which of them are there, and what the rest costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from piwsl_ocp.consistency.choices import expect_choice
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.grid import FORCE_VARIANTS, MODELS
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.measurements import MEASUREMENTS
from piwsl_ocp.experiments.reproduction.published import Cell, PaperTable, find, load, names
from piwsl_ocp.experiments.reproduction.results import Results
from piwsl_ocp.experiments.reproduction.scales import Scale
from piwsl_ocp.experiments.reproduction.step_times import ROUNDS, STEPS
from piwsl_ocp.experiments.reproduction.trainings import Training, measurements, training

#: Work of a step with 0, 1, 2 displaced copies relative to the supervised one: an estimate.
WORK_OF_COPIES = (1.0, 1.9, 2.6)
#: Work of a step with gradient forces relative to direct ones: an estimate.
WORK_OF_GRADIENT = 1.6


@dataclass
class Wanted:
    """One training that some cells need.

    Attributes:
        training: what is trained.
        cells: that it stands for.
        measurements: what has to be measured of its runs.
    """

    training: Training
    cells: list[Cell] = field(default_factory=list)
    measurements: tuple[str, ...] = ()

    def is_kept(self, seed: int, results: Results) -> bool:
        """Return whether the run with a seed has a result, with everything that is needed."""
        result = results.runs.get((self.training.key, seed))
        return result is not None and result.measurements.issuperset(self.measurements)


@dataclass(frozen=True)
class Plan:
    """What some tables need at a scale.

    Attributes:
        scale: of the runs.
        seeds: runs of each training.
        wanted: the trainings, those of the first table first.
        left_out: cells that cannot be run at this scale, by reason.
        unmeasurable: measurements that this version does not have.
        timed: trainings of each row whose steps are timed in turn.
    """

    scale: Scale
    seeds: int
    wanted: tuple[Wanted, ...]
    left_out: dict[str, list[Cell]]
    unmeasurable: tuple[str, ...]
    timed: tuple[tuple[Training, ...], ...] = ()

    def of_models(self, models: Sequence[str]) -> Plan:
        """Return the part of the plan with some models, or all of it if none is named.

        Args:
            models: of the paper, such as `painn`; each in both force modes.

        Raises:
            UserError: if a model is unknown.
        """
        for model in models:
            expect_choice("model", model, MODELS)
        if not models:
            return self
        wanted = tuple(w for w in self.wanted if _paper_model(w.training) in models)
        timed = tuple(row for row in self.timed if _paper_model(row[0]) in models)
        left_out = {
            reason: there
            for reason, cells in self.left_out.items()
            if (there := [cell for cell in cells if cell.settings.model in models])
        }
        return replace(self, wanted=wanted, timed=timed, left_out=left_out)

    @property
    def runnable(self) -> int:
        """Number of cells that can be run at the scale."""
        return sum(len(w.cells) for w in self.wanted) + sum(map(len, self.timed))

    @property
    def cells(self) -> int:
        """Number of all cells."""
        return self.runnable + sum(map(len, self.left_out.values()))

    @property
    def runs(self) -> int:
        """Number of runs, and of rows that are timed."""
        return len(self.wanted) * self.seeds + len(self.timed)

    def finished(self, results: Results) -> int:
        """Return how many of the runs have a result with everything that is needed."""
        runs = sum(w.is_kept(seed, results) for w in self.wanted for seed in range(self.seeds))
        return runs + sum(_is_timed(row, results.timed) for row in self.timed)

    def seconds(self, results: Results) -> tuple[float, int]:
        """Return the seconds of the runs without a result, and how many trainings are a guess."""
        total, guesses = 0.0, 0
        for wanted in self.wanted:
            there = sum(wanted.is_kept(seed, results) for seed in range(self.seeds))
            measured = _measured_seconds(wanted.training, results)
            guesses += measured is None
            each = measured or _guessed_seconds(wanted.training, self.scale)
            total += (self.seeds - there) * each * wanted.training.steps
        for row in self.timed:
            if not _is_timed(row, results.timed):
                each = sum(_guessed_seconds(training, self.scale) for training in row)
                total += ROUNDS * STEPS * each
                guesses += 1
        return total, guesses


@dataclass(frozen=True)
class Jobs:
    """The runs of a plan as jobs.

    Attributes:
        jobs: to be done or done, each run once.
        to_time: trainings of each row whose steps are to be timed in turn, data there or not.
        missing_data: name of a data set that is not there -> why, and what to do.
    """

    jobs: tuple[Job, ...]
    to_time: tuple[tuple[Training, ...], ...]
    missing_data: dict[str, str]


def select(wanted: str) -> tuple[PaperTable, ...]:
    """Return a table, those that a figure is drawn from, or all.

    Args:
        wanted: see `published.find`, or "all".
    """
    if wanted.strip().lower() == "all":
        return tuple(table for table in map(load, names()) if table.cells)
    table = load(find(wanted))
    if table.cells:
        return (table,)
    return tuple(load(find(name)) for name in table.content.tables)


def plan(tables: Iterable[PaperTable], scale: Scale, seeds: int | None = None) -> Plan:
    """Return what some tables need at a scale; cells that share a training share its runs."""
    wanted: dict[tuple[str, str, str, str], Wanted] = {}
    left_out: dict[str, list[Cell]] = {}
    unmeasurable: dict[str, None] = {}
    timed: dict[str, dict[str, Training]] = {}
    for table in tables:
        needed = measurements(table)
        unmeasurable |= {name: None for name in needed if name not in MEASUREMENTS}
        known = [name for name in needed if name in MEASUREMENTS]
        for cell in table.cells:
            try:
                trained = training(cell, table, scale)
            except UserError as error:
                left_out.setdefault(str(error), []).append(cell)
                continue
            if table.in_turn(scale.name):
                timed.setdefault(f"{table.name} {cell.row}", {})[cell.column] = trained
                continue
            item = wanted.setdefault(trained.key, Wanted(trained))
            item.cells.append(cell)
            item.measurements = tuple(dict.fromkeys([*item.measurements, *known]))
    number = scale.seeds if seeds is None else seeds
    rows = tuple(tuple(row.values()) for row in timed.values())
    return Plan(scale, number, tuple(wanted.values()), left_out, tuple(unmeasurable), rows)


def jobs_of(
    plan: Plan,
    data: Path,
    runs: Path,
    source: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    kept: Results | None = None,
    timed: Collection[tuple[str, str, str, str]] = (),
    convert: bool = True,
) -> Jobs:
    """Return the jobs of a plan, the first seed of every training first.

    A data set that is missing, damaged or cannot be made leaves the runs on others alone.

    Args:
        plan: what is needed.
        data: folder of all data sets.
        runs: folder of all run folders.
        source: folder of raw files from which missing data sets are made.
        report: receives a line for each data set that is made.
        kept: results of runs that are left out, with what only they need.
        timed: keys of trainings whose times are kept; a row of such alone is not timed again.
        convert: whether to make missing data sets; if not, what would be made is named.
    """
    there = Results({}, ()) if kept is None else kept
    needed = [
        (wanted, seed)
        for seed in range(plan.seeds)
        for wanted in plan.wanted
        if not wanted.is_kept(seed, there)
    ]
    to_time = tuple(row for row in plan.timed if not _is_timed(row, timed))
    missing = {}
    trainings = [wanted.training for wanted, _ in needed] + [row[0] for row in to_time]
    for recipe in {each.data.name: each.data for each in trainings}.values():
        try:
            recipe.provide(data, source, report, convert)
        except UserError as error:
            missing[recipe.name] = str(error)
    jobs = tuple(
        wanted.training.job(seed, data, runs, wanted.measurements)
        for wanted, seed in needed
        if wanted.training.data.name not in missing
    )
    return Jobs(jobs, to_time, missing)


def duration(seconds: float) -> str:
    """Return a duration as minutes, hours or days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min"


def _is_timed(row: Sequence[Training], timed: Collection[tuple[str, str, str, str]]) -> bool:
    return all(training.key in timed for training in row)


def _measured_seconds(trained: Training, results: Results) -> float | None:
    """Return the seconds of a step from runs of this training, or of the like on other data."""
    same = [run.seconds_per_step for run in results.of(trained.key)]
    kind = trained.data.kind
    like = [
        run.seconds_per_step
        for run in results.runs.values()
        if run.model == trained.model
        and run.settings == trained.key[3]
        and run.data.startswith(kind)
    ]
    for values in (same, like):
        known = [value for value in values if value]
        if known:
            return statistics.median(known)
    return None


def _paper_model(trained: Training) -> str:
    """Return the model as the paper names it, in whichever force mode it is trained."""
    return FORCE_VARIANTS.get(trained.model, trained.model)


def _guessed_seconds(trained: Training, scale: Scale) -> float:
    base = _paper_model(trained)
    work = WORK_OF_COPIES[trained.copies] * (WORK_OF_GRADIENT if trained.model != base else 1.0)
    return scale.seconds_per_step[base] * work
