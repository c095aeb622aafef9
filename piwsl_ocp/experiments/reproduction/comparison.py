"""A published table with our results beside it: gains over supervised, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.compare import Statistic
from piwsl_ocp.experiments.origins import Origin, origin_warnings, short_commit
from piwsl_ocp.experiments.reproduction.published import BASELINE, Cell, PaperTable, Printed
from piwsl_ocp.experiments.reproduction.result import RunResult
from piwsl_ocp.experiments.reproduction.results import Results
from piwsl_ocp.experiments.reproduction.scales import Scale
from piwsl_ocp.experiments.reproduction.step_times import StepRound
from piwsl_ocp.experiments.reproduction.trainings import Training, training

#: A change of less than this share counts as none.
NO_EFFECT = 0.01

NOT_YET = "not run yet"


@dataclass(frozen=True)
class Comparison:
    """One quantity of one cell: ours and the paper's.

    Attributes:
        quantity: a key of `published.QUANTITIES`.
        ours: mean and standard deviation over seeds, None without a result.
        seeds: how many runs have the quantity.
        our_gain: our mean relative to that of the supervised cell of the row, less 1; over the
            seeds that both have.
        printed: the paper's number.
        printed_gain: the paper's mean relative to that of its supervised cell, less 1.
        within_spread: whether our difference to supervised is smaller than the standard
            deviation of the difference of two runs; None where that is not known.
    """

    quantity: str
    ours: Statistic | None
    seeds: int
    our_gain: float | None
    printed: Printed | None
    printed_gain: float | None
    within_spread: bool | None

    @property
    def beyond_spread(self) -> bool | None:
        """Whether our difference is not within the spread; None where that is not known."""
        return None if self.within_spread is None else not self.within_spread

    @property
    def agreement(self) -> str:
        """Whether the sign of the effect agrees; empty where one of the two is missing."""
        if self.our_gain is None or self.printed_gain is None:
            return ""
        ours, theirs = effect(self.our_gain), effect(self.printed_gain)
        if ours == theirs:
            word = "same sign" if ours else "both none"
        elif not ours:
            word = "ours none"
        elif not theirs:
            word = "paper's none"
        else:
            word = "opposite"
        return f"{word} (within spread)" if self.within_spread else word


@dataclass(frozen=True)
class FilledCell:
    """A cell with what was found for it.

    Attributes:
        cell: of the paper, or ours.
        training: what stands for it at the scale, None if it cannot be run there.
        runs: its results, ordered by seed; the rounds where steps are timed in turn.
        missing: why there is no result, or fewer than there should be; empty if all are there.
        comparisons: by quantity.
        doubts: what is odd about the published numbers.
    """

    cell: Cell
    training: Training | None
    runs: tuple[RunResult, ...] | tuple[StepRound, ...]
    missing: str
    comparisons: Mapping[str, Comparison]
    doubts: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name of its column, marked where the paper has no such column."""
        name = self.cell.column.replace("_", " ")
        return f"{name} (ours)" if self.cell.ours else name

    @property
    def note(self) -> str:
        """How what was trained differs from the published cell."""
        return self.training.note if self.training else ""

    @property
    def provenance(self) -> str:
        """Code, training data and configuration of its runs, in short."""
        if not self.runs:
            return ""
        commits = sorted({short_commit(run.provenance.commit) for run in self.runs})
        data = sorted({f"{run.data} {run.provenance.train_data[:8]}" for run in self.runs})
        return "; ".join([", ".join(commits), ", ".join(data), self.configuration[:8]])

    @property
    def configuration(self) -> str:
        """Digits of the configuration, which are in the kept files, too; empty without one."""
        return self.training.key[3] if self.training else ""


