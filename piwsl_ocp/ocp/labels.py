"""The labels of a training: their unit, their statistics, and the common scale of the loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from piwsl_ocp.consistency.potential import Labels
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.datasets.info import INFO_FILE
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.potential import records_of
from piwsl_ocp.units import energy_factor

#: Records read for the statistics of a split that no `dataset.json` tells.
MAX_RECORDS = 10_000

#: Difference of two reference energies that is rounding, in kcal/mol.
REFERENCE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SplitStatistics:
    """Count, mean and standard deviation of the energies, root mean square force component."""

    count: int
    energy_mean: float
    energy_std: float
    force_rms: float


@dataclass(frozen=True)
class LabelStatistics:
    """Unit and statistics of the labels, energies free of references of both kinds: those removed
    in the conversion, and fairchem's own `element_references`.

    Args:
        unit: energy unit of the labels.
        splits: statistics by split name; `train` is always there.
        info: the content of `dataset.json`, empty where there is none.
    """

    unit: str
    splits: dict[str, SplitStatistics]
    info: dict[str, Any]

    @property
    def kcal_per_mol(self) -> float:
        """One label energy unit in kcal/mol."""
        return energy_factor(self.unit, "kcal/mol")

    def normalizer_config(self) -> dict[str, dict[str, float]]:
        """Return fairchem's normaliser settings: the force RMS as the one scale of both targets."""
        train = self.splits["train"]
        return {
            "energy": {"mean": train.energy_mean, "rmsd": train.force_rms},
            "forces": {"mean": 0.0, "rmsd": train.force_rms},
        }

    def constant_predictor(self, split: str) -> tuple[float, float]:
        """Return E_RMSE0 and F_RMSE0: the training mean energy and zero forces as prediction."""
        target, train = self.splits[split], self.splits["train"]
        energy = np.hypot(target.energy_std, target.energy_mean - train.energy_mean)
        return float(energy), target.force_rms


def common_scale(normalizers: Mapping[str, torch.nn.Module]) -> float:
    """Return the scale s, in label units, that divides the whole loss: that of the forces."""
    return normalizers["forces"].rmsd.item() if "forces" in normalizers else 1.0


def reference_labels(
    batch: Batch, element_references: Mapping[str, torch.nn.Module] | None = None
) -> Labels:
    """Return the reference energies of a batch and, where it carries them, the forces.

    Energies have the zero of `physical_prediction`: fairchem's element references are removed.

    Args:
        batch: structures with labels.
        element_references: fairchem's own references of each target that has them.
    """
    energy = torch.as_tensor(batch.energy, device=batch.pos.device).reshape(-1, 1)
    if element_references and "energy" in element_references:
        energy = element_references["energy"].dereference(energy, batch)
    forces = batch.forces.to(batch.pos.dtype) if "forces" in batch else None
    return Labels(energy=energy.to(batch.pos.dtype).reshape(-1), forces=forces)


def check_labels(data: Batch | Data, split: str) -> None:
    """Stop at the first label that is not a finite number.

    fairchem's losses would count it, and its metrics average it, without a word.

    Args:
        data: one record or a batch; a target without labels is left out.
        split: `train`, `val` or `test`.

    Raises:
        UserError: naming the label, the record and the split.
    """
    for name in ("energy", "forces"):
        if name not in data:
            continue
        finite = torch.isfinite(torch.as_tensor(data[name]))
        if bool(finite.all()):
            continue
        bad = int((~finite.reshape(len(finite) if finite.ndim else 1, -1)).any(dim=1).nonzero()[0])
        if name == "forces":
            bad = int(data.batch[bad]) if "batch" in data else 0
        raise UserError(
            f"the label '{name}' of record {records_of(data)[bad]} of the split '{split}' is not a "
            "finite number: find such records with `piwsl data check`, and leave them out"
        )


