"""Walks written in the layouts of published data sets: rMD17 npz, ANI-1x HDF5, TiO2 XSF archive."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms

from piwsl_ocp.datasets.xtb_sampling import Walk
from piwsl_ocp.datasets.xtb_starts import group_formula
from piwsl_ocp.units import energy_factor


def _shuffled(walks: list[Walk], generator: np.random.Generator) -> list[tuple[int, int]]:
    """Return (walker, frame) of every kept frame in random order: neighbours in time lie apart."""
    frames = [(w, f) for w, walk in enumerate(walks) for f in range(len(walk.energies))]
    return [frames[k] for k in generator.permutation(len(frames))]


def write_rmd17_npz(
    path: Path, walks: list[Walk], unit: str, generator: np.random.Generator
) -> None:
    """Write the npz layout of the rMD17 release: nuclear_charges, coords, energies, forces."""
    factor = energy_factor("eV", unit)
    order = _shuffled(walks, generator)
    with path.open("wb") as stream:
        np.savez_compressed(
            stream,
            nuclear_charges=walks[0].numbers.astype(np.uint8),
            coords=np.array([walks[w].positions[f] for w, f in order], np.float32),
            energies=np.array([walks[w].energies[f] for w, f in order]) * factor,
            forces=(np.array([walks[w].forces[f] for w, f in order]) * factor).astype(np.float32),
        )


def write_ani1x_hdf5(
    path: Path, walks: list[Walk], unit: str, generator: np.random.Generator
) -> None:
    """Write the HDF5 layout of the ANI-1x release: a group per formula, isomers joined."""
    factor = energy_factor("eV", unit)
    groups: dict[str, list[Walk]] = {}
    for walk in walks:
        groups.setdefault(group_formula(Atoms(walk.numbers)), []).append(walk)
    with h5py.File(path, "w") as file:
        for formula in sorted(groups):
            members = groups[formula]
            order = generator.permutation(sum(len(walk.energies) for walk in members))

            def joined(name: str, members=members, order=order) -> np.ndarray:
                return np.concatenate([getattr(walk, name) for walk in members])[order]

            group = file.create_group(formula)
            group["atomic_numbers"] = members[0].numbers.astype(np.uint8)
            columns = {
                "coordinates": joined("positions").astype(np.float32),
                "gfn2_xtb.energy": joined("energies") * factor,
                "gfn2_xtb.forces": (joined("forces") * factor).astype(np.float32),
            }
            for name, values in columns.items():
                group.create_dataset(name, data=values, compression="gzip", compression_opts=9)


def xsf_text(walk: Walk, frame: int) -> str:
    """Return one periodic structure as XSF text with energy and forces (eV, Angstrom)."""
    lines = [f"# total energy = {walk.energies[frame]:.10f} eV", "", "CRYSTAL", "PRIMVEC"]
    lines += ["".join(f"{value:15.8f}" for value in vector) for vector in walk.cell]
    lines += ["PRIMCOORD", f"{len(walk.numbers)} 1"]
    symbols = Atoms(walk.numbers).get_chemical_symbols()
    for symbol, position, force in zip(
        symbols, walk.positions[frame], walk.forces[frame], strict=True
    ):
        lines.append(f"{symbol:<2}" + "".join(f"{value:15.8f}" for value in (*position, *force)))
    return "\n".join(lines) + "\n"


def write_xsf_archive(
    path: Path, walks: list[Walk], unit: str, generator: np.random.Generator
) -> None:
    """Write a tar.xz of XSF files in the layout of the TiO2 set; its unit is eV."""
    if unit != "eV":
        raise ValueError(f"XSF files hold eV, not {unit}")
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for index, (w, frame) in enumerate(_shuffled(walks, generator)):
            content = xsf_text(walks[w], frame).encode()
            member = tarfile.TarInfo(f"xsf/structure{index:04d}.xsf")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
