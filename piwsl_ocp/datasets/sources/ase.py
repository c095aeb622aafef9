"""Files of your own: whatever ASE reads with energies and forces, such as extxyz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread

from piwsl_ocp.datasets.sources.source import AS_PUBLISHED, ReadOptions, Source, labelled
from piwsl_ocp.errors import UserError

#: What is told of frames whose energy is not the one that ASE calls so.
FREE_ENERGY = "their free_energy is taken, whose gradient the forces are, and not their energy"


def read(files: Sequence[Path], options: ReadOptions = AS_PUBLISHED) -> Iterator[Atoms]:
    """Yield every frame of every file; constraints (fixed atoms) and tags are kept.

    The labels are ASE's forces and the energy whose gradient they are: `free_energy` where a frame
    has one (with smeared occupations, `energy` is extrapolated to none), else `energy`.

    Args:
        files: anything ASE reads.
        options: `property` P takes the labels P_energy and P_forces in place of ASE's.

    Raises:
        UserError: if ASE cannot read a file, or a frame has no energy or no forces.
    """
    unit = options.energy_unit or "eV"
    for path in files:
        for frame, atoms in enumerate(_frames(path)):
            origin = f"{path.name}[{frame}]"
            energy, forces, note = _labels(atoms, options.property, origin)
            structure = labelled(
                atoms.numbers,
                atoms.positions,
                energy,
                forces,
                energy_unit=unit,
                origin=origin,
                cell=atoms.cell,
                pbc=atoms.pbc,
            )
            if note is not None:
                structure.info["note"] = note
            structure.set_tags(_tags(atoms, origin))
            structure.set_constraint(atoms.constraints)
            yield structure


def _frames(path: Path) -> Iterator[Atoms]:
    frames = iread(str(path), index=":", do_not_split_by_at_sign=True)
    while True:
        # ASE's readers raise many kinds of errors on a damaged file.
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:
            raise UserError(
                f"ASE cannot read '{path}' ({type(error).__name__}: {error}): "
                "check the file with `ase info`"
            ) from error
        yield atoms


def _labels(atoms: Atoms, label: str | None, origin: str) -> tuple[Any, Any, str | None]:
    """Return energy, forces and what is to be told about them."""
    if label is not None:
        results = {**atoms.info, **atoms.arrays}
        energy_key, forces_key = f"{label}_energy", f"{label}_forces"
    else:
        results = atoms.calc.results if atoms.calc is not None else {}
        energy_key = "free_energy" if "free_energy" in results else "energy"
        forces_key = "forces"
    for key in (energy_key, forces_key):
        if key not in results:
            raise UserError(
                f"{origin} has no {key}: every frame needs an energy and forces "
                "(extxyz: energy=... in the comment, a forces:R:3 column); labels such as "
                "REF_energy and REF_forces are taken with --property REF"
            )
    energy = results[energy_key]
    is_other = energy_key == "free_energy" and not np.array_equal(
        energy, results.get("energy", energy)
    )
    return energy, results[forces_key], FREE_ENERGY if is_other else None


def _tags(atoms: Atoms, origin: str) -> np.ndarray:
    tags = atoms.get_tags()
    try:
        whole = np.asarray(tags).astype(np.int64)
    except ValueError:
        whole = None
    if whole is None or not np.array_equal(whole, tags):
        raise UserError(f"{origin}: tags such as '{tags[0]}': expected whole numbers (tags:I:1)")
    return whole


SOURCE = Source(
    name="ase",
    description="your own files, anything ASE reads with energy (free_energy where there is one) "
    "and forces (extxyz, ...)",
    read=read,
    level_of_theory="not stated",
    energy_unit="eV",
    has_properties=True,
)
