"""A trained checkpoint as a potential: predictions for a data set or for ASE structures."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import load_state_dict, match_state_dict, setup_imports
from fairchem.core.datasets import data_list_collater
from fairchem.core.modules.normalization.element_references import create_element_references
from fairchem.core.modules.normalization.normalizer import create_normalizer
from rich.progress import track
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data

from piwsl_ocp.consistency.potential import Prediction, Structures
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.datasets.neighbours import edges, lacks_cell
from piwsl_ocp.errors import UserError
from piwsl_ocp.models.elements import check_elements
from piwsl_ocp.ocp.copies import with_positions
from piwsl_ocp.ocp.dataset import GraphLmdbDataset, graph_settings, no_edges
from piwsl_ocp.ocp.devices import find_device
from piwsl_ocp.ocp.potential import FairchemPotential, physical_prediction, structures_of
from piwsl_ocp.ocp.state import read_checkpoint


@dataclass(frozen=True)
class Predictions:
    """Predicted and reference values of a split, energies free of references, in `unit`.

    Args:
        records: (S,) record number in the LMDB.
        natoms: (S,) atoms of each structure.
        energy: (S,) predicted.
        energy_reference: (S,) labels.
        forces: (sum of natoms, 3) predicted.
        forces_reference: (sum of natoms, 3) labels.
        unit: energy unit; forces per Angstrom.
    """

    records: np.ndarray
    natoms: np.ndarray
    energy: np.ndarray
    energy_reference: np.ndarray
    forces: np.ndarray
    forces_reference: np.ndarray
    unit: str


#: Models of fairchem that compute in float32 alone -> the same model for any precision.
ANY_PRECISION = {"painn": "piwsl_ocp.models.painn.PaiNN"}


@dataclass
class Predictor:
    """A fairchem model with its weights, normalisers and units.

    Energies are free of reference energies, in `unit`; forces in `unit` per Angstrom. The graph is
    built with the cutoff and neighbour limit that the model was trained with.

    Args:
        model: the fairchem model, in evaluation mode.
        normalizers: by target name.
        config: the configuration stored in the checkpoint.
        element_references: fairchem's own references, by target name, where the training used them.
        device: where the model runs.
    """

    model: torch.nn.Module
    normalizers: Mapping[str, torch.nn.Module]
    config: dict[str, Any]
    element_references: Mapping[str, torch.nn.Module] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def load(cls, checkpoint: Path | str, device: str | None = None) -> Predictor:
        """Load a checkpoint file, or the best checkpoint of a run folder.

        Args:
            checkpoint: file or folder.
            device: where the model runs, see `find_device`.

        Raises:
            UserError: if there is none, it cannot be read, or the device is not there.
        """
        target = find_device(device)
        path = checkpoint_path(checkpoint)
        content = read_checkpoint(path, target)
        config = content["config"]
        setup_imports({"skip_experimental_imports": True})
        options = deepcopy(config["model"])
        model = registry.get_model_class(options.pop("name"))(**options)
        load_state_dict(model, match_state_dict(model.state_dict(), content["state_dict"]))
        model.otf_graph = False
        normalizers = {
            key: create_normalizer(state_dict=value).to(target)
            for key, value in content["normalizers"].items()
        }
        references = {
            key: create_element_references(state_dict=value).to(target)
            for key, value in content.get("elementrefs", {}).items()
        }
        if target.type == "cpu":
            # Radial bases give denormal numbers, which processors are slow with.
            torch.set_flush_denormal(True)
        return cls(model.to(target).eval(), normalizers, config, references, target)

    @classmethod
    def untrained(cls, options: Mapping[str, Any], seed: int = 0) -> Predictor:
        """Return a model with fresh weights, for measurements of its architecture.

        Args:
            options: section `model` of a configuration.
            seed: of the weights.
        """
        setup_imports({"skip_experimental_imports": True})
        options = deepcopy(dict(options))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = registry.get_model_class(options["name"])(
                **{key: value for key, value in options.items() if key != "name"}
            )
        model.otf_graph = False
        return cls(model.eval(), {}, {"model": options})

    def double(self) -> Predictor:
        """Return the same model in float64."""
        options = deepcopy(self.config["model"])
        name = options.pop("name")
        model = registry.get_model_class(ANY_PRECISION.get(name, name))(**options)
        model.load_state_dict(self.model.state_dict())
        model.otf_graph = False
        return replace(self, model=model.double().to(self.device).eval())

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the training: data, unit, code versions; empty for a foreign checkpoint."""
        return self.config.get("piwsl", {})

    @property
    def unit(self) -> str:
        """Energy unit of the labels it was trained on."""
        unit = self.info.get("unit")
        if unit is None:
            raise UserError(
                "the checkpoint does not say the unit of its labels: "
                "it was not trained with PIWSLTrainer"
            )
        return unit

    @property
    def references(self) -> dict[int, float]:
        """Reference energy by atomic number in `unit`: E_total = E_predicted + their sum."""
        energies = self.info.get("data", {}).get("references", {}).get("energies", {})
        return {int(number): float(value) for number, value in energies.items()}

    def predict(
        self,
        dataset_folder: Path | str,
        split: str = "test",
        batch_size: int = 32,
        progress: bool = False,
    ) -> Predictions:
        """Predict every structure of a split of a converted data set, in the order of the file.

        Raises:
            UserError: if the split is missing or its labels have another unit.
        """
        folder = Path(dataset_folder)
        unit = DatasetInfo.read(folder).unit
        if unit != self.unit:
            raise UserError(
                f"'{folder}' holds labels in {unit}, the checkpoint was trained in {self.unit}: "
                f"convert the data with --unit {self.unit}"
            )
        source = str(folder / split / "data.lmdb")
        dataset = GraphLmdbDataset({"src": source, "graph": graph_settings(self.model)})
        collate = partial(data_list_collater, otf_graph=False)
        loader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate)
        steps = track(loader, description=f"predicting {split}", disable=not progress)
        parts = [_of_batch(batch, self._evaluate(batch.to(self.device)), unit) for batch in steps]
        return _joined(parts)

    def predict_atoms(self, structures: Sequence[Atoms], batch_size: int = 32) -> list[Prediction]:
        """Predict ASE structures; one prediction a structure, energies free of references."""
        predictions = []
        for start in range(0, len(structures), batch_size):
            batch = self.batch(structures[start : start + batch_size])
            prediction = self._evaluate(batch)
            forces = prediction.forces.split(batch.natoms.tolist())
            predictions += [
                Prediction(energy=energy.reshape(1), forces=force)
                for energy, force in zip(prediction.energy, forces, strict=True)
            ]
        return predictions

    def batch(self, structures: Sequence[Atoms]) -> Batch:
        """Return ASE structures as one fairchem batch with the model's graph.

        Raises:
            UserError: for a structure that is none, or an element or a lack of edges that the
                model cannot take.
        """
        dtype = next(self.model.parameters()).dtype
        graph = graph_settings(self.model)
        cutoff = graph["cutoff_angstrom"]
        records = []
        for number, atoms in enumerate(structures):
            where = f"structure {number}" if len(structures) > 1 else "the structure"
            _check_geometry(atoms, where)
            check_elements(self.model, atoms.numbers, where)
            record = graph_data(atoms, number, cutoff, graph["max_neighbors"], dtype)
            if graph["needs_edges"] and record.edge_index.shape[1] == 0:
                raise no_edges(where, cutoff)
            records.append(record)
        return data_list_collater(records, otf_graph=False).to(self.device)

    def potential(self, structures: Sequence[Atoms]) -> tuple[FairchemPotential, Structures]:
        """Return structures and the potential over them, whose graph stays while they move."""
        batch = self.batch(structures)
        return FairchemPotential(self.model, self.normalizers, batch), structures_of(batch)

    @torch.no_grad()
    def _evaluate(self, batch: Batch) -> Prediction:
        outputs = self.model(with_positions(batch, batch.pos))
        detached = {key: value.detach() for key, value in outputs.items()}
        prediction = physical_prediction(detached, self.normalizers)
        if "energy" in self.element_references:
            energy = self.element_references["energy"](prediction.energy.reshape(-1, 1), batch)
            return Prediction(energy=energy.reshape(-1), forces=prediction.forces)
        return prediction


