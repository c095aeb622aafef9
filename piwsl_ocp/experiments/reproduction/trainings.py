"""From a cell of a published table to the training that stands for it at a scale, and its runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from piwsl_ocp.consistency.choices import expect_choice
from piwsl_ocp.consistency.terms import TERMS
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments import grid
from piwsl_ocp.experiments.job import Job, digest, fingerprint
from piwsl_ocp.experiments.reproduction.published import Cell, PaperTable, Settings
from piwsl_ocp.experiments.reproduction.scales import (
    DatasetRecipe,
    Scale,
    dataset_config,
    recipe,
    too_few_structures,
)
from piwsl_ocp.ocp.config import compose, configs_folder, set_value
from piwsl_ocp.ocp.options import PIWSLOptions

#: Sections of a configuration that make two trainings different, besides data and seed.
SECTIONS = (
    "evaluation_metrics",
    "loss_functions",
    "model",
    "optim",
    "outputs",
    "task",
    "trainer",
)

#: Validations of a run at CPU scale.
EVALUATIONS = 10

#: What measures a quantity.
MEASUREMENT_OF = {
    "energy_rmse": "errors",
    "force_rmse": "errors",
    "seconds_per_epoch": "errors",
    "curl": "curl",
}

_NAME = re.compile(
    r"(?P<scale>\w+)-(?P<data>\w+)-(?P<model>\w+)-(?P<method>[\w+.]+)-s(?P<seed>\d+)"
)


@dataclass(frozen=True)
class Training:
    """What is trained for a cell, apart from the seed.

    Attributes:
        scale: name of the scale.
        data: its data set.
        model: file in configs/models, without the suffix of the scale.
        config: the configuration, without seed and without the place of the data.
        note: how it differs from the published cell, empty if it does not.
    """

    scale: str
    data: DatasetRecipe
    model: str
    config: dict[str, Any]
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Scale, data set, model, settings: equal for cells that share their runs."""
        return (self.scale, self.data.name, self.model, settings_key(self.config))

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.config["optim"]["max_steps"])

    @property
    def copies(self) -> int:
        """Displaced copies of each structure in a step."""
        options = self.config["optim"]["piwsl"]
        needed = [TERMS[name].copies for name in options["terms"]]
        return max([*needed, int(bool(options.get("noisy_nodes")))])

    def job(self, seed: int, data: Path, runs: Path, measurements: tuple[str, ...]) -> Job:
        """Return one run of it.

        Args:
            seed: of the run.
            data: folder of all data sets.
            runs: folder of all run folders.
            measurements: what to measure.

        Raises:
            UserError: if the data set is not there.
        """
        folder = data / self.data.folder
        config = deepcopy(self.config)
        for split in ("train", "val", "test"):
            set_value(config, f"dataset.{split}.src", str(folder / split / "data.lmdb"))
        config["seed"] = seed
        stem = RunName(self.scale, self.data.name, self.model, method_word(config), seed).text
        name = f"{stem}-{fingerprint(config, folder)[:8]}"
        config["identifier"] = name
        return Job(config, str(runs / name), str(folder), measurements)


@dataclass(frozen=True)
class RunName:
    """What the name of a run tells.

    Attributes:
        scale: name of the scale.
        data: name of the data set.
        model: file in configs/models, without the suffix of the scale.
        method: the weak losses.
        seed: of the run.
    """

    scale: str
    data: str
    model: str
    method: str
    seed: int

    @property
    def text(self) -> str:
        """The name, without the digits of the fingerprint that follow it."""
        return f"{self.scale}-{self.data}-{self.model}-{self.method}-s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> RunName | None:
        """Read a name, with or without digits after it; None if it is of another kind."""
        found = _NAME.match(name)
        if found is None:
            return None
        parts = found.groupdict()
        return cls(**{**parts, "seed": int(parts["seed"])})


def training(cell: Cell, table: PaperTable, scale: Scale) -> Training:
    """Return what is trained for a cell at a scale.

    Raises:
        UserError: if it cannot be run at that scale; the message is the reason.
    """
    expect_choice("dataset", cell.settings.dataset, scale.datasets)
    if cell.settings.train is None:
        raise UserError("the number of training structures is not set: add 'train' to its row")
    settings, note = _at_scale(cell.settings, table, scale)
    reason = too_few_structures(settings, scale) or _left_out(cell.row, settings, table, scale)
    if reason:
        raise UserError(reason)
    model = model_file(settings)
    name = dataset_config(settings, scale)
    # The weights of the published cell, whatever N stands for its N.
    parts = grid.parts(scale.name, name, model, method_file(cell.settings))
    config = deepcopy(_composed(parts))
    for section, values in grid.exceptions(scale.name, name, model).items():
        config[section] = {**config[section], **values}
    for key, value in (settings.set or {}).items():
        set_value(config, key, deepcopy(value))
    _change_weak_losses(config["optim"]["piwsl"], settings)
    if settings.reference_forces is False:
        _leave_forces_out(config)
    _set_steps(config, settings, scale)
    if scale.name == "cpu":
        set_value(config, "logger.wandb", "disabled")
        set_value(config, "logger.tensorboard", False)
    PIWSLOptions.parse(config["optim"]["piwsl"], config["outputs"])
    return Training(scale.name, recipe(settings, scale), model, config, note)


