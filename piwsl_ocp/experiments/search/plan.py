"""The file of a search -> what may vary, and the runs of a trial."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import SECTIONS, Job
from piwsl_ocp.experiments.run_folder import CONFIG_FILE
from piwsl_ocp.experiments.settings_file import read_settings
from piwsl_ocp.experiments.sweep.plan import make_job
from piwsl_ocp.experiments.sweep.status import steps_of
from piwsl_ocp.ocp.config import check_config, find_config, load_config, set_value
from piwsl_ocp.ocp.scoring import HIGHER_IS_BETTER, PRIMARY_METRIC
from piwsl_ocp.ocp.sections.section import nearest, parse
from piwsl_ocp.ocp.sections.targets import Metrics

#: Sections that trials may differ in; with the others they could not be compared, or would not.
SEARCHED = tuple(name for name in SECTIONS if name not in ("evaluation_metrics", "seed"))

#: Share of a training during which no trial is pruned, unless the file says how many steps.
WARMUP = 0.25


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Range(_Section):
    """Values that a setting may take: from low to high, or one of several.

    Args:
        low: the smallest.
        high: the largest.
        log: whether to draw evenly in the logarithm.
        integer: whether to draw whole numbers.
        choices: the values themselves, in place of low and high.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: list[Any] | None = None

    @property
    def extremes(self) -> list[Any]:
        """The ends of the range, or all choices."""
        if self.choices is not None:
            return self.choices
        return [int(end) if self.integer else end for end in (self.low, self.high)]

    def check(self) -> None:
        """Raise a UserError if this is no range."""
        if self.choices is not None:
            if not self.choices or {"low", "high", "log", "integer"} & self.model_fields_set:
                raise UserError("choices: name at least one value, and no low, high, log, integer")
            for value in self.choices:
                if not isinstance(value, bool | int | float | str | None):
                    raise UserError(f"choices: found {value!r}, expected a number, word or null")
            return
        if self.low is None or self.high is None:
            raise UserError("expected low and high, or choices")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"found low {self.low} and high {self.high}, expected low below high")
        if self.log and self.low <= 0:
            raise UserError(f"low: found {self.low}, expected a number above 0 because of log")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise UserError(f"found {self.low} and {self.high}, expected whole numbers")

    def draw(self, name: str, trial: Any) -> Any:
        """Return the value of a trial (`optuna.Trial`), which keeps it."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        suggest = trial.suggest_int if self.integer else trial.suggest_float
        return suggest(name, *self.extremes, log=self.log)


class Sampler(_Section):
    """What draws the values.

    Args:
        name: `tpe` (tree-structured Parzen estimator) learns from the trials before, `random` not.
        startup_trials: drawn at random before `tpe` begins.
        seed: equal seeds draw equal values after equal trials.
    """

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(default=10, ge=0)
    seed: int = Field(default=0, ge=0)


class Pruner(_Section):
    """What stops hopeless trials: their best value so far against that of finished ones.

    Args:
        keep_percent: a trial goes on while it is among the best so many percent at the same step;
            50: better than the median; 100: nothing is stopped.
        startup_trials: finished trials to have before any is stopped.
        warmup_steps: of training, before which no trial is stopped; None: a quarter.
    """

    keep_percent: float = Field(default=50.0, gt=0, le=100)
    startup_trials: int = Field(default=5, ge=1)
    warmup_steps: int | None = Field(default=None, ge=0)


class Search(_Section):
    """What the file of a search says.

    Args:
        name: of the search, and of its folder.
        config: the configuration that the values are put into.
        space: values that each setting may take, by its dotted key.
        trials: number of them.
        seeds: of the runs of one trial; its value is the mean over them.
        set: settings that are the same in every run.
        sampler: what draws the values.
        pruner: what stops hopeless trials.
    """

    name: str
    config: str
    space: dict[str, Range]
    trials: int = Field(ge=1)
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    sampler: Sampler = Field(default_factory=Sampler)
    pruner: Pruner = Field(default_factory=Pruner)


@dataclass(frozen=True)
class SearchPlan:
    """A search, and where it goes.

    Attributes:
        search: what its file says.
        file: the file.
        folder: of the search, which holds the run folders, too.
    """

    search: Search
    file: Path
    folder: Path

    @cached_property
    def base(self) -> dict[str, Any]:
        """The configuration without the values that are searched for."""
        config = load_config(self.search.config, self.search.set)
        for key in self.search.space:
            set_value(config, key, None)
        return config

    @property
    def metric(self) -> str:
        """The validation metric that trials are judged by; lower is better.

        Raises:
            UserError: if `evaluation_metrics` is no such section.
        """
        section = self.base.get("evaluation_metrics", {})
        metrics = parse(Metrics, section, "evaluation_metrics")
        return metrics.primary_metric or PRIMARY_METRIC

    @property
    def steps(self) -> int | None:
        """Steps of each training, None if they vary or are given in epochs."""
        return steps_of(self.base)

    @property
    def warmup_steps(self) -> int:
        """Steps of a training before which it is not stopped."""
        given = self.search.pruner.warmup_steps
        return round(WARMUP * (self.steps or 0)) if given is None else given

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of a trial, without a seed."""
        return load_config(self.search.config, {**self.search.set, **values})

    def jobs(self, values: Mapping[str, Any]) -> list[Job]:
        """Return the runs of a trial. Nothing is measured of them: test data stay unseen."""
        overrides = {**self.search.set, **values}
        return [
            make_job(self.search.config, seed, overrides, self.folder, measurements=())
            for seed in self.search.seeds
        ]

    @cached_property
    def description(self) -> dict[str, Any]:
        """Everything that trials must share to be compared, as plain values."""
        (job, *_) = self.jobs(self._first_values)
        splits = DatasetInfo.read(job.dataset_folder).splits
        content = {
            **self.search.model_dump(exclude={"name", "config", "trials", "set"}),
            "config": {name: self.base.get(name) for name in SECTIONS if name != "seed"},
            "data": {name: facts.checksum for name, facts in splits.items()},
        }
        return json.loads(json.dumps(content, default=str))

    def check(self) -> None:
        """Check the configuration at both ends of every range, and at every choice.

        Raises:
            UserError: if a value cannot be trained with, the data set is missing, or the metric is
                one of which more is better.
        """
        if self.metric.endswith(HIGHER_IS_BETTER):
            raise UserError(
                f"evaluation_metrics.primary_metric: found '{self.metric}', expected an error, "
                "which is to become small"
            )
        for key, values in self.search.space.items():
            for value in values.extremes:
                check_config(self.jobs({**self._first_values, key: value})[0].config)

    @property
    def _first_values(self) -> dict[str, Any]:
        return {key: values.extremes[0] for key, values in self.search.space.items()}