def statistics(
    config: Mapping[str, Any], declared_unit: str | None, datasets: Mapping[str, Any]
) -> LabelStatistics:
    """Read unit and statistics from `dataset.json`, or measure them where it does not tell them.

    It tells those of a whole split: a part of one (`first_n`, `max_atoms`, `shard`) is measured.

    Args:
        config: the trainer's configuration.
        declared_unit: `optim.piwsl.energy_unit`.
        datasets: the loaded data set of each split, None where there is none.

    Raises:
        UserError: if no unit is known, the declared one contradicts the data, or the labels of a
            split are not those of the training split.
    """
    sources = {name: _source(config, name) for name, data in datasets.items() if data is not None}
    infos = {name: _info(path) for name, path in sources.items()}
    train, folder = infos["train"], dataset_folder(config)
    if train is None and declared_unit is None:
        raise UserError(
            f"'{folder}' has no dataset.json, so the unit of its labels is unknown: "
            "set optim.piwsl.energy_unit, or make the data with `piwsl data convert`"
        )
    for name, info in infos.items():
        where = f"dataset.{name}.src '{sources[name]}'"
        if info is not None and declared_unit not in (None, info.unit):
            raise UserError(
                f"optim.piwsl.energy_unit says '{declared_unit}', but {where} holds labels in "
                f"{info.unit}: remove the option"
            )
        if info is not None and train is not None:
            check_same_labels(info, train.unit, train.elements, train.references, where)
    splits = {
        name: _known(infos[name], path, len(datasets[name])) or _measured(datasets[name], name)
        for name, path in sources.items()
    }
    unit = declared_unit if train is None else train.unit
    return LabelStatistics(unit, splits, {} if train is None else train.as_dict())


def check_same_labels(
    info: DatasetInfo,
    unit: str,
    elements: Collection[int],
    references: Mapping[int, float],
    where: str,
) -> None:
    """Refuse data whose labels mean something else than those of the training.

    Args:
        info: facts of the data.
        unit: energy unit of the training data.
        elements: atomic numbers in the training data.
        references: reference energies of the training data, in `unit`.
        where: the data, for messages.

    Raises:
        UserError: if unit or reference energies differ, or there is another element.
    """
    if info.unit != unit:
        raise UserError(
            f"{where} holds labels in {info.unit}, the training data in {unit}: convert it with "
            f"--unit {unit}"
        )
    new = sorted(set(info.elements) - set(elements))
    if new:
        raise UserError(
            f"{where} holds atomic number {new[0]}, the training data {list(elements)}: use data "
            "with the same elements"
        )
    tolerance = REFERENCE_TOLERANCE * energy_factor("kcal/mol", unit)
    for number in info.elements:
        here, there = (each.get(number, 0.0) for each in (info.references, references))
        if abs(here - there) > tolerance:
            raise UserError(
                f"{where}: the reference energy of atomic number {number} is {here:.6f} {unit} "
                f"there and {there:.6f} in the training data: use splits of one conversion, or "
                "convert both with the same references"
            )


def without_element_references(
    statistics: LabelStatistics, datasets: Mapping[str, Any], element_references: torch.nn.Module
) -> LabelStatistics:
    """Return the statistics of energies less fairchem's element references.

    Args:
        statistics: of the labels as they are stored.
        datasets: the loaded data set of each split, None where there is none.
        element_references: of the energy.
    """
    energies = element_references.element_references.double().cpu()
    splits = {
        name: _measured(dataset, name, energies)
        for name, dataset in datasets.items()
        if dataset is not None
    }
    return replace(statistics, splits=splits)


def dataset_folder(config: Mapping[str, Any]) -> Path:
    """Return the folder of a converted data set from the path of its training split."""
    return Path(config["dataset"]["src"]).parent.parent


def _source(config: Mapping[str, Any], split: str) -> Path:
    return Path(config["dataset" if split == "train" else f"{split}_dataset"]["src"])


def _info(source: Path) -> DatasetInfo | None:
    """Return the facts of the converted data set that a file is a split of; None: it is of none."""
    folder = source.parent.parent
    return DatasetInfo.read(folder) if (folder / INFO_FILE).is_file() else None


def _known(info: DatasetInfo | None, source: Path, count: int) -> SplitStatistics | None:
    """Return the statistics of a split, None where they are of other records than its `count`."""
    split = None if info is None else info.splits.get(source.parent.name)
    if split is None or split.count != count:
        return None
    return SplitStatistics(split.count, split.energy_mean, split.energy_std, split.force_rms)


def _measured(
    dataset: Any, split: str, element_references: Tensor | None = None
) -> SplitStatistics:
    labels = []
    for number in range(min(len(dataset), MAX_RECORDS)):
        data = dataset[number]
        check_labels(data, split)
        energy = float(data.energy)
        if element_references is not None:
            energy -= float(element_references[data.atomic_numbers.long()].sum())
        labels.append((energy, data.forces.double()))
    energies = np.array([energy for energy, _ in labels])
    forces = torch.cat([forces for _, forces in labels])
    return SplitStatistics(
        count=len(dataset),
        energy_mean=float(energies.mean()),
        energy_std=float(energies.std()),
        force_rms=float(forces.square().mean().sqrt()),
    )
