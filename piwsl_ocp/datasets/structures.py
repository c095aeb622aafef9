"""Records of any LMDB of fairchem's layout, as plain arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from piwsl_ocp.datasets.lmdb import LmdbReader
from piwsl_ocp.errors import UserError

#: Names under which a field may be stored, the present one first.
ALIASES: dict[str, tuple[str, ...]] = {
    "positions": ("pos",),
    "numbers": ("atomic_numbers",),
    "energy": ("energy", "y"),
    "forces": ("forces", "force"),
    "cell": ("cell",),
    "pbc": ("pbc",),
    "natoms": ("natoms",),
}

REQUIRED = ("positions", "numbers", "energy", "forces")


@dataclass(frozen=True)
class Structure:
    """One record in float64.

    Args:
        positions: (N, 3) Angstrom.
        numbers: (N,) atomic numbers.
        energy: as stored.
        forces: (N, 3) as stored.
        cell: (3, 3) Angstrom, zeros for a molecule.
        pbc: (3,) bool.
        natoms: the stored number of atoms, or None.
    """

    positions: np.ndarray
    numbers: np.ndarray
    energy: float
    forces: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    natoms: int | None

    @property
    def composition(self) -> bytes:
        """The sorted atomic numbers."""
        return np.sort(self.numbers).astype(np.uint8).tobytes()

    @property
    def geometry_digest(self) -> int:
        """A hash of numbers, positions and cell in float32, as they are stored, of 64 bits."""
        digest = hashlib.blake2b(self.numbers.astype(np.uint8).tobytes(), digest_size=8)
        digest.update(self.positions.astype(np.float32).tobytes())
        digest.update(self.cell.astype(np.float32).tobytes())
        return int.from_bytes(digest.digest(), "big")


def structure(record: Any) -> Structure:
    """Return a stored record as arrays.

    Raises:
        UserError: if a field is missing or has no numbers in it; the text names no file.
    """
    fields = {name: _field(record, names) for name, names in ALIASES.items()}
    missing = [ALIASES[name][0] for name in REQUIRED if fields[name] is None]
    if missing:
        raise UserError(f"no {', '.join(missing)}: it cannot be trained on")
    try:
        cell = np.zeros((3, 3)) if fields["cell"] is None else _array(fields["cell"]).reshape(3, 3)
        periodic = cell.any() if fields["pbc"] is None else _array(fields["pbc"])
        energy = _array(fields["energy"]).reshape(-1)
        if len(energy) != 1:
            raise ValueError(f"{len(energy)} energies")
        return Structure(
            positions=_array(fields["positions"]).reshape(-1, 3),
            numbers=_array(fields["numbers"]).astype(np.int64).reshape(-1),
            energy=float(energy[0]),
            forces=_array(fields["forces"]).reshape(-1, 3),
            cell=cell,
            pbc=np.broadcast_to(np.asarray(periodic, dtype=bool).reshape(-1), 3),
            natoms=None if fields["natoms"] is None else int(_array(fields["natoms"]).item()),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"a field is not an array of the right shape ({error})") from error


class SplitFiles:
    """The records of one split, over one file or several."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.readers = [LmdbReader(file) for file in files]
        self._ends = np.cumsum([len(reader) for reader in self.readers])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Structure:
        file = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[file - 1]) if file else 0
        return structure(self.readers[file][number - before])

    def close(self) -> None:
        """Close all files."""
        for reader in self.readers:
            reader.close()

    def numbered(self) -> Iterator[tuple[int, Any, Structure | UserError]]:
        """Yield (record number, record as stored, structure or what is wrong with it)."""
        number = 0
        for reader in self.readers:
            for own in range(len(reader)):
                stored: Any = None
                try:
                    stored = reader[own]
                    found: Structure | UserError = structure(stored)
                except UserError as error:
                    found = error
                yield number, stored, found
                number += 1


def _field(record: Any, names: Sequence[str]) -> Any:
    stored = record if isinstance(record, dict) else getattr(record, "__dict__", {})
    for name in names:
        if name in stored:
            return stored[name]
        if not isinstance(record, dict) and "_store" in stored:
            value = getattr(record, name, None)
            if value is not None:
                return value
    return None


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)
