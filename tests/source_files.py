"""Small files in the layouts of the published data, made from the ethanol that ships with us."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms

from piwsl_ocp.datasets.sources.embedded import FOLDER
from piwsl_ocp.units import energy_factor


def ethanol(count: int) -> dict[str, np.ndarray]:
    """Return the first frames in rMD17 keys: kcal/mol, Angstrom."""
    with np.load(FOLDER / "ethanol.npz") as stored:
        arrays = {key: stored[key] for key in ("coords", "energies", "forces")}
        numbers = stored["nuclear_charges"]
    return {"nuclear_charges": numbers, **{key: value[:count] for key, value in arrays.items()}}


def write_rmd17(path: Path, count: int = 40, **changes: np.ndarray) -> Path:
    """Write an npz in rMD17's layout with the old labels beside the new ones."""
    arrays = ethanol(count)
    old = {"old_energies": 0.0 * arrays["energies"], "old_forces": 0.0 * arrays["forces"]}
    np.savez(path, **{**arrays, **old, **changes})
    return path


def write_ani1x(path: Path, count: int = 40, label: str = "wb97x_dz", missing: int = 0) -> Path:
    """Write an HDF5 file in ANI-1x's layout in Hartree; the first labels are NaN."""
    arrays = ethanol(count)
    factor = energy_factor("kcal/mol", "Hartree")
    energies = arrays["energies"] * factor
    energies[:missing] = np.nan
    with h5py.File(path, "w") as file:
        group = file.create_group("C2H6O1")
        group["atomic_numbers"] = arrays["nuclear_charges"].astype(np.uint8)
        group["coordinates"] = arrays["coords"].astype(np.float32)
        group[f"{label}.energy"] = energies
        group[f"{label}.forces"] = (arrays["forces"] * factor).astype(np.float32)
        group["ccsd(t)_cbs.energy"] = energies
    return path


def xsf_text(frame: int = 0, energy_line: str | None = None, cell: float | None = 9.0) -> str:
    """Return one ethanol in a box as XSF in eV; in ATOMS style without a cell."""
    arrays = ethanol(frame + 1)
    factor = energy_factor("kcal/mol", "eV")
    energy = arrays["energies"][frame] * factor
    lines = [f"# total energy = {energy:.8f} eV" if energy_line is None else energy_line, ""]
    if cell is None:
        lines.append("ATOMS")
    else:
        lines += ["CRYSTAL", "PRIMVEC"]
        lines += [" ".join(f"{x:.8f}" for x in row) for row in cell * np.eye(3)]
        lines += ["PRIMCOORD", f"{len(arrays['nuclear_charges'])} 1"]
    symbols = Atoms(numbers=arrays["nuclear_charges"]).get_chemical_symbols()
    table = np.concatenate([arrays["coords"][frame], arrays["forces"][frame] * factor], axis=1)
    lines += [
        f"{symbol} " + " ".join(f"{value:.8f}" for value in row)
        for symbol, row in zip(symbols, table, strict=True)
    ]
    return "\n".join(lines) + "\n"


def write_archive(path: Path, texts: list[str], mode: str = "w:xz") -> Path:
    """Write texts as XSF files of a tar archive, with a README among them."""
    with tarfile.open(path, mode) as archive:
        for number, text in enumerate([*texts, "not a structure"]):
            name = "README.txt" if number == len(texts) else f"structure{number:04d}.xsf"
            member = tarfile.TarInfo(f"xsf/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path
