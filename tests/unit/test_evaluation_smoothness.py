"""Jumps of an energy along a path, against curves whose jumps are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from piwsl_ocp.consistency.potential import Prediction
from piwsl_ocp.evaluation.smoothness import EnergyPath, dimer_path

DISTANCES = np.arange(2.4, 7.0, 0.01)


def test_a_smooth_curve_has_no_jump() -> None:
    path = EnergyPath(DISTANCES, np.exp(-DISTANCES), 5.0)
    assert path.largest_jump() < 1e-4


def test_a_step_is_measured_by_the_range_of_the_energy() -> None:
    energies = 3.0 * DISTANCES + np.where(DISTANCES > 5.0, 2.0, 0.0)
    path = EnergyPath(DISTANCES, energies, 5.0)
    assert path.largest_jump() == pytest.approx(2.0 / np.ptp(energies), rel=1e-9)
    assert path.relative()[-1] == 0
    assert np.ptp(path.relative()) == pytest.approx(1.0)


def test_the_path_goes_beyond_the_cutoff_with_rigid_molecules() -> None:
    seen: list[Atoms] = []

    def distance_of_oxygens(frames: list[Atoms]) -> list[Prediction]:
        seen.extend(frames)
        energies = [float(atoms.get_distance(0, 3)) for atoms in frames]
        return [Prediction(torch.tensor([e]), torch.zeros(6, 3)) for e in energies]

    path = dimer_path(distance_of_oxygens, 5.0)
    np.testing.assert_allclose(path.energies, path.distances_angstrom, atol=1e-6)
    assert path.distances_angstrom[-1] > 6.5
    for atoms in (seen[0], seen[-1]):
        assert atoms.get_chemical_symbols() == ["O", "H", "H"] * 2
        assert atoms.get_distance(3, 4) == pytest.approx(atoms.get_distance(0, 1))
