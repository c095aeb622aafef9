"""The section `dataset`: the splits, and what is done to their records."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairchem.core.modules import transforms
from fairchem.core.modules.normalization.element_references import (
    create_element_references,
    fit_linear_references,
)
from fairchem.core.modules.normalization.normalizer import create_normalizer, fit_normalizers
from pydantic import Field
from torch.utils.data import Dataset

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.dataset import GraphLmdbDataset
from piwsl_ocp.ocp.sections.registered import find_class
from piwsl_ocp.ocp.sections.section import (
    Count,
    Positive,
    Section,
    check_keys,
    check_value,
    nearest,
    parse,
    refuse_misspelt,
)

SPLITS = ("train", "val", "test", "relax")

#: Formats of LMDB files that read no other keys than those of `Split`.
LMDB_FORMATS = (None, "lmdb", "single_point_lmdb", "trajectory_lmdb", "piwsl_lmdb")

#: Of these fairchem takes one at a time.
CHOICES_OF_RECORDS = ("first_n", "sample_n", "no_shuffle")

#: How a normaliser or a reference of one target is made, and how all of them are fitted.
MAKERS: dict[str, tuple[Callable, Callable]] = {
    "normalizer": (create_normalizer, fit_normalizers),
    "element_references": (create_element_references, fit_linear_references),
}


#: Keys of a split that say where its data lie and how they are read, not which they are.
PLACE_OF_DATA = ("src", "format", "graph")


class Split(Section):
    """One split, as fairchem's LMDB data sets and the trainer read it."""

    src: Any = None
    format: str | None = None
    key_mapping: dict[str, Any] | None = None
    transforms: dict[str, Any] = Field(default_factory=dict)
    metadata_path: str | None = None
    lin_ref: Any = False
    shard: int = 0
    total_shards: Count = 1
    first_n: Count | None = None
    sample_n: Count | None = None
    max_atoms: Count | None = None
    no_shuffle: bool | None = None
    subset_to: list[dict[str, Any]] = Field(default_factory=list)
    seed: int = 0
    splits: dict[str, Any] = Field(default_factory=dict)
    train_split_settings: dict[str, Any] = Field(default_factory=dict)
    val_split_settings: dict[str, Any] = Field(default_factory=dict)
    test_split_settings: dict[str, Any] = Field(default_factory=dict)
    use_train_settings: bool = True
    train_on_oc20_total_energies: bool = False
    graph: Any = None


class Scale(Section):
    """The normaliser of one target by numbers."""

    mean: float
    rmsd: Positive | None = None
    stdev: Positive | None = None


class Fit(Section):
    """How normalisers or references are fitted to the training data."""

    targets: Any
    batch_size: Count
    num_batches: Count | None = None
    num_workers: int = 0
    shuffle: bool = True


def check_dataset(
    dataset: object, needed: Sequence[str], targets: Sequence[str], default_format: type | None
) -> None:
    """Check the splits, and that the files of those that are needed exist.

    Args:
        dataset: the section.
        needed: splits that must be given.
        targets: names of all targets.
        default_format: the trainer's class of data sets where no format is given.

    Raises:
        UserError: for the first mistake.
    """
    if isinstance(dataset, list):  # fairchem's other way to write it
        dataset = dict(zip(SPLITS, dataset, strict=False))
    if not isinstance(dataset, Mapping):
        raise UserError(f"dataset: found {dataset!r}, expected the splits {', '.join(SPLITS)}")
    check_keys(dataset, SPLITS, "dataset")
    for name in needed:
        if not dataset.get(name):
            raise UserError(f"dataset.{name}.src is not set: name the LMDB of that split")
    inherited = (dataset.get("train") or {}) if isinstance(dataset.get("train"), Mapping) else {}
    for name, section in dataset.items():
        if section:
            _check_split(section, inherited, name, targets, default_format, name in needed)


def check_one_scale(dataset: object, target_scale: str) -> None:
    """Refuse a normaliser that `optim.piwsl.target_scale` would replace.

    Args:
        dataset: the section, checked.
        target_scale: `none` or `force_rms`.

    Raises:
        UserError: if both are given.
    """
    train = dataset[0] if isinstance(dataset, list) else dataset["train"]
    if target_scale != "none" and train.get("transforms", {}).get("normalizer"):
        raise UserError(
            f"dataset.train.transforms.normalizer: optim.piwsl.target_scale is {target_scale}, "
            "which makes the normalizer: leave this one out, or set target_scale: none"
        )