def measurements(table: PaperTable) -> tuple[str, ...]:
    """Return what has to be measured of the runs of a table."""
    needed = [MEASUREMENT_OF[quantity] for quantity in table.content.quantities]
    return tuple(dict.fromkeys(["errors", *needed, *table.content.measurements]))


def model_file(settings: Settings) -> str:
    """Return the file of a model in configs/models, without the suffix of the scale."""
    gradient = settings.forces == "gradient" and settings.model != "schnet"
    return f"{settings.model}_gf" if gradient else str(settings.model)


def method_file(settings: Settings) -> str:
    """Return the file of a method in configs/methods; PIWSL takes the case of Table A3."""
    pattern = grid.METHODS.get(settings.method, settings.method)
    if "{case}" not in pattern:
        return pattern
    data = "_".join(filter(None, (settings.dataset, settings.molecule, f"n{settings.train}")))
    # A table that sets the weights itself may use a size that Table A3 does not have.
    case = _cases().get(data, {}).get(settings.model, "a")
    return pattern.format(case=case)


def method_word(config: Mapping[str, Any]) -> str:
    """Return the weak losses of a configuration, and what is not usual, as one word of a name."""
    options = config["optim"]["piwsl"]
    words = sorted(options.get("terms") or {})
    if options.get("noisy_nodes"):
        words.append("noisy_nodes")
    words = words or ["supervised"]
    displacement = options.get("displacement") or {}
    if displacement:
        words.append(f"e{displacement.get('epsilon_max_angstrom', 0):g}")
    words += [
        word
        for word, usual in (
            (displacement.get("name", "uniform"), "uniform"),
            (f"{100 * displacement.get('atom_fraction', 1):g}pc", "100pc"),
            (options.get("metric", "mse"), "mse"),
        )
        if word != usual
    ]
    losses = [item for loss in config["loss_functions"] for item in loss.items()]
    if any(target == "forces" and not loss["coefficient"] for target, loss in losses):
        words.append("no_forces")
    return "+".join(words)


def settings_key(config: Mapping[str, Any]) -> str:
    """Return twelve digits of everything that makes a training, apart from data and seed."""
    return digest({name: config.get(name) for name in SECTIONS})


def _at_scale(settings: Settings, table: PaperTable, scale: Scale) -> tuple[Settings, str]:
    """Return what is run in place of the published settings, and a note on the difference."""
    if scale.name != "cpu":
        return settings, ""
    small, note = table.content.cpu, ""
    if small.train is not None and small.train != settings.train:
        note = f"N = {small.train} in place of {settings.train}"
        settings = settings.model_copy(update={"train": small.train})
    return settings, note


def _left_out(row: str, settings: Settings, table: PaperTable, scale: Scale) -> str | None:
    """Return why a row is not trained at a scale, None if it is."""
    if scale.name != "cpu" or row in table.content.cpu.rows:
        return None
    models = table.content.cpu.models
    if models is not None:
        told = f"run with {' and '.join(models)} alone at this scale"
        return None if settings.model in models else told
    if settings.model == "painn" or settings.train == scale.five_models_at:
        return None
    return f"N = {settings.train}: run with painn alone at this scale"


def _change_weak_losses(options: dict[str, Any], settings: Settings) -> None:
    """Apply what is left out and the factor of the weights; drop what has no effect."""
    factor = 1.0 if settings.weights_times is None else settings.weights_times
    options["terms"] = {
        name: round(float(weight) * factor, 12)
        for name, weight in (options.get("terms") or {}).items()
        if name not in (settings.without or ()) and weight > 0
    }
    if not options["terms"] and not options.get("noisy_nodes"):
        for name in ("displacement", "metric"):
            options.pop(name, None)


def _leave_forces_out(config: dict[str, Any]) -> None:
    """Give the force part of the supervised loss a coefficient of 0."""
    config["loss_functions"] = [
        {
            target: {**options, "coefficient": 0 if target == "forces" else options["coefficient"]}
            for target, options in loss.items()
        }
        for loss in config["loss_functions"]
    ]


def _set_steps(config: dict[str, Any], settings: Settings, scale: Scale) -> None:
    """Set steps, the schedule that depends on them and, at CPU scale, the validations."""
    optim = config["optim"]
    if scale.steps:
        size = max(size for size in scale.steps if size <= settings.train)
        optim["max_steps"] = scale.steps[size]
    optim["max_steps"] = round(optim["max_steps"] * (settings.steps_times or 1))
    if optim.get("scheduler") == "CosineAnnealingLR":
        optim["T_max"] = optim["max_steps"]
    if scale.steps:
        optim["eval_every"] = max(1, optim["max_steps"] // EVALUATIONS)


@cache
def _composed(parts: tuple[str, ...]) -> dict[str, Any]:
    return compose(parts, {})


@cache
def _cases() -> dict[str, dict[str, str]]:
    return yaml.safe_load((configs_folder() / grid.CASES_FILE).read_text())
