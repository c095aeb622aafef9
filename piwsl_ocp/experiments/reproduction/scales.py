"""The scales at which the published tables can be run, and the data sets of each."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from piwsl_ocp.datasets import ConversionOptions, DatasetInfo, convert
from piwsl_ocp.datasets.info import INFO_FILE
from piwsl_ocp.datasets.splits import SCHEMES
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.reproduction.published import Settings
from piwsl_ocp.ocp.config import configs_folder
from piwsl_ocp.ocp.options import nearest

SCALES_FILE = "scales.yml"

#: Seed of the split of a sample.
SAMPLE_SEEDS = {"first": 0, "second": 1}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Section):
    """Where the structures of a data set come from at one scale.

    Args:
        files: patterns of file names; {molecule} is put in.
        config: file of configs/datasets/<scale>; {molecule} and {size} are put in.
        sizes: sizes that have such a file.
        structures: how many the files hold, None where that is no limit.
        validation: structures for validation, None for the converter's default.
        test: structures for the test, None for the converter's default.
        split: scheme of the splits, None for the converter's default.
        references: kind of the reference energies, None for the converter's default.
    """

    files: tuple[str, ...]
    config: str
    sizes: tuple[int, ...] = ()
    structures: int | None = None
    validation: int | None = None
    test: int | None = None
    split: str | None = None
    references: str | None = None


class Scale(_Section):
    """One scale.

    Args:
        name: its name.
        seeds: runs of each training.
        folder: of a data set below the folder of all data.
        datasets: the source of each data set.
        seconds_per_step: a guess for a supervised step of each model.
        steps: steps by N; empty for those of the configuration.
        five_models_at: the only N at which other models than PaiNN are trained.
        profile: of SLURM, unless the user names another.
    """

    name: str
    seeds: int
    folder: str
    datasets: dict[str, Source]
    seconds_per_step: dict[str, float]
    steps: dict[int, int] = {}
    five_models_at: int | None = None
    profile: str = "cpu"


@dataclass(frozen=True)
class DatasetRecipe:
    """How a data set of the tables is made.

    Attributes:
        name: such as "ani1x_n100_second".
        kind: ani1x, tio2, rmd17 or lmnto.
        folder: below the folder of all data.
        patterns: file names to look for.
        options: of the conversion.
    """

    name: str
    kind: str
    folder: str
    patterns: tuple[str, ...]
    options: ConversionOptions

    def is_made(self, data: Path) -> bool:
        """Return whether it is there.

        Raises:
            UserError: if there is a data set that was made of other files or in another way.
        """
        folder = data / self.folder
        if not (folder / INFO_FILE).is_file():
            return False
        others = "; ".join(self._differences(DatasetInfo.read(folder)))
        if others:
            raise UserError(
                f"'{folder}' is not the data set {self.name} of the tables ({others}): "
                f"move it away or give another --data, and make it with {self.command(data)}"
            )
        return True

    def _differences(self, info: DatasetInfo) -> Iterator[str]:
        """Say in what a data set differs from what the recipe asks for."""
        options, requested = self.options, info.split.get("requested", {})
        for what, found, wanted in (
            ("training structures", requested.get("train"), options.train),
            ("validation structures", requested.get("val"), options.validation),
            ("test structures", requested.get("test"), options.test),
            ("split seed", info.split.get("seed"), options.split_seed),
            ("references", info.reference_kind, options.references),
            ("energy unit", info.unit, options.unit),
        ):
            if wanted is not None and found != wanted:
                yield f"{what}: {found} in place of {wanted}"
        scheme = info.split.get("scheme")
        if options.split and SCHEMES.get(scheme) is not SCHEMES[options.split]:
            yield f"split: {scheme} in place of {options.split}"
        files = [file["name"] for file in info.files]
        for pattern in self.patterns:
            if not any(fnmatch(name, pattern) for name in files):
                yield f"files: {', '.join(files)} in place of {pattern}"

    def command(self, data: Path) -> str:
        """Return the command that makes it from files in the current folder."""
        options = {
            "--n-train": self.options.train,
            "--n-val": self.options.validation,
            "--n-test": self.options.test,
            "--split": self.options.split,
            "--split-seed": self.options.split_seed or None,
            "--references": self.options.references,
            "--name": self.name,
            "--out": data / self.folder,
        }
        words = ["piwsl", "data", "convert", self.kind, *self.patterns]
        words += [str(w) for pair in options.items() if pair[1] is not None for w in pair]
        return " ".join(word if "*" in word else shlex.quote(word) for word in words)

    def provide(
        self,
        data: Path,
        source: Path | None,
        report: Callable[[str], None],
        convert_it: bool = True,
    ) -> None:
        """Make it where it is not there yet, from files anywhere below a folder.

        Args:
            data: folder of all data sets.
            source: folder of raw files, None to make nothing.
            report: receives a line when it is made.
            convert_it: whether to make it; if not, the error names what it would be made of.

        Raises:
            UserError: if it is not there and is not made.
        """
        if self.is_made(data):
            return
        if source is None:
            raise UserError(f"give --data-source FOLDER, or make it with {self.command(data)}")
        files = [_only(source, pattern) for pattern in self.patterns]
        if not convert_it:
            raise UserError(f"it would be converted from {', '.join(map(str, files))}")
        report(f"converting {self.name} into {data / self.folder}")
        convert(self.kind, files, data / self.folder, self.options, report=report)


def scale_names() -> list[str]:
    """Return the names of all scales."""
    return sorted(_all_scales())


@cache
def find_scale(name: str) -> Scale:
    """Return a scale by name.

    Raises:
        UserError: if there is none.
    """
    scales = _all_scales()
    if name not in scales:
        raise UserError(f"unknown scale '{name}'{nearest(name, scales)}")
    return Scale(name=name, **scales[name])


def recipe(settings: Settings, scale: Scale) -> DatasetRecipe:
    """Return how the data set of a training is made."""
    source = scale.datasets[settings.dataset]
    data = "_".join(filter(None, (settings.dataset, settings.molecule)))
    second = "_second" if settings.sample == "second" else ""
    return DatasetRecipe(
        name=f"{data}_n{settings.train}{second}",
        kind=settings.dataset,
        folder=scale.folder.format(data=data, train=settings.train, second=second),
        patterns=tuple(name.format(molecule=settings.molecule) for name in source.files),
        options=ConversionOptions(
            train=settings.train,
            validation=source.validation,
            test=source.test,
            split=source.split,
            split_seed=SAMPLE_SEEDS[settings.sample or "first"],
            references=source.references,
            name=f"{data}_n{settings.train}{second}",
        ),
    )


def dataset_config(settings: Settings, scale: Scale) -> str:
    """Return the file of configs/datasets/<scale> that a training takes its batch size from."""
    source = scale.datasets[settings.dataset]
    size = max((size for size in source.sizes if size <= settings.train), default=None)
    return source.config.format(molecule=settings.molecule, size=size)


def too_few_structures(settings: Settings, scale: Scale) -> str | None:
    """Return why a training set is too large for the files of a scale, None if it is not."""
    source = scale.datasets[settings.dataset]
    if source.structures is None:
        return None
    kept = (source.validation or 0) + (source.test or 0)
    if settings.train + kept <= source.structures:
        return None
    number = f"{settings.train:,}".replace(",", " ") if settings.train > 9999 else settings.train
    return (
        f"N = {number}: the sample holds {source.structures} structures, {kept} of them for "
        "validation and test"
    )


@cache
def _all_scales() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((configs_folder() / SCALES_FILE).read_text())


def _only(folder: Path, pattern: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"no folder '{folder}' with raw files: give another --data-source")
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "none"
        raise UserError(f"'{pattern}' below '{folder}': found {names}, expected one file")
    return found[0]
