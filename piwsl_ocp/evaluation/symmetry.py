"""How well a potential keeps the symmetries of physics: rotation, translation, permutation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from piwsl_ocp.consistency.potential import Prediction

Predict = Callable[[Sequence[Atoms]], Sequence[Prediction]]


@dataclass(frozen=True)
class SymmetryError:
    """What a symmetry operation changes that it should not.

    Attributes:
        energy: root mean square of E(g S) - E(S) over structures and operations, in the
            potential's unit.
        forces: root mean square of |F(g S) - g F(S)| / |F(S)| with norms over a structure.
    """

    energy: float
    forces: float


def rotation_error(
    predict: Predict, structures: Sequence[Atoms], repetitions: int = 5, seed: int = 0
) -> SymmetryError:
    """Compare structures with copies turned as a whole, cell included, by uniform rotations."""
    rotations = Rotation.random(repetitions, random_state=seed).as_matrix()
    return _error(predict, structures, [_turned(r) for r in rotations])


def translation_error(
    predict: Predict, structures: Sequence[Atoms], repetitions: int = 5, seed: int = 0
) -> SymmetryError:
    """Compare structures with copies shifted by up to 5 Angstrom along each axis."""
    shifts = np.random.default_rng(seed).uniform(-5, 5, (repetitions, 3))
    return _error(predict, structures, [_shifted(shift) for shift in shifts])


def permutation_error(
    predict: Predict, structures: Sequence[Atoms], repetitions: int = 5, seed: int = 0
) -> SymmetryError:
    """Compare structures with copies whose atoms stand in another order."""
    return _error(predict, structures, [_reordered(seed + n) for n in range(repetitions)])


#: An operation: a structure -> the changed structure, and what it does to the forces.
_Operation = Callable[[Atoms], tuple[Atoms, Callable[[NDArray], NDArray]]]


def _turned(rotation: NDArray) -> _Operation:
    def operate(atoms: Atoms) -> tuple[Atoms, Callable[[NDArray], NDArray]]:
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ rotation.T)
        turned.positions = atoms.positions @ rotation.T
        return turned, lambda forces: forces @ rotation.T

    return operate


def _shifted(shift: NDArray) -> _Operation:
    def operate(atoms: Atoms) -> tuple[Atoms, Callable[[NDArray], NDArray]]:
        shifted = atoms.copy()
        shifted.positions += shift
        return shifted, lambda forces: forces

    return operate


def _reordered(seed: int) -> _Operation:
    def operate(atoms: Atoms) -> tuple[Atoms, Callable[[NDArray], NDArray]]:
        order = np.random.default_rng(seed).permutation(len(atoms))
        return atoms[order], lambda forces: forces[order]

    return operate


def _error(
    predict: Predict, structures: Sequence[Atoms], operations: Sequence[_Operation]
) -> SymmetryError:
    plain = predict(structures)
    energies, forces = [], []
    for operate in operations:
        changed, transforms = zip(*(operate(atoms) for atoms in structures), strict=True)
        found = predict(changed)
        for before, after, transform in zip(plain, found, transforms, strict=True):
            expected = transform(before.forces.numpy(force=True))
            difference = after.forces.numpy(force=True) - expected
            energies.append(float(after.energy) - float(before.energy))
            forces.append(np.linalg.norm(difference) / np.linalg.norm(expected))
    return SymmetryError(*(float(np.sqrt(np.mean(np.square(v)))) for v in (energies, forces)))
