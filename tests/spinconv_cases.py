"""Small SpinConv models and the structures they are tested on."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem, which the model imports)

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import ase.build
import numpy as np
import torch
from ase import Atoms
from torch_geometric.data import Batch, Data

from piwsl_ocp.datasets.neighbours import edges
from piwsl_ocp.models.spinconv import SpinConv

PAPER = {
    "hidden_channels": 32,
    "mid_hidden_channels": 256,
    "num_interactions": 3,
    "num_basis_functions": 512,
    "basis_width_scalar": 3.0,
    "sphere_size_lat": 16,
    "sphere_size_long": 12,
    "max_num_neighbors": 40,
    "cutoff": 6.0,
    "otf_graph": True,
}
TINY = {
    "hidden_channels": 16,
    "mid_hidden_channels": 24,
    "num_interactions": 2,
    "num_basis_functions": 16,
    "sphere_size_lat": 6,
    "sphere_size_long": 4,
    "max_num_neighbors": 14,
    "cutoff": 5.0,
    "max_num_elements": 20,
    "embedding_size": 4,
    "basis_width_scalar": 2.0,
    "otf_graph": True,
}
TINY_ODD = {
    "hidden_channels": 8,
    "mid_hidden_channels": 12,
    "num_interactions": 1,
    "num_basis_functions": 10,
    "basis_width_scalar": 1.0,
    "sphere_size_lat": 5,
    "sphere_size_long": 5,
    "max_num_neighbors": 30,
    "cutoff": 4.5,
    "max_num_elements": 20,
    "embedding_size": 3,
    "scale_distances": False,
    "otf_graph": True,
}

#: Dense and filter weights are multiplied by it; a fresh network is nearly constant.
ACTIVE = 2.5


def model(
    options: dict[str, Any] = TINY, dtype: torch.dtype = torch.float64, **others: Any
) -> SpinConv:
    """Return a model in evaluation mode with fixed weights that feel the geometry."""
    torch.manual_seed(3)
    network = SpinConv(**{**options, **others})
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1 and "embedding" not in name:
            parameter.data *= ACTIVE
    return network.to(dtype).eval()


def batch(
    structures: Sequence[Atoms],
    dtype: torch.dtype = torch.float64,
    graph: tuple[float, int] | None = None,
    **fields: torch.Tensor,
) -> Batch:
    """Return ASE structures as a fairchem batch; `graph` is the cutoff and cap of stored edges."""
    collated = Batch.from_data_list([_record(atoms, dtype, graph) for atoms in structures])
    for name, value in fields.items():
        collated[name] = value
    return collated


def aspirin() -> Atoms:
    """Return the first embedded structure of aspirin."""
    with (files("piwsl_ocp.datasets") / "embedded" / "aspirin.npz").open("rb") as file:
        data = np.load(file)
        return Atoms(data["nuclear_charges"], data["coords"][0])


def water_dimer(distance_angstrom: float = 2.9) -> Atoms:
    """Return two water molecules, rattled off every symmetry."""
    first, second = ase.build.molecule("H2O"), ase.build.molecule("H2O")
    second.rotate(70, (1, 2, 3))
    second.translate((0.3, 0.4, distance_angstrom))
    dimer = first + second
    dimer.rattle(0.05, seed=1)
    return dimer


def benzene() -> Atoms:
    """Return benzene, rattled as in molecular dynamics."""
    molecule = ase.build.molecule("C6H6")
    molecule.rattle(0.05, seed=2)
    return molecule


def oxide(rattle_angstrom: float = 0.05) -> Atoms:
    """Return the cubic cell of MgO with eight atoms."""
    crystal = ase.build.bulk("MgO", "rocksalt", a=4.21, cubic=True)
    crystal.rattle(rattle_angstrom, seed=3)
    return crystal


def _record(atoms: Atoms, dtype: torch.dtype, graph: tuple[float, int] | None) -> Data:
    record = Data(
        pos=torch.tensor(atoms.positions, dtype=dtype),
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.long),
        natoms=len(atoms),
        cell=torch.tensor(np.asarray(atoms.cell.array), dtype=dtype).view(1, 3, 3),
        pbc=torch.tensor(atoms.pbc).view(1, 3),
    )
    if graph is not None:
        found = edges(atoms.positions, atoms.cell.array, atoms.pbc, *graph)
        record.edge_index, record.cell_offsets = map(torch.as_tensor, found)
    return record