def checkpoint_path(path: Path | str) -> Path:
    """Return the checkpoint meant by a path: the file itself, or the best one of a run folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    return path / "checkpoints" / "best_checkpoint.pt"


def _check_geometry(atoms: Atoms, where: str) -> None:
    """Refuse a structure without atoms, finite positions or a cell where it is periodic."""
    if len(atoms) == 0:
        raise UserError(f"{where} has no atoms: leave it out")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise UserError(f"{where}: positions or cell are not finite numbers: mend or leave it out")
    if lacks_cell(atoms):
        raise UserError(
            f"{where}: periodic, but its cell has no volume, or no vector in a periodic "
            "direction: set the cell, or pbc=False"
        )


def graph_data(
    atoms: Atoms,
    record: int,
    cutoff: float,
    max_neighbors: int,
    dtype: torch.dtype = torch.float32,
) -> Data:
    """Return one ASE structure as fairchem's `Data`, edges included, labels left out.

    Args:
        atoms: the structure.
        record: its number, to be named in messages.
        cutoff: of the edges, in Angstrom.
        max_neighbors: nearest sources of each atom that are kept.
        dtype: of positions and cell.
    """
    box = np.asarray(atoms.cell.array) if atoms.pbc.any() else np.zeros((3, 3))
    # Rounded first, so that ties among neighbours are broken as in the records of a data set.
    positions, cell = (
        torch.tensor(atoms.get_positions(), dtype=dtype),
        torch.tensor(box, dtype=dtype),
    )
    edge_index, cell_offsets = edges(
        positions.numpy(), cell.numpy(), atoms.pbc, cutoff, max_neighbors
    )
    return Data(
        pos=positions,
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.long),
        natoms=len(atoms),
        tags=torch.zeros(len(atoms), dtype=torch.long),
        fixed=torch.zeros(len(atoms), dtype=torch.long),
        cell=cell.view(1, 3, 3),
        pbc=torch.tensor(atoms.pbc).view(1, 3),
        sid=record,
        record=record,
        edge_index=torch.as_tensor(edge_index),
        cell_offsets=torch.as_tensor(cell_offsets),
    )


def _of_batch(batch: Batch, prediction: Prediction, unit: str) -> Predictions:
    """Return what is kept of a batch, away from the device."""

    def array(value: Any, dtype: type) -> np.ndarray:
        return np.asarray(torch.as_tensor(value).cpu().numpy(), dtype)

    return Predictions(
        records=array(batch.record, np.int64),
        natoms=array(batch.natoms, np.int64),
        energy=array(prediction.energy, np.float64),
        energy_reference=array(batch.energy, np.float64).reshape(-1),
        forces=array(prediction.forces, np.float64),
        forces_reference=array(batch.forces, np.float64),
        unit=unit,
    )


def _joined(parts: Sequence[Predictions]) -> Predictions:
    arrays = {
        column.name: np.concatenate([getattr(part, column.name) for part in parts])
        for column in fields(Predictions)
        if column.name != "unit"
    }
    return Predictions(**arrays, unit=parts[0].unit)
