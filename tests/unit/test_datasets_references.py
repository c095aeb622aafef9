"""Reference energies: the atomic tables, the fit on training alone, what float64 keeps."""

from __future__ import annotations

import numpy as np
import pytest

from piwsl_ocp.datasets import SOURCES
from piwsl_ocp.datasets.records import to_data
from piwsl_ocp.datasets.references import (
    are_determined,
    atomic_table,
    minimum_norm_fit,
    reference_energy,
)
from piwsl_ocp.datasets.sources.source import labelled
from piwsl_ocp.datasets.survey import FittingData
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor


def test_fit_recovers_exact_element_energies():
    counts = np.array([[4, 1, 0], [6, 2, 1], [2, 0, 1], [5, 3, 2], [8, 3, 0]])
    truth = np.array([-314.1, -23738.8, -47085.9])
    fitted = minimum_norm_fit(FittingData(counts, np.array([1, 6, 8]), counts @ truth))
    assert list(fitted) == [1, 6, 8]
    np.testing.assert_allclose(list(fitted.values()), truth, rtol=1e-10)


def test_fit_of_one_composition_removes_the_mean_with_the_smallest_norm():
    counts = np.tile([[8, 9, 4]], (5, 1))
    energies = -407_000.0 + np.array([1.0, -2.0, 0.5, 3.0, -2.5])
    fitted = minimum_norm_fit(FittingData(counts, np.array([1, 6, 8]), energies))
    vector = np.array(list(fitted.values()))
    assert counts[0] @ vector == pytest.approx(energies.mean(), rel=1e-12)
    np.testing.assert_allclose(vector, counts[0] * energies.mean() / (counts[0] @ counts[0]))


def test_compositions_beside_those_of_training_are_not_determined():
    training = np.array([[2, 0, 1], [4, 0, 2], [4, 1, 0]])
    asked = np.array([[2, 0, 1], [6, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert are_determined(training, asked).tolist() == [True, True, False, False, False]
    assert are_determined(training, np.empty((0, 3))).shape == (0,)


def test_atomic_table_is_in_the_stored_unit():
    table = atomic_table(SOURCES["ani1x"], np.array([1, 6]), "kcal/mol")
    assert table[1] == pytest.approx(-0.500607632585 * 627.5095, rel=1e-6)
    oxide = atomic_table(SOURCES["tio2"], np.array([8, 22]), "eV")
    assert oxide == {8: -432.503149303, 22: -1604.604515075}


def test_atomic_table_names_what_it_lacks():
    with pytest.raises(UserError, match=r"lacks Cl.*least_squares"):
        atomic_table(SOURCES["ani1x"], np.array([1, 17]), "eV")
    with pytest.raises(UserError, match="no table of atomic energies"):
        atomic_table(SOURCES["rmd17"], np.array([1]), "eV")


def test_reference_energy_counts_atoms():
    assert reference_energy(np.array([8, 1, 1, 6]), {1: -1.0, 8: -10.0}) == -12.0


def test_subtraction_keeps_what_float32_would_lose():
    """Total energies of -400 000 kcal/mol leave 0.03 kcal/mol of float32; the rest is kept."""
    numbers = np.array([6, 1, 1, 1, 1])
    small = 0.0123456789
    total = -400_000.0 + small
    atoms = labelled(
        numbers, np.eye(5, 3), total, np.zeros((5, 3)), energy_unit="kcal/mol", origin="test"
    )
    references = {6: -399_000.0, 1: -250.0}
    data = to_data(atoms, 3, "kcal/mol", references)
    assert data.energy == pytest.approx(small, abs=1e-8)
    assert abs((np.float32(total) - np.float32(-400_000.0)) - small) > 1e-3


def test_forces_and_energies_change_unit_together_and_gradients_change_sign():
    numbers, positions = np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]])
    forces = np.array([[0.0, 0.0, -0.03], [0.0, 0.0, 0.03]])
    atoms = labelled(numbers, positions, -1.1, forces, energy_unit="Hartree", origin="test")
    factor = energy_factor("Hartree", "kcal/mol")
    data = to_data(atoms, 0, "kcal/mol", {})
    assert data.energy == pytest.approx(-1.1 * factor, rel=1e-12)
    np.testing.assert_allclose(data.forces.numpy(), forces * factor, rtol=1e-6)
    turned = to_data(atoms, 0, "kcal/mol", {}, forces_are_gradients=True)
    np.testing.assert_array_equal(turned.forces.numpy(), -data.forces.numpy())
