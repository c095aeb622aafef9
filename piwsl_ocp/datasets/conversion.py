"""From source files to a data set: survey, choose, take off references, write."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from piwsl_ocp.datasets.checksums import file_facts
from piwsl_ocp.datasets.info import INDICES_FILE, INFO_FILE, DatasetInfo, SplitInfo
from piwsl_ocp.datasets.progress import track
from piwsl_ocp.datasets.references import (
    FITTED,
    REFERENCES,
    ReferenceQuestion,
    are_determined,
)
from piwsl_ocp.datasets.sources import SOURCES, ReadOptions, Source
from piwsl_ocp.datasets.splits import SPLITS, Split, SplitRequest, choose
from piwsl_ocp.datasets.staging import check_replaceable, staged_folder
from piwsl_ocp.datasets.survey import Acceptance, Survey, formula, survey
from piwsl_ocp.datasets.writing import Recipe, write_splits
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

#: What a data set's folder consists of; nothing else is ever replaced.
ENTRIES = (*SPLITS, INFO_FILE, INDICES_FILE)


@dataclass(frozen=True)
class ConversionOptions:
    """How to convert; None stands for the source's own choice.

    Args:
        unit: energy unit to store; forces are in the same per Angstrom.
        references: a key of `references.REFERENCES`.
        train: structures for training.
        validation: structures for validation.
        test: structures for the test.
        split: a key of `splits.SCHEMES`.
        split_seed: seed of the permutation.
        read: what is declared about the files.
        name: of the data set.
        level_of_theory: method behind the labels.
        max_force_ev_per_angstrom: leave out structures with a larger force component.
        forces_are_gradients: the files hold +dE/dr under the name of forces.
        overwrite: replace an existing data set.
    """

    unit: str = "kcal/mol"
    references: str | None = None
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    split: str | None = None
    split_seed: int = 0
    read: ReadOptions = field(default_factory=ReadOptions)
    name: str | None = None
    level_of_theory: str | None = None
    max_force_ev_per_angstrom: float | None = None
    forces_are_gradients: bool = False
    overwrite: bool = False


DEFAULTS = ConversionOptions()


def convert(
    source_name: str,
    files: Sequence[str | Path],
    out: Path,
    options: ConversionOptions = DEFAULTS,
    *,
    progress: bool = True,
    report: Callable[[str], None] = lambda message: None,
) -> DatasetInfo:
    """Write a data set and return its facts.

    The structures are read twice, in the order of the files, and never held in memory. A folder
    that holds the same conversion already is left alone; one with anything else is refused.

    Args:
        source_name: a key of `SOURCES`.
        files: source files, or the name of a shipped one.
        out: folder to make.
        options: how.
        progress: show bars.
        report: receives one line for each thing worth knowing.

    Raises:
        UserError: if the files or the options do not do.
    """
    source, paths = _source(source_name).locate(files)
    source, options = _settled(source, options, default_name=_default_name(source_name, files))
    request = _request(source, options)
    of_files = file_facts(paths)
    _refuse_twins(paths, of_files)
    facts = {
        "name": options.name,
        "source": source.name,
        "files": tuple(of_files),
        "level_of_theory": options.level_of_theory,
        "conversion": _conversion_facts(options, request),
    }
    existing = _existing(out, facts, options.overwrite)
    if existing is not None:
        report(f"'{out}' holds this conversion already: nothing to do")
        return existing

    total = source.count(paths) if source.count else None
    found = survey(
        track(source.read(paths, options.read), "reading", total, progress),
        Acceptance(source.skips_missing, options.max_force_ev_per_angstrom),
        keep_energies=options.references == FITTED,
    )
    split = choose(found.candidates, request)
    recipe = Recipe(
        options.unit,
        _references(source, options, found, split),
        options.forces_are_gradients,
    )
    for message in _messages(found, split, recipe, options):
        report(message)
    with staged_folder(out, ENTRIES if options.overwrite else ()) as stage:
        again = track(source.read(paths, options.read), "writing", found.read, progress)
        summaries = write_splits(stage, again, split, found.read, recipe)
        info = _info(facts, options, found, recipe, request, summaries)
        info.write(stage)
        np.savez(stage / INDICES_FILE, **{name: split.records(name) for name in SPLITS})
    return info


def _refuse_twins(paths: Sequence[Path], facts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a file that is given twice, under whatever names."""
    names: dict[str, str] = {}
    for path, fact in zip(paths, facts, strict=True):
        if fact["sha256"] in names:
            raise UserError(
                f"'{path}' has the content of '{names[fact['sha256']]}', given before it: its "
                "structures would be in several splits; name it once"
            )
        names[fact["sha256"]] = fact["name"]


def _source(name: str) -> Source:
    if name in SOURCES:
        return SOURCES[name]
    near = difflib.get_close_matches(name, SOURCES, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"unknown source '{name}': {meant}use one of {', '.join(SOURCES)}")


def _default_name(source_name: str, files: Sequence[str | Path]) -> str:
    return Path(files[0]).stem if source_name == "embedded" and files else source_name


