"""Bond scan: which bond, which atoms move, how profiles are compared."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.bond_scan import (
    DISTANCES_ANGSTROM,
    BondProfile,
    find_bond,
    stretched,
)


def test_the_first_hydrogen_on_carbon_is_found() -> None:
    methanol = molecule("CH3OH")  # C O H(on C) H(on O) H H
    carbon, hydrogen = find_bond(methanol)
    assert methanol.symbols[carbon] == "C"
    assert methanol.symbols[hydrogen] == "H"
    assert hydrogen == 2
    assert methanol.get_distance(carbon, hydrogen) == pytest.approx(1.09, abs=0.03)


def test_a_hydrogen_on_another_element_is_no_such_bond() -> None:
    methanol = molecule("CH3OH")
    assert find_bond(methanol, "O", "H") == (1, 3)
    with pytest.raises(UserError, match="no C-H bond in H2O"):
        find_bond(molecule("H2O"))
    with pytest.raises(UserError, match="no C-H bond"):
        find_bond(Atoms("CH", positions=[[0, 0, 0], [0, 0, 3.0]]))


def test_only_the_light_atom_moves_and_along_the_bond() -> None:
    methanol = molecule("CH3OH")
    before = methanol.positions.copy()
    bond = find_bond(methanol)
    frames = stretched(methanol, bond)
    assert len(frames) == len(DISTANCES_ANGSTROM) == 101
    lengths = [frame.get_distance(*bond) for frame in frames]
    np.testing.assert_allclose(lengths, np.linspace(0.8, 1.8, 101), atol=1e-9)
    others = [atom for atom in range(len(methanol)) if atom != bond[1]]
    for frame in frames:
        np.testing.assert_array_equal(frame.positions[others], before[others])
        direction = frame.positions[bond[1]] - frame.positions[bond[0]]
        assert np.linalg.norm(np.cross(direction, before[bond[1]] - before[bond[0]])) < 1e-9
    np.testing.assert_array_equal(methanol.positions, before)


def test_profiles_are_compared_with_zero_at_the_minimum_of_the_reference() -> None:
    lengths = (1.0, 1.1, 1.2, 1.3)
    reference = BondProfile(lengths, (2.0, 1.0, 3.0, 5.0), "kcal/mol")
    shifted = BondProfile(lengths, (102.0, 101.0, 103.0, 105.0), "kcal/mol")
    wrong = BondProfile(lengths, (102.0, 101.0, 103.0, 109.0), "kcal/mol")
    assert reference.at_minimum() == 1.1
    assert shifted.rmse(reference) == pytest.approx(0.0, abs=1e-12)
    assert wrong.rmse(reference) == pytest.approx(2.0, rel=1e-12)
    assert wrong.rmse(reference, within_angstrom=(1.0, 1.2)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="different bond lengths or energy units"):
        reference.rmse(BondProfile(lengths, (0.0, 0.0, 0.0, 0.0), "eV"))
