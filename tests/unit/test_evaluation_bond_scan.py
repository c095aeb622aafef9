"""Bond scan: which bond, which atoms move, how profiles are compared."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from piwsl_ocp.datasets import ConversionOptions, DatasetInfo, convert
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.aspirin_scan import ASPIRIN_FILE, METHOD, read_scan
from piwsl_ocp.evaluation.bond_scan import (
    DISTANCES_ANGSTROM,
    BondProfile,
    find_bond,
    stretched,
)
from piwsl_ocp.experiments.aspirin import RESULT, bond_figure
from piwsl_ocp.experiments.compare import Comparison, compare
from tests.run_folders import make_run


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
    with pytest.raises(ValueError, match=r"no bond length from 2\.0 to 5\.9 Angstrom"):
        wrong.rmse(reference, within_angstrom=(2.0, 5.9))


def reordered_aspirin(folder: Path, level_of_theory: str) -> Path:
    """Convert ten structures of the shipped aspirin with the order of the atoms reversed."""
    with np.load(ASPIRIN_FILE) as file:
        numbers, positions = file["nuclear_charges"][::-1], file["coords"][:10, ::-1]
    frames = [Atoms(numbers, np.asarray(p, float)) for p in positions]
    for number, frame in enumerate(frames):
        frame.calc = SinglePointCalculator(frame, energy=-number, forces=positions[number])
    ase.io.write(folder / "aspirin.extxyz", frames)
    options = ConversionOptions(train=6, validation=2, test=2, level_of_theory=level_of_theory)
    convert("ase", [folder / "aspirin.extxyz"], folder / "data", options)
    return folder / "data"


def compared(folder: Path, data: Path) -> Comparison:
    """Return the comparison of a run on a data set whose kept profile is the reference."""
    changes = {"dataset.train.src": f"{data}/train/data.lmdb"}
    run = make_run(folder / "run", "supervised", changes=changes)
    path, checksum = run / "results" / "test.json", DatasetInfo.read(data).splits["train"].checksum
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "training": {"checksum": checksum, "structures": 6}}))
    reference = read_scan("kcal/mol").reference
    profile = {
        "unit": reference.unit,
        "distances_angstrom": list(reference.distances_angstrom),
        "energies": list(reference.energies),
    }
    (run / RESULT).write_text(json.dumps(profile))
    return compare([run])


def test_bond_lengths_are_those_of_the_training_data_in_any_order(tmp_path: Path) -> None:
    figure = bond_figure(compared(tmp_path, reordered_aspirin(tmp_path, METHOD)))
    assert figure is not None
    shortest, longest = figure.trained_angstrom
    assert 0.9 < shortest < 1.09 < longest < 1.3
    (profile,) = figure.profiles["supervised"]
    assert profile.rmse(figure.reference, figure.trained_angstrom) == pytest.approx(0, abs=1e-9)


def test_labels_of_another_level_of_theory_have_no_reference(tmp_path: Path) -> None:
    reasons: list[str] = []
    comparison = compared(tmp_path, reordered_aspirin(tmp_path, "DFT PBE/def2-SVP"))
    assert bond_figure(comparison, on_omission=reasons.append) is None
    (reason,) = reasons
    assert reason.startswith("the reference is GFN2-xTB, the labels of ")
    assert reason.endswith("are DFT PBE/def2-SVP")
