"""The labels of a training: their unit, their statistics, and the common scale of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch

from piwsl_ocp.consistency.potential import Labels
from piwsl_ocp.datasets import DatasetInfo, SplitInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

#: Records read for the statistics of an LMDB that has no `dataset.json`.
MAX_RECORDS = 10_000


@dataclass(frozen=True)
class SplitStatistics:
    """Count, mean and standard deviation of the energies, root mean square force component."""

    count: int
    energy_mean: float
    energy_std: float
    force_rms: float


@dataclass(frozen=True)
class LabelStatistics:
    """Unit and statistics of the labels, energies free of references.

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


def reference_labels(batch: Batch) -> Labels:
    """Return the reference energies of a batch and, where it carries them, the forces."""
    energy = torch.as_tensor(batch.energy, device=batch.pos.device).to(batch.pos.dtype)
    forces = batch.forces.to(batch.pos.dtype) if "forces" in batch else None
    return Labels(energy=energy.reshape(-1), forces=forces)


def statistics(
    config: Mapping[str, Any], declared_unit: str | None, datasets: Mapping[str, Any]
) -> LabelStatistics:
    """Read unit and statistics from `dataset.json`, or measure them where there is none.

    Args:
        config: the trainer's configuration.
        declared_unit: `optim.piwsl.energy_unit`.
        datasets: the loaded data set of each split, for data without `dataset.json`.

    Raises:
        UserError: if no unit is known, or the declared one contradicts the data.
    """
    folder = dataset_folder(config)
    if (folder / "dataset.json").is_file():
        info = DatasetInfo.read(folder)
        if declared_unit not in (None, info.unit):
            raise UserError(
                f"optim.piwsl.energy_unit says '{declared_unit}', but {folder / 'dataset.json'} "
                f"says '{info.unit}': remove the option"
            )
        splits = {name: _known(split) for name, split in info.splits.items()}
        return LabelStatistics(info.unit, splits, info.as_dict())
    if declared_unit is None:
        raise UserError(
            f"'{folder}' has no dataset.json, so the unit of its labels is unknown: "
            "set optim.piwsl.energy_unit, or make the data with `piwsl data convert`"
        )
    splits = {name: _measured(data) for name, data in datasets.items() if data is not None}
    return LabelStatistics(declared_unit, splits, {})


def dataset_folder(config: Mapping[str, Any]) -> Path:
    """Return the folder of a converted data set from the path of its training split."""
    return Path(config["dataset"]["src"]).parent.parent


def _known(split: SplitInfo) -> SplitStatistics:
    return SplitStatistics(split.count, split.energy_mean, split.energy_std, split.force_rms)


def _measured(dataset: Any) -> SplitStatistics:
    records = range(min(len(dataset), MAX_RECORDS))
    labels = [(float(dataset[i].energy), dataset[i].forces.double()) for i in records]
    energies = np.array([energy for energy, _ in labels])
    forces = torch.cat([forces for _, forces in labels])
    return SplitStatistics(
        count=len(dataset),
        energy_mean=float(energies.mean()),
        energy_std=float(energies.std()),
        force_rms=float(forces.square().mean().sqrt()),
    )
