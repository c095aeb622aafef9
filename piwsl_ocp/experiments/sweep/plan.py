"""The file of an experiment -> the runs to make: every combination of its settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job, fingerprint
from piwsl_ocp.experiments.measurements import MEASUREMENTS
from piwsl_ocp.experiments.method import method_of
from piwsl_ocp.experiments.settings_file import read_settings
from piwsl_ocp.ocp.config import TOP_LEVEL, load_config
from piwsl_ocp.ocp.options import PIWSLOptions
from piwsl_ocp.ocp.sections.section import nearest, parse

#: Settings of an experiment that are no keys of a configuration.
OWN_SETTINGS = ("config", "seed")

_SPLITS = ("train", "val", "test")


class Experiment(BaseModel):
    """What the file of an experiment says.

    Args:
        name: of the experiment, the title of its tables.
        grid: values of each setting; every combination is one run. A setting is `config` (a
            configuration), `seed` (without it that of the configuration), or the dotted key of a
            configuration.
        set: settings that are the same in every run.
        measurements: what to measure of each run's best checkpoint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)
    measurements: list[str] = Field(default_factory=lambda: ["errors"])


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)


class _Split(_Part):
    src: str | None = None


class _Dataset(_Part):
    train: _Split | None = None
    val: _Split | None = None
    test: _Split | None = None


class _Optim(_Part):
    piwsl: PIWSLOptions | None = None


class _NamingSettings(_Part):
    """What the name of a run is made of; the rest is checked when the run is made."""

    dataset: _Dataset = Field(default_factory=_Dataset)
    model: dict[str, Any] = Field(default_factory=dict)
    optim: _Optim = Field(default_factory=_Optim)


def name_of(path: Path | str) -> str:
    """Return the name that the file of an experiment gives it.

    Raises:
        UserError: for a mistake in the file.
    """
    return _read(Path(path)).name


def read_experiment(path: Path | str, root: Path | str) -> list[Job]:
    """Read the file of an experiment and return its runs, each once, in the order of the grid.

    Args:
        path: a YAML file with the keys of `Experiment`.
        root: folder of the run folders.

    Raises:
        UserError: for a mistake in the file, or a data set that is missing.
    """
    return without_repetition(job for _, job in read_grid(path, root))


def read_grid(path: Path | str, root: Path | str) -> list[tuple[dict[str, Any], Job]]:
    """Read the file of an experiment and return each point of its grid, and the run for it.

    Args:
        path: as `read_experiment`.
        root: as `read_experiment`.

    Raises:
        UserError: as `read_experiment`.
    """
    path = Path(path)
    experiment = _read(path)
    measurements = tuple(experiment.measurements)
    try:
        return [
            (point, _job({**experiment.set, **point}, root, measurements))
            for point in _points(experiment)
        ]
    except UserError as error:
        raise UserError(f"experiment '{path}': {error}") from None


def make_job(
    config: Path | str,
    seed: int | None,
    overrides: Mapping[str, Any],
    root: Path | str,
    measurements: tuple[str, ...] = ("errors",),
) -> Job:
    """Return one run, in a folder whose name follows from its settings and data alone.

    A folder with the same digits at its end is the same run, whatever words are before them.

    Args:
        config: a configuration, see `piwsl_ocp.ocp.config.find_config`.
        seed: of the run; None for that of the configuration, or else 0.
        overrides: values of the configuration by dotted key.
        root: folder of the run folders.
        measurements: what to measure of the best checkpoint.

    Raises:
        UserError: if the configuration or its data set is missing, or a section that the name is
            made of is no such section, or the seed is no integer.
    """
    settings = load_config(config, overrides)
    parse(_NamingSettings, settings, "")
    seed = settings.get("seed", 0) if seed is None else seed
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"seed: found {seed!r}, expected an integer")
    settings["seed"] = seed
    settings.setdefault("amp", False)
    for split in _SPLITS:
        section = settings.get("dataset", {}).get(split)
        if section and section.get("src"):
            section["src"] = str(Path(section["src"]).absolute())
    source = (settings.get("dataset", {}).get("train") or {}).get("src")
    if source is None:
        raise UserError(f"'{config}' sets no dataset.train.src: name the LMDB of the training")
    data = Path(source).parent.parent
    root, digits = Path(root).absolute(), fingerprint(settings, data)[:8]
    there = sorted(path.name for path in root.glob(f"*-s{seed}-{digits}"))
    name = there[0] if there else f"{_readable(settings, data)}-{digits}"
    settings["identifier"] = name
    return Job(settings, str(root / name), str(data), measurements)


def without_repetition(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs with each run folder once; the measurements of equal runs are joined."""
    unique: dict[str, Job] = {}
    for job in jobs:
        known = unique.get(job.run_folder, job)
        measurements = tuple(dict.fromkeys((*known.measurements, *job.measurements)))
        unique[job.run_folder] = Job(
            known.config, known.run_folder, known.dataset_folder, measurements
        )
    return list(unique.values())


def _readable(settings: Mapping[str, Any], data: Path) -> str:
    """Return data set, model, method, steps and seed of a configuration as one word."""
    info = DatasetInfo.read(data)
    optim = settings.get("optim", {})
    length = f"{optim['max_steps']}steps" if "max_steps" in optim else "epochs"
    parts = (
        f"{info.name}_n{info.splits['train'].count}",
        settings.get("model", {}).get("name", "model"),
        method_of(settings).name,
        length,
        f"s{settings['seed']}",
    )
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", str(part)) for part in parts)


def _read(path: Path) -> Experiment:
    experiment = read_settings(path, "experiment", Experiment)
    try:
        _check(experiment)
    except UserError as error:
        raise UserError(f"experiment '{path}': {error}") from None
    return experiment


def _check(experiment: Experiment) -> None:
    for key, values in experiment.grid.items():
        if not values:
            raise UserError(f"grid.{key} is empty: name at least one value, or leave it out")
        if key in experiment.set:
            raise UserError(f"'{key}' is both in grid and in set: keep one of them")
    for section, keys in {"grid": experiment.grid, "set": experiment.set}.items():
        for key in keys:
            known = (*OWN_SETTINGS, *TOP_LEVEL)
            if key.split(".")[0] not in known:
                raise UserError(f"{section}.{key}: unknown setting{nearest(key, known)}")
    if not {*experiment.grid, *experiment.set} & {"config"}:
        raise UserError("names no configuration: add 'config: [experiments/...yml]' to grid")
    for name in experiment.measurements:
        if name not in MEASUREMENTS:
            raise UserError(f"measurements: unknown '{name}'{nearest(name, MEASUREMENTS)}")


def _points(experiment: Experiment) -> Iterable[dict[str, Any]]:
    for values in product(*experiment.grid.values()):
        yield dict(zip(experiment.grid, values, strict=True))


def _job(settings: Mapping[str, Any], root: Path | str, measurements: tuple[str, ...]) -> Job:
    config = settings["config"]
    if not isinstance(config, str):
        raise UserError(f"config: found {config!r}, expected the path of a configuration")
    overrides = {key: value for key, value in settings.items() if key not in OWN_SETTINGS}
    return make_job(config, settings.get("seed"), overrides, root, measurements)
