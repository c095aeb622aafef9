"""What a source is: a generator of labelled `ase.Atoms` and the facts that go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor


@dataclass(frozen=True)
class ReadOptions:
    """What the user declares about the files.

    Args:
        energy_unit: unit of the energies; forces are in the same unit per Angstrom. None: the
            unit of the source, or the one that each file names.
        property: label of files that hold several, such as "wb97x_dz". None: the source's.
    """

    energy_unit: str | None = None
    property: str | None = None


#: Nothing declared: the source knows.
AS_PUBLISHED = ReadOptions()


class Reader(Protocol):
    """Yields one `ase.Atoms` per structure, made by `labelled`, in a fixed order."""

    def __call__(
        self, files: Sequence[Path], options: ReadOptions = AS_PUBLISHED
    ) -> Iterator[Atoms]: ...


@dataclass(frozen=True)
class SplitSizes:
    """Sizes of the splits; `validation` None means max(train, 100), `test` None all the rest."""

    train: int = 100
    validation: int | None = None
    test: int | None = None


def existing_files(names: Sequence[str | Path]) -> tuple[Path, ...]:
    """Return the names as paths.

    Raises:
        UserError: if there is none, or one that does not exist.
    """
    if not names:
        raise UserError("no files to convert: name at least one")
    for name in names:
        if not Path(name).exists():
            raise UserError(f"no file or folder '{name}': check the path")
    return tuple(Path(name) for name in names)


@dataclass(frozen=True)
class Source:
    """One published layout and what is known about its numbers.

    Args:
        name: the word on the command line.
        description: one line for people.
        read: the generator.
        level_of_theory: method behind the default labels.
        energy_unit: unit of the files; None: every file names its own.
        property: the default label, where a file holds several.
        has_properties: whether a label can be chosen with `ReadOptions.property`.
        references: default kind of reference energies, a key of `references.REFERENCES`.
        atomic_energies: energy of each atom by symbol, in `atomic_energy_unit`.
        sizes: default split sizes.
        split: default split scheme, "random" or "published".
        skips_missing: whether a missing label is normal in this layout (the structure is then
            left out and counted) or an error.
        count: number of structures, where it can be had without reading them.
    """

    name: str
    description: str
    read: Reader
    level_of_theory: str
    energy_unit: str | None = "eV"
    property: str | None = None
    has_properties: bool = False
    references: str = "least_squares"
    atomic_energies: Mapping[str, float] = field(default_factory=dict)
    atomic_energy_unit: str = "eV"
    sizes: SplitSizes = SplitSizes()
    split: str = "random"
    skips_missing: bool = False
    count: Callable[[Sequence[Path]], int] | None = None

    def locate(self, names: Sequence[str | Path]) -> tuple[Source, tuple[Path, ...]]:
        """Return the source that reads the named files, and their paths."""
        return self, existing_files(names)


def labelled(
    numbers: Any,
    positions: Any,
    energy: Any,
    forces: Any,
    *,
    energy_unit: str,
    origin: str,
    pool: str | None = None,
    cell: Any = None,
    pbc: Any = False,
) -> Atoms:
    """Return one structure in ASE's units, with its labels as a calculator's results.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Angstrom.
        energy: total energy of the structure in `energy_unit`, one number; NaN where it is missing.
        forces: (N, 3) `energy_unit`/Angstrom; NaN where they are missing.
        energy_unit: a unit of `piwsl_ocp.units`.
        origin: where the structure comes from, for messages: file and record.
        pool: "train" or "test" where a published split says so.
        cell: (3, 3) Angstrom or None.
        pbc: periodic directions.

    Raises:
        UserError: if the shapes of numbers, positions and forces do not belong together, or the
            energy or the forces are no numbers.
    """
    factor = energy_factor(energy_unit, "eV")
    total = _as_numbers(energy, f"{origin}: energy")
    if total.size != 1:
        raise UserError(f"{origin}: {total.size} energies: expected one number, the total energy")
    numbers = np.asarray(numbers, dtype=np.int64)
    positions = np.asarray(positions, dtype=np.float64)
    forces = _as_numbers(forces, f"{origin}: forces")
    if positions.shape != (len(numbers), 3) or forces.shape != positions.shape:
        raise UserError(
            f"{origin}: {len(numbers)} atoms, positions {positions.shape}, forces {forces.shape}: "
            "all must have one row of 3 per atom; the file is damaged or of another layout"
        )
    atoms = Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc)
    atoms.calc = SinglePointCalculator(atoms, energy=total.item() * factor, forces=forces * factor)
    atoms.info["origin"] = origin
    if pool is not None:
        atoms.info["pool"] = pool
    return atoms


def _as_numbers(values: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what}: found '{values}', expected numbers: mend the file") from None
