"""The shipped data files: layout, counts, chemistry, and labels against tblite."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.neighborlist import natural_cutoffs

from piwsl_ocp.datasets.sources.embedded import FOLDER
from piwsl_ocp.datasets.xtb_files import PROVENANCE
from piwsl_ocp.datasets.xtb_sampling import label
from piwsl_ocp.datasets.xtb_starts import (
    BOND_TOLERANCE,
    aspirin,
    bonds,
    ethanol,
    group_formula,
)

KCAL_PER_MOL = units.kcal / units.mol
ENERGY_TOLERANCE_EV = 1e-6 * units.Hartree
FORCE_TOLERANCE_EV = 1e-4


@dataclass(frozen=True)
class Labelled:
    """Structures of one file in eV and Angstrom."""

    atoms: list[Atoms]
    energies: np.ndarray
    forces: list[np.ndarray]


def read_npz(name: str) -> Labelled:
    with np.load(FOLDER / name) as content:
        atoms = [Atoms(content["nuclear_charges"], frame) for frame in content["coords"]]
        forces = content["forces"].astype(np.float64) * KCAL_PER_MOL
        return Labelled(atoms, content["energies"] * KCAL_PER_MOL, list(forces))


def read_molecules(name: str) -> Labelled:
    atoms, energies, forces = [], [], []
    with h5py.File(FOLDER / name) as file:
        for group in file.values():
            atoms += [Atoms(group["atomic_numbers"][:], frame) for frame in group["coordinates"][:]]
            energies += list(group["gfn2_xtb.energy"][:] * units.Hartree)
            forces += list(group["gfn2_xtb.forces"][:].astype(np.float64) * units.Hartree)
    return Labelled(atoms, np.array(energies), forces)


def read_oxide(name: str) -> Labelled:
    atoms, energies, forces = [], [], []
    with tarfile.open(FOLDER / name) as archive:
        for member in archive:
            lines = archive.extractfile(member).read().decode().splitlines()
            assert lines[2:4] == ["CRYSTAL", "PRIMVEC"]
            rows = [line.split() for line in lines[9:]]
            assert lines[7] == "PRIMCOORD"
            assert int(lines[8].split()[0]) == len(rows)
            numbers = np.array([row[1:] for row in rows], dtype=float)
            cell = [[float(word) for word in line.split()] for line in lines[4:7]]
            symbols = [row[0] for row in rows]
            atoms.append(Atoms(symbols, numbers[:, :3], cell=cell, pbc=True))
            energies.append(float(lines[0].removeprefix("# total energy =").removesuffix("eV")))
            forces.append(numbers[:, 3:])
    return Labelled(atoms, np.array(energies), forces)


READERS: dict[str, Callable[[str], Labelled]] = {
    "aspirin.npz": read_npz,
    "ethanol.npz": read_npz,
    "molecules.h5": read_molecules,
    "oxide_xsf.tar.xz": read_oxide,
}
COUNTS = {"aspirin.npz": 1000, "ethanol.npz": 1000, "molecules.h5": 504, "oxide_xsf.tar.xz": 300}
MOLECULES = {"aspirin.npz": ("C9H8O4", aspirin), "ethanol.npz": ("C2H6O", ethanol)}


@pytest.fixture(scope="module")
def provenance() -> dict[str, dict]:
    return json.loads((FOLDER / PROVENANCE).read_text())


@pytest.fixture(scope="module", params=READERS)
def shipped(request: pytest.FixtureRequest) -> tuple[str, Labelled]:
    return request.param, READERS[request.param](request.param)


def test_files_are_those_their_provenance_describes(provenance: dict[str, dict]) -> None:
    shipped = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    for name in (PROVENANCE, "README.md"):
        del shipped[name]
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in shipped.items()}
    assert checksums == {name: entry["sha256"] for name, entry in provenance.items()}


@pytest.mark.parametrize("name", READERS)
def test_structures_are_as_many_as_provenance_says(name: str, provenance: dict[str, dict]) -> None:
    assert provenance[name]["structures"] == COUNTS[name]


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000


def test_structures_are_counted_finite_and_distinct(shipped: tuple[str, Labelled]) -> None:
    name, data = shipped
    assert len(data.atoms) == len(data.energies) == len(data.forces) == COUNTS[name]
    assert np.isfinite(data.energies).all()
    assert all(np.isfinite(forces).all() for forces in data.forces)
    assert len({atoms.positions.tobytes() for atoms in data.atoms}) == COUNTS[name]


def test_forces_balance_and_spread_as_at_500_kelvin(
    shipped: tuple[str, Labelled], provenance: dict[str, dict]
) -> None:
    name, data = shipped
    net = max(np.abs(forces.sum(axis=0)).max() for forces in data.forces)
    assert net < 5e-3
    root_mean_square = np.sqrt(
        np.concatenate([forces.ravel() ** 2 for forces in data.forces]).mean()
    )
    measured = provenance[name]["measured"]["force_rms_kcal_per_mol_angstrom"] * KCAL_PER_MOL
    assert root_mean_square == pytest.approx(measured, rel=1e-3)
    assert 0.5 < root_mean_square < 2.0


@pytest.mark.usefixtures("tblite_program")
def test_labels_are_tblites_at_the_stored_positions(
    shipped: tuple[str, Labelled], provenance: dict[str, dict]
) -> None:
    name, data = shipped
    method = provenance[name]["level_of_theory"]
    for index in np.random.default_rng(0).choice(len(data.atoms), 3, replace=False):
        energy, forces = label(data.atoms[index], method)
        assert data.energies[index] == pytest.approx(energy, abs=ENERGY_TOLERANCE_EV)
        np.testing.assert_allclose(data.forces[index], forces, rtol=0, atol=FORCE_TOLERANCE_EV)


@pytest.mark.usefixtures("tblite_program")
def test_forces_are_minus_the_gradient_of_the_energy(
    shipped: tuple[str, Labelled], provenance: dict[str, dict]
) -> None:
    name, data = shipped
    method = provenance[name]["level_of_theory"]
    direction = np.random.default_rng(1).standard_normal(data.atoms[0].positions.shape)
    step_angstrom = 1e-3 / np.linalg.norm(direction)
    energies = []
    for sign in (1, -1):
        displaced = data.atoms[0].copy()
        displaced.positions += sign * step_angstrom * direction
        energies.append(label(displaced, method)[0])
    slope = (energies[0] - energies[1]) / (2 * step_angstrom)
    expected = -(data.forces[0] * direction).sum()
    assert slope == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", MOLECULES)
def test_every_frame_has_the_bonds_of_its_molecule(name: str, provenance: dict[str, dict]) -> None:
    formula, start = MOLECULES[name]
    data = read_npz(name)
    assert data.atoms[0].get_chemical_formula() == formula
    expected = np.zeros((len(start()),) * 2, dtype=bool)
    for i, j in bonds(start()):
        expected[i, j] = expected[j, i] = True
    radii = np.array(natural_cutoffs(data.atoms[0], mult=BOND_TOLERANCE))
    positions = np.array([atoms.positions for atoms in data.atoms])
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    bonded = (distances < radii[:, None] + radii) & ~np.eye(len(radii), dtype=bool)
    assert (bonded == expected).all(axis=(1, 2)).sum() == len(data.atoms)
    assert bonds(data.atoms[-1]) == bonds(start())
    assert provenance[name]["measured"]["frames_with_changed_bonds"] == 0


def test_aspirin_is_an_acetoxybenzoic_acid() -> None:
    pairs = bonds(aspirin())
    symbols = aspirin().get_chemical_symbols()
    kinds = sorted("".join(sorted(symbols[i] + symbols[j])) for i, j in pairs)
    assert [kinds.count(kind) for kind in ("CC", "CO", "CH", "HO")] == [8, 5, 7, 1]
    neighbours_of_ester = {i + j - 9 for i, j in pairs if 9 in (i, j)}
    assert neighbours_of_ester == {1, 10}


def test_molecules_are_grouped_by_formula_in_the_release_layout() -> None:
    with h5py.File(FOLDER / "molecules.h5") as file:
        for formula, group in file.items():
            structures, atoms, _ = group["coordinates"].shape
            numbers = group["atomic_numbers"][:]
            assert numbers.shape == (atoms,)
            assert group_formula(Atoms(numbers)) == formula
            assert group["gfn2_xtb.energy"].shape == (structures,)
            assert group["gfn2_xtb.energy"].dtype == np.float64
            assert group["gfn2_xtb.forces"].shape == (structures, atoms, 3)
            assert set(numbers) <= {1, 6, 7, 8}
        assert len(file) >= 40


def test_oxide_cells_differ_and_keep_their_bonds(provenance: dict[str, dict]) -> None:
    data = read_oxide("oxide_xsf.tar.xz")
    cells = {tuple(atoms.cell.array.ravel()) for atoms in data.atoms}
    volumes = np.array([atoms.get_volume() for atoms in data.atoms])
    assert len(cells) == provenance["oxide_xsf.tar.xz"]["walkers"]
    assert volumes.std() > 2.0
    assert all(atoms.get_chemical_formula() == "O6Si3" for atoms in data.atoms)
    changed = provenance["oxide_xsf.tar.xz"]["measured"]["frames_with_changed_bonds"]
    assert changed == 0


def test_neighbouring_frames_are_decorrelated(
    shipped: tuple[str, Labelled], provenance: dict[str, dict]
) -> None:
    name, _ = shipped
    measured = provenance[name]["measured"]
    assert measured["spacing_fs"] >= 2 * measured["energy_autocorrelation_time_fs"]
