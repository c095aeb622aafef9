"""Energy and force errors against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import units as ase_units

from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.errors import errors

#: Two structures, of one atom and of three, with energy errors 3 and -4.
NATOMS = np.array([1, 3])
ENERGY_REFERENCE = np.array([10.0, 20.0])
ENERGY = ENERGY_REFERENCE + np.array([3.0, -4.0])
FORCES_REFERENCE = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 2]])
FORCE_ERROR = np.array([[6.0, 0, 0], [0, 0, -1], [0, 1, 0], [1, 0, 0]])


def measured(**replaced: object):
    arguments = {
        "energy": ENERGY,
        "energy_reference": ENERGY_REFERENCE,
        "forces": FORCES_REFERENCE + FORCE_ERROR,
        "forces_reference": FORCES_REFERENCE,
        "natoms": NATOMS,
        "unit": "kcal/mol",
        "energy_mean_training": 12.0,
    }
    return errors(**{**arguments, **replaced})


def test_energy_errors_are_over_structures() -> None:
    result = measured()
    assert result.structures == 2
    assert result.atoms == 4
    assert result.energy_rmse == pytest.approx(math.sqrt((9 + 16) / 2), rel=1e-12)
    assert result.energy_mae == pytest.approx(3.5, rel=1e-12)
    assert result.energy_per_atom_rmse == pytest.approx(math.sqrt((9 + (4 / 3) ** 2) / 2))
    assert result.energy_per_atom_mae == pytest.approx((3 + 4 / 3) / 2)


def test_force_rmse_is_over_components_and_is_no_mean_of_norms() -> None:
    result = measured()
    assert result.force_rmse == pytest.approx(math.sqrt(39 / 12), rel=1e-12)
    assert result.force_mae == pytest.approx(9 / 12, rel=1e-12)
    assert result.force_vector_rmse == pytest.approx(math.sqrt(39 / 4), rel=1e-12)
    mean_of_norms = np.linalg.norm(FORCE_ERROR, axis=1).mean()
    assert abs(result.force_vector_rmse - mean_of_norms) > 0.5


def test_constant_predictor_uses_the_training_mean_and_zero_forces() -> None:
    result = measured()
    assert result.energy_rmse_constant == pytest.approx(math.sqrt((4 + 64) / 2), rel=1e-12)
    assert result.force_rmse_constant == pytest.approx(math.sqrt(9 / 12), rel=1e-12)
    expected = math.sqrt(12.5 / 34) + math.sqrt(39 / 9)
    assert result.relative_rmse == pytest.approx(expected, rel=1e-12)


def test_the_constant_predictor_has_a_relative_rmse_of_two() -> None:
    constant = measured(energy=np.full(2, 12.0), forces=np.zeros((4, 3)))
    assert constant.relative_rmse == pytest.approx(2.0, rel=1e-12)


def test_conversion_to_electronvolt_leaves_ratios_alone() -> None:
    result = measured()
    in_ev = result.in_unit("eV")
    factor = ase_units.kcal / ase_units.mol
    assert in_ev.unit == "eV"
    assert in_ev.energy_rmse == pytest.approx(factor * result.energy_rmse, rel=1e-12)
    assert in_ev.force_mae == pytest.approx(factor * result.force_mae, rel=1e-12)
    assert in_ev.relative_rmse == result.relative_rmse
    assert in_ev.structures == result.structures


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"energy has shape \(2, 1\): expected \(2,\)"):
        measured(energy=ENERGY[:, None])
    with pytest.raises(ValueError, match="forces has shape"):
        measured(natoms=np.array([1, 2]))


def test_a_force_that_is_not_finite_names_its_structure() -> None:
    forces = FORCES_REFERENCE.copy()
    forces[2, 1] = np.nan
    with pytest.raises(UserError, match="predicted force of structure 1 is not finite"):
        measured(forces=forces)


def test_no_structure_is_refused() -> None:
    nothing = np.zeros(0)
    with pytest.raises(UserError, match="no structure to compare"):
        measured(
            energy=nothing,
            energy_reference=nothing,
            forces=np.zeros((0, 3)),
            forces_reference=np.zeros((0, 3)),
            natoms=np.zeros(0, int),
        )