def _settled(
    source: Source, options: ConversionOptions, default_name: str
) -> tuple[Source, ConversionOptions]:
    """Return source and options with every None replaced that has a default."""
    energy_factor(options.unit, options.read.energy_unit or "eV")
    label = options.read.property or source.property
    if label is not None and not source.has_properties:
        raise UserError(
            f"--property {label}: the layout of '{source.name}' has one energy and one set of "
            "forces: leave the option out"
        )
    if label != source.property:
        # The facts of the table hold for its own label only.
        fitted = FITTED if source.references == "atomic" else source.references
        source = replace(
            source,
            atomic_energies={},
            references=fitted,
            level_of_theory=f"label '{label}' of the files",
        )
    limit = options.max_force_ev_per_angstrom
    if limit is not None and not 0 < limit < math.inf:
        raise UserError(f"--max-force {limit:g}: expected a finite number above 0, in eV/Angstrom")
    references = options.references or source.references
    if references not in REFERENCES:
        raise UserError(
            f"unknown kind of references '{references}': use one of {', '.join(REFERENCES)}"
        )
    return source, replace(
        options,
        name=options.name or default_name,
        references=references,
        read=replace(options.read, property=label),
        level_of_theory=options.level_of_theory or source.level_of_theory,
    )


def _request(source: Source, options: ConversionOptions) -> SplitRequest:
    return SplitRequest(
        train=source.sizes.train if options.train is None else options.train,
        validation=source.sizes.validation if options.validation is None else options.validation,
        test=source.sizes.test if options.test is None else options.test,
        seed=options.split_seed,
        scheme=options.split or source.split,
        keep_validation=options.validation is not None,
    )


def _conversion_facts(options: ConversionOptions, request: SplitRequest) -> dict[str, Any]:
    """Return everything that the records depend on, besides the files."""
    return {
        "unit": options.unit,
        "references": options.references,
        "energy_unit_declared": options.read.energy_unit,
        "property": options.read.property,
        "max_force_ev_per_angstrom": options.max_force_ev_per_angstrom,
        "forces_are_gradients": options.forces_are_gradients,
        "split": _split_facts(request),
    }


def _split_facts(request: SplitRequest) -> dict[str, Any]:
    return {
        "scheme": "random" if request.scheme == "paper" else request.scheme,
        "seed": request.seed,
        "requested": {
            "train": request.train,
            "val": request.validation,
            "test": request.test,
            "keep_validation": request.keep_validation,
        },
        "indices_file": INDICES_FILE,
    }


def _existing(out: Path, facts: dict[str, Any], overwrite: bool) -> DatasetInfo | None:
    """Return the data set in a folder if it is the one asked for.

    Raises:
        UserError: if the folder holds anything else.
    """
    if not (out / INFO_FILE).is_file():
        check_replaceable(out, ENTRIES if overwrite else ())
        return None
    if overwrite:
        check_replaceable(out, ENTRIES)
        return None
    info = DatasetInfo.read(out)
    different = [key for key, value in facts.items() if getattr(info, key) != value]
    if different:
        raise UserError(
            f"'{out}' holds another data set ('{info.name}', {', '.join(different)} differ): "
            "choose another --out, or replace it with --overwrite"
        )
    return info


def _references(
    source: Source, options: ConversionOptions, found: Survey, split: Split
) -> dict[int, float]:
    question = ReferenceQuestion(
        source=source,
        elements=found.elements,
        unit=options.unit,
        training=lambda: found.fitting_data(split.train, options.unit),
    )
    return REFERENCES[str(options.references)](question)


def _info(
    facts: dict[str, Any],
    options: ConversionOptions,
    found: Survey,
    recipe: Recipe,
    request: SplitRequest,
    summaries: dict[str, SplitInfo],
) -> DatasetInfo:
    return DatasetInfo(
        **facts,
        unit=options.unit,
        reference_kind=str(options.references),
        references=dict(recipe.references),
        counts={
            "read": found.read,
            "kept": len(found.candidates.records),
            "dropped": found.dropped,
        },
        elements=tuple(int(z) for z in found.elements),
        periodic=found.periodic,
        split=_split_facts(request),
        splits=summaries,
    )


def _messages(
    found: Survey, split: Split, recipe: Recipe, options: ConversionOptions
) -> Iterator[str]:
    """Yield what the user should know before the records are written."""
    for reason, number in found.dropped.items():
        yield f"{number} of {found.read} structures left out: {reason}"
    for note, number in found.notes.items():
        yield f"{number} of {found.read} structures: {note}"
    yield from split.messages
    if options.references == FITTED:
        yield from _reference_messages(found, split, recipe)


def _reference_messages(found: Survey, split: Split, recipe: Recipe) -> Iterator[str]:
    """Yield what fitted reference energies do not cover."""
    unseen = [chemical_symbols[z] for z in found.elements if int(z) not in recipe.references]
    if unseen:
        yield (
            f"{', '.join(unseen)} do not occur in training: no reference energy could be fitted; "
            "choose a larger --n-train or another --split-seed"
        )
    known = list(recipe.references)
    training, _ = found.compositions(split.train)
    others, structures = found.compositions(np.concatenate([split.val, split.test]))
    outside = others.sum(axis=1) == others[:, known].sum(axis=1)
    outside &= ~are_determined(training, others)
    if outside.any():
        yield (
            f"{structures[outside].sum()} structures of validation and test, such as "
            f"{formula(others[outside][0])}, are no combination of training compositions: their "
            "reference energy is a guess, and errors of energies mean little; leave them out, or "
            "choose a larger --n-train or another --split-seed"
        )