def read_search(path: Path | str, root: Path | str) -> SearchPlan:
    """Read the file of a search.

    Args:
        path: a YAML file with the keys of `Search`, or one relative to the project's `configs`.
        root: folder in which the folder of the search lies.

    Raises:
        UserError: for a mistake in the file, or a missing configuration or data set.
    """
    file = find_config(path)
    search = read_settings(file, "search", Search)
    plan = SearchPlan(search, file, Path(root).absolute() / search.name)
    try:
        _check(search)
        plan.check()
    except UserError as error:
        raise UserError(f"search '{file}': {error}") from None
    if (plan.folder / CONFIG_FILE).is_file():
        raise UserError(f"search '{file}': '{plan.folder}' is a run folder: give another name")
    return plan


def _check(search: Search) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", search.name):
        raise UserError(f"name: found '{search.name}', expected letters, digits and _ . + -")
    if not search.space:
        raise UserError("space is empty: name a setting and its range")
    if len(set(search.seeds)) < len(search.seeds):
        raise UserError(f"seeds: found {search.seeds}, expected each seed once")
    for key, values in search.space.items():
        if key.split(".")[0] not in SEARCHED:
            raise UserError(f"space.{key}: unknown setting{nearest(key.split('.')[0], SEARCHED)}")
        if key in search.set:
            raise UserError(f"'{key}' is both in space and in set: keep one of them")
        try:
            values.check()
        except UserError as error:
            raise UserError(f"space.{key}: {error}") from None
