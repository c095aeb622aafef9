"""The first pass over a source: every structure is checked, nothing but a few numbers is kept."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.formula import Formula

from piwsl_ocp.datasets.neighbours import lacks_cell
from piwsl_ocp.datasets.splits import Candidates
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

MISSING_LABEL = "missing energy or forces"

LARGEST_ATOMIC_NUMBER = 118


@dataclass(frozen=True)
class Acceptance:
    """What makes a structure be left out.

    Args:
        skips_missing: leave out a structure without a label; otherwise it is an error.
        max_force_ev_per_angstrom: leave out a structure with a larger force component.
    """

    skips_missing: bool = False
    max_force_ev_per_angstrom: float | None = None

    def reason_to_drop(self, atoms: Atoms) -> str | None:
        """Return why a structure is left out, or None.

        Raises:
            UserError: if the structure is unusable and not to be left out.
        """
        origin = atoms.info["origin"]
        if len(atoms) == 0:
            raise UserError(f"{origin}: no atoms: take the structure out of the file")
        if not (np.isfinite(atoms.positions).all() and np.isfinite(np.asarray(atoms.cell)).all()):
            raise UserError(f"{origin}: a position or cell vector is not finite: mend the file")
        unknown = atoms.numbers[(atoms.numbers < 1) | (atoms.numbers > LARGEST_ATOMIC_NUMBER)]
        if len(unknown):
            raise UserError(
                f"{origin}: atomic number {unknown[0]} (0 is a dummy atom, X): expected chemical "
                "elements; take the atom or the structure out of the file"
            )
        if lacks_cell(atoms):
            raise UserError(
                f"{origin}: periodic, but its cell has no volume, or no vector in a periodic "
                "direction: mend the file"
            )
        energy, forces = energy_and_forces(atoms)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            if self.skips_missing:
                return MISSING_LABEL
            raise UserError(
                f"{origin}: energy or forces are not finite: take the structure out of the file"
            )
        limit = self.max_force_ev_per_angstrom
        if limit is not None and np.abs(forces).max() > limit:
            return f"force component above {limit:g} eV/Angstrom"
        return None


def energy_and_forces(atoms: Atoms) -> tuple[float, np.ndarray]:
    """Return the labels of a structure made by a source: eV and (N, 3) eV/Angstrom."""
    results = atoms.calc.results
    return float(results["energy"]), results["forces"]


class Energies:
    """Total energy and composition of every kept record, 12 bytes each."""

    def __init__(self) -> None:
        self._energies = array("d")
        self._numbers = array("i")
        self._formulas: dict[bytes, int] = {}

    def add(self, atoms: Atoms) -> None:
        """Take down one structure."""
        formula = np.sort(atoms.numbers).astype(np.uint8).tobytes()
        self._energies.append(energy_and_forces(atoms)[0])
        self._numbers.append(self._formulas.setdefault(formula, len(self._formulas)))

    def of(self, places: np.ndarray, unit: str) -> FittingData:
        """Return energies in `unit` and compositions of the structures at these places."""
        chosen = np.asarray(self._numbers)[places]
        compositions = element_counts(self._formulas)
        elements = np.flatnonzero(compositions[np.unique(chosen)].any(axis=0))
        return FittingData(
            compositions=compositions[:, elements][chosen],
            elements=elements,
            energies=np.asarray(self._energies)[places] * energy_factor("eV", unit),
        )

    def compositions(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the compositions at these places, each once, and how many structures have it.

        Returns:
            (m, 119) numbers of atoms by atomic number, and (m,) numbers of structures.
        """
        used, structures = np.unique(np.asarray(self._numbers)[places], return_counts=True)
        return element_counts(self._formulas)[used], structures


def element_counts(formulas: Iterable[bytes]) -> np.ndarray:
    """Return the numbers of atoms by atomic number, (n, 119), of sorted atomic numbers as bytes."""
    size = LARGEST_ATOMIC_NUMBER + 1
    rows = [np.bincount(np.frombuffer(key, dtype=np.uint8), minlength=size) for key in formulas]
    return np.array(rows, dtype=np.int32).reshape(-1, size)


def formula(counts: np.ndarray) -> str:
    """Return numbers of atoms by atomic number, (119,), as a formula such as CH4O."""
    parts = ((chemical_symbols[z], counts[z]) for z in np.flatnonzero(counts))
    return Formula.from_dict({symbol: int(number) for symbol, number in parts}).format("hill")


@dataclass(frozen=True)
class FittingData:
    """Compositions (n, elements), atomic numbers (elements,) and energies (n,)."""

    compositions: np.ndarray
    elements: np.ndarray
    energies: np.ndarray


@dataclass(frozen=True)
class Survey:
    """What the first pass found.

    Args:
        read: number of structures in the files.
        candidates: those that can be chosen from.
        dropped: number left out by reason.
        elements: atomic numbers of all kept structures.
        periodic: whether any kept structure is periodic.
        notes: what sources tell of kept structures, with the number of those.
        energies: energies of the kept structures, where a fit needs them.
    """

    read: int
    candidates: Candidates
    dropped: dict[str, int]
    elements: np.ndarray
    periodic: bool
    notes: dict[str, int]
    energies: Energies | None

    def fitting_data(self, records: np.ndarray, unit: str) -> FittingData:
        """Return what a fit needs of the given records."""
        return self._kept_energies.of(self._places(records), unit)

    def compositions(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the compositions of the given records; see `Energies.compositions`."""
        return self._kept_energies.compositions(self._places(records))

    def _places(self, records: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.candidates.records, records)

    @property
    def _kept_energies(self) -> Energies:
        if self.energies is None:
            raise ValueError("this survey kept no energies")
        return self.energies


def survey(structures: Iterable[Atoms], acceptance: Acceptance, keep_energies: bool) -> Survey:
    """Check every structure of a source and count.

    Args:
        structures: the generator of a source.
        acceptance: what is left out.
        keep_energies: whether a fit will need the energies.

    Raises:
        UserError: if a structure is unusable, or none is left.
    """
    records, pools = array("i"), {"train": array("i"), "test": array("i")}
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    elements = np.zeros(256, dtype=bool)
    energies = Energies() if keep_energies else None
    periodic, read = False, 0
    for record, atoms, reason in judged(structures, acceptance):
        read = record + 1
        if reason is not None:
            dropped[reason] += 1
            continue
        records.append(record)
        if "pool" in atoms.info:
            pools[atoms.info["pool"]].append(record)
        if "note" in atoms.info:
            notes[atoms.info["note"]] += 1
        elements[atoms.numbers] = True
        periodic = periodic or bool(atoms.pbc.any())
        if energies is not None:
            energies.add(atoms)
    if not records:
        why = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
        raise UserError(f"no structure is left of {read} read ({why or 'the files hold none'})")
    return Survey(
        read=read,
        candidates=Candidates(
            np.asarray(records),
            {pool: np.asarray(found) for pool, found in pools.items() if found},
        ),
        dropped=dict(dropped),
        elements=np.flatnonzero(elements),
        periodic=periodic,
        notes=dict(notes),
        energies=energies,
    )


def judged(
    structures: Iterable[Atoms], acceptance: Acceptance
) -> Iterator[tuple[int, Atoms, str | None]]:
    """Yield (record number, structure, reason to leave it out or None)."""
    for record, atoms in enumerate(structures):
        yield record, atoms, acceptance.reason_to_drop(atoms)
