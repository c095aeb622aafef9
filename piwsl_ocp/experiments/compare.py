"""Compare finished runs: the same model, data and steps, different methods and seeds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.method import Method, method_of
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.ocp.options import PIWSLOptions
from piwsl_ocp.ocp.sections.dataset import PLACE_OF_DATA

#: What is compared, in the order of the table; lower is better everywhere.
QUANTITIES = (
    "energy_rmse",
    "energy_mae",
    "force_rmse",
    "force_mae",
    "consistency_error",
    "seconds_per_step",
)

#: Sections of a configuration that should agree apart from the method.
_SETTINGS = (
    "amp",
    "checkpoint",
    "dataset",
    "evaluation_metrics",
    "loss_functions",
    "optim",
    "outputs",
    "task",
    "trainer",
    "world_size",
)
#: What belongs to the method, changes how a step is computed but not what it gives, or is compared
#: by the checksum of the data.
_OTHER_SETTINGS = (
    *(f"dataset.{split}.{key}" for split in ("train", "val") for key in PLACE_OF_DATA),
    "dataset.test",
    "optim.piwsl.allow_amp",
    "optim.piwsl.energy_unit",
    "optim.piwsl.noisy_nodes",
    "optim.piwsl.terms",
    "optim.piwsl.displacement",
    "optim.piwsl.metric",
    "optim.piwsl.every_probability",
    "optim.piwsl.copies",
    "optim.eval_batch_size",
    "optim.num_workers",
)
#: Values of settings that a configuration may leave out.
_DEFAULTS = {
    "amp": False,
    "optim": {"piwsl": PIWSLOptions().model_dump()},
    "world_size": 1,
}


@dataclass(frozen=True)
class Run:
    """One finished and evaluated run.

    Attributes:
        folder: the run folder.
        split: the split it was evaluated on.
    """

    folder: RunFolder
    split: str = "test"

    @cached_property
    def method(self) -> Method:
        """Its method."""
        return method_of(self.folder.config)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What makes its training apart from method, model, data and seed, by dotted key."""
        return {**_flat(_DEFAULTS), **_flat(self.folder.config)}

    @cached_property
    def result(self) -> dict[str, Any]:
        """What its evaluation wrote."""
        return self.folder.result(self.split)

    @cached_property
    def values(self) -> dict[str, float]:
        """Each of `QUANTITIES`, in the unit of the labels."""
        values = {name: self.read("errors", name) for name in QUANTITIES[:4]}
        values["consistency_error"] = self.read("consistency", "rms")
        values["seconds_per_step"] = self.folder.seconds_per_step
        return values

    def read(self, *keys: str) -> Any:
        """Return a value of the result by its keys, from the outermost one on.

        Raises:
            UserError: if the result lacks it.
        """
        value: Any = self.result
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                raise UserError(
                    f"results/{self.split}.json of '{self.folder.path}' lacks {'.'.join(keys)}: "
                    "evaluate it again with "
                    f"`piwsl validate {self.folder.path} --split {self.split}`"
                )
            value = value[key]
        return value


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: over runs.
        std: sample standard deviation (n - 1); not a number for a single run.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Return the statistic of some values, at least one."""
        std = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), std)


@dataclass(frozen=True)
class Row:
    """All runs of one method with the same settings.

    Attributes:
        label: name of the method, with what tells it from other rows of that name.
        runs: its runs, ordered by seed.
        statistics: of each of `QUANTITIES`.
        change: mean relative to that of the supervised runs less 1; empty without such runs and
            for the supervised runs themselves. Where supervised runs have several settings, those
            with the same settings count.
    """

    label: str
    runs: tuple[Run, ...]
    statistics: Mapping[str, Statistic]
    change: Mapping[str, float]

    @property
    def method(self) -> Method:
        """The method of all runs."""
        return self.runs[0].method

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.folder.seed for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes:
        rows: one for each method and its settings, supervised first.
        unit: energy unit of all errors.
        split: the split they were evaluated on.
        notes: settings apart from the method in which the runs differ; empty for a fair comparison.
    """

    rows: tuple[Row, ...]
    unit: str
    split: str
    notes: tuple[str, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs in the order of the rows."""
        return tuple(run for row in self.rows for run in row.runs)

    @property
    def first(self) -> Run:
        """A run to read from what all have in common."""
        return self.rows[0].runs[0]

    @property
    def best(self) -> Run:
        """The run with the best primary metric on validation, not on the compared split."""
        return min(self.runs, key=lambda run: run.folder.best_validation_metric)

    @property
    def caption(self) -> str:
        """One line that says what was compared."""
        errors, result = self.first.result["errors"], self.first.result
        return (
            f"{self.first.folder.config['model']['name']} on {result['dataset']['name']}, "
            f"{result['training']['structures']} training structures, "
            f"{self.first.folder.last_step} steps; {errors['structures']} {self.split} structures"
        )


def compare(run_folders: Iterable[Path | str], split: str = "test") -> Comparison:
    """Group runs by method and settings, and average over seeds.

    Args:
        run_folders: finished runs with results on the split.
        split: the split to compare on.

    Raises:
        UserError: if a run is not finished or not evaluated, if two runs differ in data, model or
            number of steps, or if two with the same method and settings have the same seed.
    """
    runs = [Run(RunFolder(Path(folder)), split) for folder in run_folders]
    if not runs:
        raise UserError("there is nothing to compare: name at least one run folder")
    for run in runs:
        _check_finished(run)
    _check_comparable(runs)
    groups = _grouped(runs)
    for group in groups:
        _check_seeds(group)
    return Comparison(
        rows=_rows(groups),
        unit=runs[0].result["unit"],
        split=split,
        notes=_differing_settings(runs),
    )


def compare_evaluated(run_folders: Iterable[Path | str], split: str = "test") -> Comparison:
    """Evaluate the runs that have no result on the split yet, then compare them all.

    Raises:
        UserError: as `compare`, or if a run cannot be evaluated.
    """
    from piwsl_ocp.evaluation.evaluate import evaluate

    folders = [Path(folder) for folder in run_folders]
    for folder in folders:
        run = Run(RunFolder(folder), split)
        _check_finished(run)
        if not run.folder.has_result(split):
            evaluate(folder, split=split, progress=True)
    return compare(folders, split)


def _grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs that differ in the seed alone together, ordered by it, supervised ones first."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: not run.method.is_supervised):
        for group in groups:
            if group[0].method.key == run.method.key and not _differing([group[0], run]):
                group.append(run)
                break
        else:
            groups.append([run])
    return [sorted(group, key=lambda run: run.folder.seed) for group in groups]


def _rows(groups: Sequence[Sequence[Run]]) -> tuple[Row, ...]:
    first = [group[0] for group in groups]
    rows: list[Row] = []
    for group in groups:
        found = {q: Statistic.of([run.values[q] for run in group]) for q in QUANTITIES}
        baseline = _baseline(group[0], rows)
        change = {} if baseline is None else _change(found, baseline.statistics)
        rows.append(Row(_label(group[0], first), tuple(group), found, change))
    return tuple(rows)


def _label(run: Run, others: Sequence[Run]) -> str:
    """Return the name of a run's method, with what tells it from other runs of that name."""
    namesakes = [other for other in others if other.method.name == run.method.name]
    same = [other for other in namesakes if other.method.key == run.method.key]
    parts = [f"{key} {run.settings.get(key)}" for key in _differing(same)]
    if len(same) < len(namesakes):
        parts.insert(0, run.method.detail)
    return f"{run.method.name} ({', '.join(parts)})" if parts else run.method.name


def _baseline(run: Run, rows: Sequence[Row]) -> Row | None:
    """Return the supervised row that a run is compared with, None without one."""
    if run.method.is_supervised:
        return None
    supervised = [row for row in rows if row.method.is_supervised]
    if len(supervised) > 1:
        supervised = [row for row in supervised if not _differing([row.runs[0], run])]
    return supervised[0] if supervised else None


def _change(found: Mapping[str, Statistic], baseline: Mapping[str, Statistic]) -> dict[str, float]:
    return {
        quantity: found[quantity].mean / baseline[quantity].mean - 1
        for quantity in QUANTITIES
        if baseline[quantity].mean > 0
    }


def _check_finished(run: Run) -> None:
    folder = run.folder
    if not folder.is_finished:
        raise UserError(
            f"the training in '{folder.path}' is {folder.status.get('status')} at step "
            f"{folder.last_step}: go on with `piwsl resume {folder.path}`"
        )


def _check_seeds(group: Sequence[Run]) -> None:
    for first, second in itertools.pairwise(group):
        if first.folder.seed == second.folder.seed:
            raise UserError(
                f"'{first.folder.path}' and '{second.folder.path}' are the same method with the "
                f"same seed {first.folder.seed}: leave one out"
            )


def _check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in what makes errors comparable."""
    sections: dict[str, Callable[[Run], object]] = {
        "test data (checksum)": lambda run: run.result["dataset"]["checksum"],
        "training data (checksum)": lambda run: run.result["training"]["checksum"],
        "energy unit": lambda run: run.result["unit"],
        "displacement of the consistency error": lambda run: (
            run.result["consistency"]["displacement"],
            run.result["consistency"]["epsilon_angstrom"],
        ),
        "number of steps": lambda run: run.folder.last_step,
    }
    first = runs[0]
    for run in runs[1:]:
        for what, read in sections.items():
            here, there = read(run), read(first)
            if here != there:
                raise UserError(
                    f"the {what} of '{run.folder.path}' is {_short(here)}, that of "
                    f"'{first.folder.path}' is {_short(there)}: compare runs that share it"
                )
        here, there = run.folder.config["model"], first.folder.config["model"]
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                raise UserError(
                    f"model.{key} of '{run.folder.path}' is {here.get(key)}, that of "
                    f"'{first.folder.path}' is {there.get(key)}: compare runs of one model"
                )


def _short(value: object) -> str:
    """Cut a checksum to its first characters."""
    text = str(value)
    return f"{text[:12]}…" if len(text) >= 64 else text


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which runs differ."""
    keys = sorted(set().union(*(run.settings for run in runs)))
    first = runs[0].settings
    return [key for key in keys if any(run.settings.get(key) != first.get(key) for run in runs)]


def _differing_settings(runs: Sequence[Run]) -> tuple[str, ...]:
    notes = []
    for key in _differing(runs):
        found = ", ".join(f"{run.settings.get(key)} ({run.folder.name})" for run in runs)
        notes.append(f"the runs differ in {key}: {found}")
    return tuple(notes)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that should agree and are set, by dotted key."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if prefix in _OTHER_SETTINGS or value is None:
            return
        if isinstance(value, Mapping):
            for key, below in value.items():
                walk(f"{prefix}.{key}", below)
        elif isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
            for part in value:  # one for each target
                walk(prefix, part)
        else:
            flat[prefix] = value

    for section in _SETTINGS:
        walk(section, config.get(section))
    return flat