def _check_split(
    section: object,
    train: Mapping[str, Any],
    name: str,
    targets: Sequence[str],
    default_format: type | None,
    needed: bool,
) -> None:
    where = f"dataset.{name}"
    if not isinstance(section, Mapping):
        raise UserError(f"{where}: found {section!r}, expected a mapping with the key src")
    own = {key: value for key, value in section.items() if key in Split.model_fields}
    inherited = train.get("format") if section.get("use_train_settings", True) else None
    format_name = section.get("format", inherited)
    if format_name in LMDB_FORMATS:
        check_keys(section, Split.model_fields, where)
    else:
        refuse_misspelt(section, Split.model_fields, where)
    split = parse(Split, own, where)
    kind = default_format
    if format_name is not None:
        kind = find_class("dataset", format_name, f"{where}.format", [_path(GraphLmdbDataset)])
        if not issubclass(kind, Dataset):
            raise UserError(f"{where}.format: '{format_name}' is no data set")
    if needed or "src" in section:
        _check_source(split.src, where, kind, needed)
    both = [key for key in CHOICES_OF_RECORDS if section.get(key) is not None]
    if len(both) > 1:
        raise UserError(f"{where}: found {' and '.join(both)}, expected one of them")
    _check_key_mapping(split.key_mapping or {}, f"{where}.key_mapping")
    _check_transforms(split.transforms, targets, f"{where}.transforms")


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _check_source(source: object, where: str, kind: type | None, needed: bool) -> None:
    if source is None:
        raise UserError(f"{where}.src is not set: name the LMDB of that split")
    one_file = kind is not None and issubclass(kind, GraphLmdbDataset)
    paths = [source] if one_file or isinstance(source, str) else source
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise UserError(f"{where}.src: found {source!r}, expected the path of an LMDB")
    for path in paths if needed else ():
        if not (Path(path).is_file() if one_file else Path(path).exists()):
            raise UserError(
                f"{where}.src: no file '{path}'; make it with `piwsl data convert` "
                "(the head of the data set's file in configs/datasets shows the command)"
            )


def _check_key_mapping(mapping: Mapping[str, Any], where: str) -> None:
    for key, names in mapping.items():
        for name in names if isinstance(names, list) else [names]:
            if not isinstance(name, str):
                raise UserError(f"{where}.{key}: found {names!r}, expected the new name as text")


def _check_transforms(section: Mapping[str, Any], targets: Sequence[str], where: str) -> None:
    functions = inspect.getmembers(transforms, inspect.isfunction)
    known = [
        name
        for name, function in functions
        if [*inspect.signature(function).parameters] == ["data_object", "config"]
    ]
    check_keys(section, (*MAKERS, *known), where)
    for name, content in section.items():
        if content is None and name in MAKERS:
            continue
        if not isinstance(content, Mapping):
            raise UserError(f"{where}.{name}: found {content!r}, expected a mapping")
        if name in MAKERS:
            _check_statistics(name, content, targets, f"{where}.{name}")


def _check_statistics(
    kind: str, section: Mapping[str, Any], targets: Sequence[str], where: str
) -> None:
    """Check the normalisers or the element references: read from files, given, or fitted."""
    check_keys(section, ("file", "fit", *targets), where)
    create, fit = MAKERS[kind]
    for name, content in section.items():
        key = f"{where}.{name}"
        if name == "file":
            _check_file(content, (".pt",), key)
        elif not isinstance(content, Mapping):
            raise UserError(f"{key}: found {content!r}, expected a mapping")
        elif name == "fit":
            _check_fit(content, fit, targets, key)
        else:
            check_keys(content, inspect.signature(create).parameters, key)
            if "file" in content:
                _check_file(content["file"], (".pt", ".npz"), f"{key}.file")
            elif kind == "element_references":
                raise UserError(f"{key}.file is missing: name the file of the references")
            elif not {"state_dict", "tensor"} & set(content):
                _check_scale(content, key)


def _check_scale(section: Mapping[str, Any], where: str) -> None:
    scale = parse(Scale, section, where)
    if scale.rmsd is None and scale.stdev is None:
        raise UserError(f"{where}.rmsd is missing: fairchem needs mean and rmsd")


def _check_file(path: object, suffixes: tuple[str, ...], where: str) -> None:
    check_value(str, path, where)
    if not Path(path).is_file():
        raise UserError(f"{where}: no file '{path}'")
    if Path(path).suffix not in suffixes:
        raise UserError(f"{where}: found '{path}', expected a {' or '.join(suffixes)} file")


def _check_fit(
    section: Mapping[str, Any], fit: Callable, targets: Sequence[str], where: str
) -> None:
    taken = [key for key in inspect.signature(fit).parameters if key != "dataset"]
    check_keys(section, (*taken, "fitted"), where)
    own = {key: value for key, value in section.items() if key in Fit.model_fields}
    names = parse(Fit, own, where).targets
    if not isinstance(names, list | Mapping) or not names:
        raise UserError(f"{where}.targets: found {names!r}, expected a list of targets")
    for name in names:
        if name not in targets:
            raise UserError(
                f"{where}.targets: unknown target '{name}'{nearest(str(name), targets)}"
            )
