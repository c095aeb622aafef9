"""One stored record: a labelled `ase.Atoms` as the `Data` object that fairchem reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from piwsl_ocp.datasets.references import reference_energy
from piwsl_ocp.datasets.survey import energy_and_forces
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

if TYPE_CHECKING:
    from torch_geometric.data import Data


def to_data(
    atoms: Atoms,
    record: int,
    unit: str,
    references: Mapping[int, float],
    forces_are_gradients: bool = False,
) -> Data:
    """Return the record of one structure.

    Atoms of a periodic structure are moved into the cell by whole cell vectors, as graph code
    that looks at a limited number of images expects. The reference energies are subtracted in
    float64.

    Args:
        atoms: a structure of a source, in eV and Angstrom.
        record: its number in the source.
        unit: energy unit to store; forces in the same per Angstrom.
        references: energy per atomic number in `unit`.
        forces_are_gradients: the file holds +dE/dr under the name of forces.

    Raises:
        UserError: if a number does not fit float32.
    """
    # Loaded at the first record: it takes seconds, in which a mistake can be told already.
    import torch
    from torch_geometric.data import Data

    factor = energy_factor("eV", unit)
    total, forces = energy_and_forces(atoms)
    energy = total * factor - reference_energy(atoms.numbers, references)
    forces = forces * (-factor if forces_are_gradients else factor)
    fixed = np.zeros(len(atoms), dtype=np.int64)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = 1
    positions = atoms.get_positions(wrap=True, eps=0) if atoms.pbc.any() else atoms.positions
    if not np.isfinite(forces.astype(np.float32)).all() or not np.isfinite(np.float32(energy)):
        raise UserError(f"{atoms.info['origin']}: energy or forces are too large for float32")
    return Data(
        pos=torch.tensor(positions, dtype=torch.float32),
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.int64),
        natoms=len(atoms),
        tags=torch.tensor(atoms.get_tags(), dtype=torch.int64),
        fixed=torch.tensor(fixed),
        cell=torch.tensor(np.asarray(atoms.cell), dtype=torch.float32)[None],
        pbc=torch.tensor(atoms.pbc)[None],
        sid=record,
        energy=energy,
        forces=torch.tensor(forces, dtype=torch.float32),
    )


class SplitSummary:
    """Counts, moments and a checksum of a split, gathered record by record in any order."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0
        self._force_squares = 0.0
        self._components = 0
        self._digest = 0

    def add(self, number: int, data: Data) -> None:
        """Take in the record stored under `number`."""
        self.count += 1
        step = data.energy - self._mean
        self._mean += step / self.count
        self._squares += step * (data.energy - self._mean)
        forces = data.forces.numpy().astype(np.float64)
        self._force_squares += float((forces**2).sum())
        self._components += forces.size
        self._digest = (self._digest + record_digest(number, data)) % 2**256

    @property
    def checksum(self) -> str:
        """Sum of the records' digests modulo 2^256, in hexadecimal digits."""
        return f"{self._digest:064x}"

    def as_dict(self) -> dict[str, float | int | str]:
        """Return the summary: energies and forces in the stored unit, forces per component."""
        return {
            "count": self.count,
            "energy_mean": self._mean,
            "energy_std": (self._squares / self.count) ** 0.5,
            "force_rms": (self._force_squares / self._components) ** 0.5,
            "checksum": self.checksum,
        }


def record_digest(number: int, data: Data) -> int:
    """Return the SHA-256 of a record's number and arrays; a split's checksum is their sum."""
    digest = hashlib.sha256(f"{number} {data.sid} {data.natoms} {data.energy!r}".encode())
    for name in ("pos", "atomic_numbers", "cell", "pbc", "forces", "tags", "fixed"):
        digest.update(np.ascontiguousarray(data[name].numpy()).tobytes())
    return int.from_bytes(digest.digest(), "big")
