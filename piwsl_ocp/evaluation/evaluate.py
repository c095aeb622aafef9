"""Evaluate a trained model on a split of a data set and keep the result in its run folder."""

from __future__ import annotations

import json
import re
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
from piwsl_ocp.ocp.labels import check_same_labels
from piwsl_ocp.ocp.predictor import Predictions, Predictor, checkpoint_path
from piwsl_ocp.units import energy_factor

#: Structures whose energies are evaluated repeatedly for the noise floor.
NOISE_STRUCTURES = 8


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
        file: where this is kept.
    """

    split: str
    checkpoint: Path
    dataset: Mapping[str, str]
    training: Mapping[str, Any]
    errors: Errors
    consistency: ConsistencyError
    noise_floor: float
    file: Path

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

    `<split>.json` and `predictions_<split>.npz` are written into the `results_folder`, each when it
    is complete; an earlier result for the same split of the same data is replaced.

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
    folder, info = data_to_evaluate(predictor, dataset_folder, split)
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
        file=results_folder(source, predictor, info, split) / f"{split}.json",
    )
    _write(evaluation, predictions)
    return evaluation


def data_to_evaluate(
    predictor: Predictor, dataset_folder: Path | str | None, split: str
) -> tuple[Path, DatasetInfo]:
    """Return folder and facts of the data set to evaluate on.

    Args:
        predictor: the model.
        dataset_folder: a converted data set; that of the training by default.
        split: train, val or test.

    Raises:
        UserError: if the data do not fit the model, lack the split, or are by default not those of
            the training any more.
    """
    folder = Path(dataset_folder) if dataset_folder else training_data(predictor)
    info, trained = DatasetInfo.read(folder), predictor.info.get("data")
    if not trained:
        raise UserError(
            "the checkpoint does not say what data it was trained on: train on a data set made by "
            "`piwsl data convert`"
        )
    references = predictor.references
    check_same_labels(info, predictor.unit, trained["elements"], references, f"'{folder}'")
    if split not in info.splits:
        raise UserError(f"'{folder}' has no split '{split}': use one of {', '.join(info.splits)}")
    if not dataset_folder and not _is_own(predictor, info, split):
        raise UserError(
            f"the split '{split}' of '{folder}' was made anew since the training, its checksum "
            f"differs: convert the data as before, or say --data {folder} to evaluate on it"
        )
    return folder, info


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


def results_folder(source: Path | str, predictor: Predictor, info: DatasetInfo, split: str) -> Path:
    """Return the folder for results on a split: `results` of the run folder, or one in it.

    Results of another checkpoint than the best one go to a folder of that checkpoint's name, those
    on other data than the training's own to one of the data set's name and checksum.

    Args:
        source: a run folder or checkpoint file.
        predictor: its model.
        info: the data set.
        split: a split of it.
    """
    folder, name = run_folder_of(source) / "results", checkpoint_path(source).stem
    if name != "best_checkpoint":
        folder /= name
    if not _is_own(predictor, info, split):
        word = re.sub(r"[^A-Za-z0-9_.]+", "_", info.name)
        folder /= f"{word}-{info.splits[split].checksum[:8]}"
    return folder


def _is_own(predictor: Predictor, info: DatasetInfo, split: str) -> bool:
    """Return whether a split of a data set is that of the training's own data set."""
    own = predictor.info["data"]["splits"].get(split, {})
    return own.get("checksum") == info.splits[split].checksum


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


def _write(evaluation: Evaluation, predictions: Predictions) -> None:
    arrays = {key: np.asarray(value) for key, value in asdict(predictions).items()}
    text = json.dumps(evaluation.to_dict(), indent=2) + "\n"
    write_atomically(
        evaluation.file.with_name(f"predictions_{evaluation.split}.npz"),
        lambda file: np.savez_compressed(file, **arrays),
    )
    write_atomically(evaluation.file, lambda file: file.write(text.encode()))