@dataclass(frozen=True)
class FilledTable:
    """A table with what was found for it.

    Attributes:
        table: of the paper.
        scale: at which ours were trained.
        cells: row by row.
        warnings: in what the runs differ that are compared here; empty for a fair comparison.
    """

    table: PaperTable
    scale: Scale
    cells: tuple[FilledCell, ...]
    warnings: tuple[str, ...]

    @property
    def has_results(self) -> bool:
        """Whether a run was found for any cell."""
        return any(cell.runs for cell in self.cells)

    def rows(self) -> dict[str, list[FilledCell]]:
        """Return the cells of each row, by its name."""
        rows: dict[str, list[FilledCell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.cell.row, []).append(cell)
        return rows


def fill(
    table: PaperTable, scale: Scale, results: Results, seeds: int | None = None
) -> FilledTable:
    """Put our results beside the numbers of a table.

    Args:
        table: of the paper.
        scale: of our runs.
        results: all there are at that scale.
        seeds: runs that each training should have, that of the scale by default.
    """
    found = [_look_up(cell, table, scale, results, seeds or scale.seeds) for cell in table.cells]
    baselines = {cell.cell.row: cell for cell in found if cell.cell.column == BASELINE}
    cells = tuple(_compared(cell, baselines.get(cell.cell.row), table) for cell in found)
    return FilledTable(table, scale, cells, tuple(_warnings(cells)))


def constant_error(cells: Sequence[FilledCell], quantity: str) -> float | None:
    """Return the error of the constant predictor on the data of a row, None where it is unknown.

    It predicts the mean energy of the training structures and no force.

    Args:
        cells: of the row, which have the same data.
        quantity: `energy_rmse` or `force_rmse`; others have none.
    """
    found = (run.value(f"{quantity}_constant") for cell in cells for run in cell.runs)
    return next((value for value in found if value is not None), None)


def effect(gain: float) -> int:
    """Return −1 for a smaller error, 1 for a larger one, 0 for less than one per cent."""
    return 0 if abs(gain) < NO_EFFECT else int(math.copysign(1, gain))


def _look_up(
    cell: Cell, table: PaperTable, scale: Scale, results: Results, seeds: int
) -> FilledCell:
    doubts = table.doubts(cell)
    try:
        trained = training(cell, table, scale)
    except UserError as error:
        return FilledCell(cell, None, (), str(error), {}, doubts)
    if table.in_turn(scale.name):
        rounds = results.timed.get(trained.key, ())
        return FilledCell(cell, trained, rounds, "" if rounds else NOT_YET, {}, doubts)
    runs = tuple(results.of(trained.key))
    missing = "" if len(runs) >= seeds else f"{len(runs)} of {seeds} seeds" if runs else NOT_YET
    return FilledCell(cell, trained, runs, missing, {}, doubts)


def _compared(cell: FilledCell, baseline: FilledCell | None, table: PaperTable) -> FilledCell:
    comparisons = {
        quantity: _comparison(cell, baseline, table, quantity) for quantity in table.quantities
    }
    return FilledCell(cell.cell, cell.training, cell.runs, cell.missing, comparisons, cell.doubts)


def _comparison(
    cell: FilledCell, baseline: FilledCell | None, table: PaperTable, quantity: str
) -> Comparison:
    values, printed = _values(cell, quantity), table.printed(cell.cell, quantity)
    our_gain = printed_gain = within = None
    if baseline is not None and baseline is not cell:
        base_values = _values(baseline, quantity)
        printed_base = table.printed(baseline.cell, quantity)
        common = sorted(values.keys() & base_values.keys())
        ours = _statistic([values[seed] for seed in common])
        base = _statistic([base_values[seed] for seed in common])
        if ours and base and base.mean > 0:
            our_gain = ours.mean / base.mean - 1
            spread = math.hypot(ours.std, base.std)
            within = None if math.isnan(spread) else abs(ours.mean - base.mean) < spread
        if printed and printed_base and printed_base.mean > 0:
            printed_gain = printed.mean / printed_base.mean - 1
    whole = _statistic(list(values.values()))
    return Comparison(quantity, whole, len(values), our_gain, printed, printed_gain, within)


def _values(cell: FilledCell, quantity: str) -> dict[int, float]:
    """Return a quantity of the runs that have it, by seed."""
    values = {run.seed: run.value(quantity) for run in cell.runs}
    return {seed: value for seed, value in values.items() if value is not None}


def _statistic(values: Sequence[float]) -> Statistic | None:
    return Statistic.of(values) if values else None


def _warnings(cells: Sequence[FilledCell]) -> Iterator[str]:
    """Say in what the runs of a table differ that should be the same."""
    runs = {run.run: run for cell in cells for run in cell.runs}.values()
    yield from origin_warnings(
        Origin(
            commit=run.provenance.commit,
            data=run.data,
            train_data=run.provenance.train_data,
            test_data=run.provenance.test_data,
            versions=run.provenance.versions,
        )
        for run in runs
    )
    rows: dict[str, list[FilledCell]] = {}
    for cell in cells:
        rows.setdefault(cell.cell.row, []).append(cell)
    for row, members in rows.items():
        yield from (f"row {row}: {text}" for text in _row_warnings(members))


def _row_warnings(cells: Sequence[FilledCell]) -> Iterator[str]:
    """Say in what the methods of a row differ beside the method."""
    steps: dict[float | None, set[int]] = {}
    for cell in cells:
        steps.setdefault(cell.cell.settings.steps_times, set()).update(
            run.steps for run in cell.runs
        )
    for found in (sorted(found) for found in steps.values() if len(found) > 1):
        yield f"the runs have different numbers of steps: {found}"
    batches = sorted({run.batch_size for cell in cells for run in cell.runs})
    if len(batches) > 1:
        yield f"the runs have different numbers of structures in a step: {batches}"
    seeds = {tuple(run.seed for run in cell.runs) for cell in cells if cell.runs}
    if len(seeds) > 1:
        yield "the methods have different seeds"
