"""Energy profile of one bond that is stretched and compressed while all else stays in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers as number_of_symbol
from numpy.typing import NDArray

from piwsl_ocp.errors import UserError

#: Distances of a C-H bond, Angstrom: 0.8 to 1.8 in 100 steps.
DISTANCES_ANGSTROM: tuple[float, ...] = tuple(np.round(np.linspace(0.8, 1.8, 101), 6).tolist())

#: Longest distance that counts as a bond, Angstrom.
_LONGEST_BOND_ANGSTROM = 1.6


@dataclass(frozen=True)
class BondProfile:
    """Energies along a bond.

    Attributes:
        distances_angstrom: (D,) bond length.
        energies: (D,) energy at each length, in `unit`, with any common zero.
        unit: energy unit.
    """

    distances_angstrom: tuple[float, ...]
    energies: tuple[float, ...]
    unit: str

    def relative(self, distance_angstrom: float) -> NDArray[np.float64]:
        """Return the energies less the one at the length nearest to `distance_angstrom`."""
        energies = np.asarray(self.energies)
        return energies - energies[self._nearest(distance_angstrom)]

    def at_minimum(self) -> float:
        """Return the bond length of the lowest energy, Angstrom."""
        return self.distances_angstrom[int(np.argmin(self.energies))]

    def rmse(
        self, reference: BondProfile, within_angstrom: tuple[float, float] | None = None
    ) -> float:
        """Return the RMSE of the profile, both zero at the minimum of the reference.

        Args:
            reference: profile with the same lengths and unit.
            within_angstrom: smallest and largest length to count; all by default.

        Raises:
            ValueError: if lengths or units differ, or no length counts.
        """
        if self.unit != reference.unit or not np.allclose(
            self.distances_angstrom, reference.distances_angstrom, atol=1e-6
        ):
            raise ValueError("the profiles have different bond lengths or energy units")
        zero = reference.at_minimum()
        difference = self.relative(zero) - reference.relative(zero)
        lengths = np.asarray(self.distances_angstrom)
        low, high = within_angstrom or (lengths[0], lengths[-1])
        counted = (lengths >= low) & (lengths <= high)
        if not counted.any():
            raise ValueError(f"the profile has no bond length from {low} to {high} Angstrom")
        return float(np.sqrt(np.mean(np.square(difference[counted]))))

    def _nearest(self, distance_angstrom: float) -> int:
        return int(np.argmin(np.abs(np.asarray(self.distances_angstrom) - distance_angstrom)))


def bonds(atoms: Atoms, heavy: str = "C", light: str = "H") -> list[tuple[int, int]]:
    """Return the bonds of two elements, ordered by the index of the light atom.

    A light atom is bound to its nearest neighbour if that is no further than 1.6 Angstrom.

    Args:
        atoms: a molecule.
        heavy: symbol of the one atom.
        light: symbol of the other.

    Returns:
        Indices (heavy atom, light atom) of each bond.
    """
    numbers, distances = atoms.get_atomic_numbers(), atoms.get_all_distances()
    np.fill_diagonal(distances, np.inf)
    found = []
    for moving in np.flatnonzero(numbers == number_of_symbol[light]):
        nearest = int(np.argmin(distances[moving]))
        is_bound = distances[moving, nearest] <= _LONGEST_BOND_ANGSTROM
        if is_bound and numbers[nearest] == number_of_symbol[heavy]:
            found.append((nearest, int(moving)))
    return found


def find_bond(atoms: Atoms, heavy: str = "C", light: str = "H") -> tuple[int, int]:
    """Return the first of the `bonds` of two elements.

    Raises:
        UserError: if there is none.
    """
    found = bonds(atoms, heavy, light)
    if not found:
        raise UserError(
            f"no {heavy}-{light} bond in {atoms.get_chemical_formula()}: give a molecule with one"
        )
    return found[0]


def stretched(
    atoms: Atoms,
    bond: tuple[int, int],
    distances_angstrom: Sequence[float] = DISTANCES_ANGSTROM,
) -> list[Atoms]:
    """Return copies of a molecule with the second atom of a bond moved along it.

    Args:
        atoms: the molecule; it is not changed.
        bond: the atom that stays and the atom that moves.
        distances_angstrom: length of the bond in each copy.
    """
    fixed, moving = bond
    direction = atoms.positions[moving] - atoms.positions[fixed]
    direction = direction / np.linalg.norm(direction)
    frames = []
    for distance in distances_angstrom:
        frame = Atoms(atoms.get_atomic_numbers(), atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        frame.positions[moving] = atoms.positions[fixed] + distance * direction
        frames.append(frame)
    return frames
