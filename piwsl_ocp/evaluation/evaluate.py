"""Evaluate a trained model on a split of a data set and keep the result in its run folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from rich.progress import track
from rich.table import Table

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.consistency_error import (
    EPSILON_ANGSTROM,
    ConsistencyError,
    consistency_residuals,
    root_mean_square,
)
from piwsl_ocp.evaluation.errors import Errors, errors
from piwsl_ocp.evaluation.noise import noise_floor
from piwsl_ocp.ocp.dataset import GraphLmdbDataset
from piwsl_ocp.ocp.predictor import Predictions, Predictor, checkpoint_path
from piwsl_ocp.units import energy_factor

#: Structures whose energies are evaluated repeatedly for the noise floor.
NOISE_STRUCTURES = 8

#: Largest difference between two reference energies that count as the same, kcal/mol.
_REFERENCE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one checkpoint on one split.

    Attributes:
        split: name of the split.
        checkpoint: the checkpoint file.
        dataset: folder, name and checksum of the split.
        training: checksum and number of the structures it was trained on.
        errors: energy and force errors in the unit of the labels.
        consistency: consistency error in the same unit.
        noise_floor: standard deviation of the energy of one input over repeated evaluations.
    """

    split: str
    checkpoint: Path
    dataset: Mapping[str, str]
    training: Mapping[str, Any]
    errors: Errors
    consistency: ConsistencyError
    noise_floor: float

    @property
    def unit(self) -> str:
        """Energy unit of the labels."""
        return self.errors.unit

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the errors in the unit of the labels and in eV."""
        return {
            "split": self.split,
            "checkpoint": str(self.checkpoint),
            "dataset": dict(self.dataset),
            "training": dict(self.training),
            "unit": self.unit,
            "errors": self.errors.to_dict(),
            "errors_eV": self.errors.in_unit("eV").to_dict(),
            "consistency": self.consistency.to_dict(),
            "noise_floor": self.noise_floor,
        }

    def table(self) -> Table:
        """Return a table for the terminal."""
        table = Table(title=f"{self.checkpoint} on {self.dataset['name']}/{self.split}")
        table.add_column(f"{self.errors.structures} structures, {self.errors.atoms} atoms")
        for unit in (self.unit, "eV"):
            table.add_column(f"{unit}(/Å)", justify="right")
        in_ev, factor = self.errors.in_unit("eV"), energy_factor(self.unit, "eV")
        for name, attribute in _ROWS.items():
            values = (getattr(self.errors, attribute), getattr(in_ev, attribute))
            table.add_row(name, *(f"{value:.4g}" for value in values))
        label = f"consistency error (ε ≤ {self.consistency.epsilon_angstrom} Å)"
        for name, value in {label: self.consistency.rms, "noise floor": self.noise_floor}.items():
            table.add_row(name, f"{value:.4g}", f"{factor * value:.4g}")
        table.add_row("relative RMSE (2 = constant predictor)", f"{self.errors.relative_rmse:.4g}")
        return table


_ROWS = {
    "energy RMSE": "energy_rmse",
    "energy MAE": "energy_mae",
    "energy RMSE per atom": "energy_per_atom_rmse",
    "energy MAE per atom": "energy_per_atom_mae",
    "force RMSE per component": "force_rmse",
    "force MAE per component": "force_mae",
    "force RMSE per vector": "force_vector_rmse",
    "energy RMSE of the constant predictor": "energy_rmse_constant",
    "force RMSE of the constant predictor": "force_rmse_constant",
}


def evaluate(
    source: Path | str,
    dataset_folder: Path | str | None = None,
    split: str = "test",
    *,
    device: str | None = None,
    batch_size: int = 32,
    epsilon_angstrom: float = EPSILON_ANGSTROM,
    progress: bool = False,
) -> Evaluation:
    """Measure errors, consistency error and noise floor of a checkpoint.

    `results/<split>.json` and `results/predictions_<split>.npz` are written into the run folder,
    each when it is complete; an earlier result for the same split is replaced.

    Args:
        source: a run folder (then its best checkpoint) or a checkpoint file.
        dataset_folder: a converted data set; that of the training by default.
        split: train, val or test.
        device: where the model runs, see `find_device`.
        batch_size: structures in a batch.
        epsilon_angstrom: largest displacement of the consistency error, Angstrom.
        progress: whether to show a progress bar.

    Raises:
        UserError: if the checkpoint does not fit the data set, or something cannot be read.
    """
    predictor = Predictor.load(source, device)
    folder = Path(dataset_folder) if dataset_folder else training_data(predictor)
    info = DatasetInfo.read(folder)
    check_same_labels(predictor, info, folder)
    if split not in info.splits:
        raise UserError(f"'{folder}' has no split '{split}': use one of {', '.join(info.splits)}")

    trained = predictor.info["data"]["splits"]["train"]
    predictions = predictor.predict(folder, split, batch_size=batch_size, progress=progress)
    evaluation = Evaluation(
        split=split,
        checkpoint=checkpoint_path(source),
        dataset={
            "name": info.name,
            "folder": str(folder),
            "checksum": info.splits[split].checksum,
        },
        training={"checksum": trained["checksum"], "structures": trained["count"]},
        errors=_errors(predictions, trained["energy_mean"]),
        consistency=_consistency(predictor, folder, split, batch_size, epsilon_angstrom, progress),
        noise_floor=_noise_floor(predictor, folder, split),
    )
    _write(results_folder(source), evaluation, predictions)
    return evaluation


def check_same_labels(predictor: Predictor, info: DatasetInfo, folder: Path) -> None:
    """Refuse a data set whose energies have another unit or zero than those of the training.

    Raises:
        UserError: if unit, elements or reference energies differ.
    """
    trained = predictor.info.get("data")
    if not trained:
        raise UserError(
            "the checkpoint does not say what data it was trained on: train on a data set made by "
            "`piwsl data convert`"
        )
    if info.unit != predictor.unit:
        raise UserError(
            f"'{folder}' holds energies in {info.unit}, the model was trained in {predictor.unit}: "
            f"convert the data with --unit {predictor.unit}"
        )
    unknown = sorted(set(info.elements) - set(trained["elements"]))
    if unknown:
        raise UserError(
            f"'{folder}' holds atomic number {unknown[0]}, the model was trained on "
            f"{trained['elements']}: use data with the same elements"
        )
    tolerance = _REFERENCE_TOLERANCE * energy_factor("kcal/mol", info.unit)
    for number in info.elements:
        here, there = info.references.get(number, 0.0), predictor.references.get(number, 0.0)
        if abs(here - there) > tolerance:
            raise UserError(
                f"reference energy of atomic number {number} is {here:.6f} {info.unit} in "
                f"'{folder}' and {there:.6f} in the training: use a split of the training's own "
                "data set, or convert both with the same references"
            )


def training_data(predictor: Predictor) -> Path:
    """Return the folder of the data set that a model was trained on, as its checkpoint says.

    Raises:
        UserError: if it does not say.
    """
    training_file = predictor.config.get("dataset", {}).get("src")
    if not isinstance(training_file, str):
        raise UserError("the checkpoint does not tell its data set: name it with --data")
    return Path(training_file).parent.parent


def run_folder_of(source: Path | str) -> Path:
    """Return the run folder of a checkpoint file, or the folder itself."""
    source = Path(source)
    if source.is_dir():
        return source
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent


def results_folder(source: Path | str) -> Path:
    """Return the folder for results of a run folder or checkpoint file.

    Results of another checkpoint than the best one go to a folder of that checkpoint's name.
    """
    folder, name = run_folder_of(source) / "results", checkpoint_path(source).stem
    return folder if name == "best_checkpoint" else folder / name


def atoms_of_split(folder: Path, split: str) -> Iterator[Atoms]:
    """Yield the structures of a split, in the order of the file.

    Raises:
        UserError: if the split is missing or a record cannot be read.
    """
    dataset = GraphLmdbDataset({"src": str(folder / split / "data.lmdb")})
    for index in range(len(dataset)):
        data = dataset[index]
        yield Atoms(
            data.atomic_numbers.numpy(),
            data.pos.numpy(),
            cell=data.cell.numpy().reshape(3, 3),
            pbc=data.pbc.numpy().reshape(3),
        )


def _errors(predictions: Predictions, energy_mean_training: float) -> Errors:
    return errors(
        predictions.energy,
        predictions.energy_reference,
        predictions.forces,
        predictions.forces_reference,
        predictions.natoms,
        predictions.unit,
        energy_mean_training,
    )


@torch.no_grad()
def _consistency(
    predictor: Predictor,
    folder: Path,
    split: str,
    batch_size: int,
    epsilon_angstrom: float,
    progress: bool,
) -> ConsistencyError:
    residuals = []
    structures = track(
        list(atoms_of_split(folder, split)),
        f"displacing {split}",
        disable=not (progress and sys.stderr.isatty()),
    )
    for batch in _batched(enumerate(structures), batch_size):
        records, atoms = zip(*batch, strict=True)
        potential, moving = predictor.potential(atoms)
        residuals.append(consistency_residuals(potential, moving, records, epsilon_angstrom))
    return ConsistencyError(
        unit=predictor.unit,
        rms=root_mean_square(residuals),
        structures=sum(len(batch) for batch in residuals),
        epsilon_angstrom=epsilon_angstrom,
    )


@torch.no_grad()
def _noise_floor(predictor: Predictor, folder: Path, split: str) -> float:
    first = list(islice(atoms_of_split(folder, split), NOISE_STRUCTURES))
    return noise_floor(*predictor.potential(first))


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _write(folder: Path, evaluation: Evaluation, predictions: Predictions) -> None:
    arrays = {key: np.asarray(value) for key, value in asdict(predictions).items()}
    text = json.dumps(evaluation.to_dict(), indent=2) + "\n"
    write_atomically(
        folder / f"predictions_{evaluation.split}.npz",
        lambda file: np.savez_compressed(file, **arrays),
    )
    write_atomically(folder / f"{evaluation.split}.json", lambda file: file.write(text.encode()))
