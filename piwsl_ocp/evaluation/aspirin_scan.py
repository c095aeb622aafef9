"""The C-H bond of the embedded aspirin: its GFN2-xTB energy profile and those of trained models."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas
from ase import Atoms

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.datasets.sources.embedded import FOLDER
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.bond_scan import DISTANCES_ANGSTROM, BondProfile, find_bond, stretched
from piwsl_ocp.units import energy_factor

if TYPE_CHECKING:
    from piwsl_ocp.ocp.predictor import Predictor

METHOD = "GFN2-xTB"
ASPIRIN_FILE = FOLDER / "aspirin.npz"
SCAN_FILE = FOLDER / "aspirin_bond_scan.csv"

_COMMAND = "python scripts/make_bond_scan.py"


@dataclass(frozen=True)
class AspirinScan:
    """The scanned molecule and its reference.

    Attributes:
        atoms: the shipped aspirin structure of lowest energy.
        bond: indices of the carbon that stays and the hydrogen that moves.
        reference: total GFN2-xTB energies along the bond, in eV.
    """

    atoms: Atoms
    bond: tuple[int, int]
    reference: BondProfile

    @property
    def frames(self) -> list[Atoms]:
        """The molecule at every bond length."""
        return stretched(self.atoms, self.bond, self.reference.distances_angstrom)

    def of_model(self, predictor: Predictor) -> BondProfile:
        """Return the profile of a model, in the unit it was trained in."""
        predictions = predictor.predict_atoms(self.frames)
        energies = tuple(float(prediction.energy) for prediction in predictions)
        return BondProfile(self.reference.distances_angstrom, energies, predictor.unit)


def aspirin() -> Atoms:
    """Return the shipped aspirin structure of lowest energy."""
    with np.load(ASPIRIN_FILE) as file:
        lowest = int(np.argmin(file["energies"]))
        return Atoms(file["nuclear_charges"], np.asarray(file["coords"][lowest], float))


def read_scan(unit: str, path: Path = SCAN_FILE) -> AspirinScan:
    """Return the scan with its reference in an energy unit.

    Raises:
        UserError: if the file is missing, damaged, or was made from another geometry.
    """
    atoms = aspirin()
    try:
        text = path.read_text()
        facts = json.loads(text.splitlines()[0].removeprefix("# "))
        table = pandas.read_csv(io.StringIO(text), comment="#")
        distances, energies = (table[name] for name in ("distance_angstrom", "energy_eV"))
        geometry, bond = facts["geometry_sha256"], tuple(facts["bond"])
    except FileNotFoundError:
        raise UserError(f"no bond scan at '{path}': make it with `{_COMMAND}`") from None
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(f"'{path}' is damaged ({error}): make it with `{_COMMAND}`") from error
    if geometry != _checksum(atoms):
        raise UserError(f"'{path}' belongs to another aspirin geometry: renew it with `{_COMMAND}`")
    factor = energy_factor("eV", unit)
    profile = BondProfile(tuple(distances), tuple(factor * energies), unit)
    return AspirinScan(atoms, bond, profile)


def make_scan(path: Path = SCAN_FILE) -> Path:
    """Compute the reference profile with tblite and write it as CSV, with its provenance.

    Raises:
        UserError: if tblite is not installed.
    """
    from piwsl_ocp.datasets.xtb_files import add_provenance
    from piwsl_ocp.datasets.xtb_sampling import LABEL_ACCURACY, xtb_calculator

    atoms, calculator = aspirin(), xtb_calculator(METHOD, LABEL_ACCURACY)
    bond = find_bond(atoms)
    energies = []
    for frame in stretched(atoms, bond):
        frame.calc = calculator
        energies.append(frame.get_potential_energy())
    facts = {
        "layout": "CSV: distance of the bond in Angstrom, total energy in eV",
        "method": METHOD,
        "program": {name: version(name) for name in ("tblite", "ase", "numpy")},
        "label_accuracy": LABEL_ACCURACY,
        "geometry": f"structure of lowest energy in {ASPIRIN_FILE.name}",
        "geometry_sha256": _checksum(atoms),
        "bond": list(bond),
        "bond_elements": [atoms.symbols[atom] for atom in bond],
        "moved": "the second atom, along the bond; all others stay",
        "command": _COMMAND,
    }
    lines = [f"# {json.dumps(facts)}", "distance_angstrom,energy_eV"]
    lines += [f"{d:.2f},{e:.8f}" for d, e in zip(DISTANCES_ANGSTROM, energies, strict=True)]
    text = "\n".join(lines) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    add_provenance(path, facts)
    return path


def _checksum(atoms: Atoms) -> str:
    """Return a checksum of elements and positions, the latter to 1e-6 Angstrom."""
    content = atoms.numbers.astype("<i4").tobytes()
    content += np.round(atoms.positions * 1e6).astype("<i8").tobytes()
    return hashlib.sha256(content).hexdigest()
