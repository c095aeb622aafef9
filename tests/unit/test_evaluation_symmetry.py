"""Symmetry errors of potentials whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones

from piwsl_ocp.consistency.potential import Prediction
from piwsl_ocp.evaluation.symmetry import permutation_error, rotation_error, translation_error

STRUCTURES = [molecule("CH3CH2OH"), bulk("Ar", cubic=True)]
STRUCTURES[1].rattle(0.1, seed=0)


def lennard_jones(structures: list[Atoms]) -> list[Prediction]:
    """Return the values of a potential that has every symmetry."""
    predictions = []
    for atoms in structures:
        atoms.calc = LennardJones(sigma=1.2, epsilon=0.5, rc=6.0)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        predictions.append(Prediction(torch.tensor([energy]), torch.as_tensor(forces)))
    return predictions


@pytest.mark.parametrize("error", [rotation_error, translation_error, permutation_error])
def test_a_symmetric_potential_has_none(error) -> None:
    found = error(lennard_jones, STRUCTURES)
    assert found.energy < 1e-9
    assert found.forces < 1e-9


def test_a_field_along_x_breaks_rotation_and_translation_alone() -> None:
    atoms = [Atoms("H2", [[0.0, 0, 0], [1.0, 0, 0]])]

    def field(structures: list[Atoms]) -> list[Prediction]:
        force = torch.tensor([[1.0, 0.0, 0.0]]).double()
        return [
            Prediction(torch.tensor([-a.positions[:, 0].sum()]), force.expand(len(a), 3))
            for a in structures
        ]

    assert permutation_error(field, atoms).energy < 1e-12
    shifts = np.random.default_rng(0).uniform(-5, 5, (4000, 3))
    expected = 2 * np.sqrt(np.mean(shifts[:, 0] ** 2))
    assert translation_error(field, atoms, repetitions=4000).energy == pytest.approx(expected)
    assert translation_error(field, atoms).forces == 0
    turned = rotation_error(field, atoms, repetitions=4000)
    # |e_x - R e_x|^2 = 2 - 2 cos has the mean 2; the energy changes by 1 - cos, mean square 4/3.
    assert turned.forces == pytest.approx(np.sqrt(2), rel=0.05)
    assert turned.energy == pytest.approx(np.sqrt(4 / 3), rel=0.05)
