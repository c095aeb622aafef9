"""Files of your own: whatever ASE reads with energies and forces, such as extxyz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import iread

from piwsl_ocp.datasets.sources.source import AS_PUBLISHED, ReadOptions, Source, labelled
from piwsl_ocp.errors import UserError


def read(files: Sequence[Path], options: ReadOptions = AS_PUBLISHED) -> Iterator[Atoms]:
    """Yield every frame of every file; constraints (fixed atoms) and tags are kept.

    Raises:
        UserError: if ASE cannot read a file, or a frame has no energy or no forces.
    """
    unit = options.energy_unit or "eV"
    for path in files:
        for frame, atoms in enumerate(_frames(path)):
            origin = f"{path.name}[{frame}]"
            results = atoms.calc.results if atoms.calc is not None else {}
            structure = labelled(
                atoms.numbers,
                atoms.positions,
                _label(results, "energy", origin),
                _label(results, "forces", origin),
                energy_unit=unit,
                origin=origin,
                cell=atoms.cell,
                pbc=atoms.pbc,
            )
            structure.set_tags(atoms.get_tags())
            structure.set_constraint(atoms.constraints)
            yield structure


def _frames(path: Path) -> Iterator[Atoms]:
    frames = iread(str(path), index=":")
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


def _label(results: dict[str, np.ndarray], name: str, origin: str) -> np.ndarray:
    if name not in results:
        raise UserError(
            f"{origin} has no {name}: every frame needs 'energy' and 'forces' as ASE stores them "
            "(extxyz: energy=... in the comment, a forces:R:3 column)"
        )
    return results[name]


SOURCE = Source(
    name="ase",
    description="your own files, anything ASE reads with energy and forces (extxyz, ...)",
    read=read,
    level_of_theory="not stated",
    energy_unit="eV",
)
