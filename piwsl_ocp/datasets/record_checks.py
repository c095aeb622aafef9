"""What can be wrong with one record by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from piwsl_ocp.datasets.findings import ERROR, WARNING
from piwsl_ocp.datasets.neighbours import edges
from piwsl_ocp.datasets.structures import Structure

#: Distance over the sum of covalent radii below which two atoms are too close to be right.
SUSPICIOUS_CONTACT = 0.5
IMPOSSIBLE_CONTACT = 0.3

LARGEST_NUMBER = max(atomic_numbers.values())


def record_findings(structure: Structure) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, level, text) for everything that is wrong with a record.

    Shapes come first: where they are wrong, nothing else is looked at.
    """
    wrong = list(_shape_findings(structure))
    yield from wrong
    if not wrong:
        yield from _number_findings(structure)


def _shape_findings(structure: Structure) -> Iterator[tuple[str, str, str]]:
    atoms = len(structure.numbers)
    rows = {"positions": len(structure.positions), "forces": len(structure.forces)}
    if structure.natoms is not None:
        rows["natoms"] = structure.natoms
    for name, count in rows.items():
        if count != atoms:
            yield "inconsistent counts", ERROR, f"{atoms} atomic numbers, but {name} has {count}"
    if atoms == 0:
        yield "no atoms", ERROR, "no atoms"
    strange = [z for z in structure.numbers if not 0 < z <= LARGEST_NUMBER]
    if strange:
        yield "unknown elements", ERROR, f"atomic number {strange[0]} is no element"
    for name in ("positions", "energy", "forces", "cell"):
        if not np.isfinite(getattr(structure, name)).all():
            yield "not finite", ERROR, f"{name} not finite (NaN or infinite)"
    volume = abs(np.linalg.det(structure.cell)) if np.isfinite(structure.cell).all() else 1.0
    if structure.pbc.all() and volume < 1e-6:
        yield "no cell", ERROR, "periodic, but the cell has no volume"


def _number_findings(structure: Structure) -> Iterator[tuple[str, str, str]]:
    if len(structure.numbers) > 1 and not structure.forces.any():
        yield "zero forces", WARNING, "all forces are exactly 0: a missing label?"
    contact = _closest_contact(structure)
    if contact is None:
        return
    ratio, distance, first, second = contact
    if ratio < SUSPICIOUS_CONTACT:
        level = ERROR if ratio < IMPOSSIBLE_CONTACT else WARNING
        pair = f"{chemical_symbols[first]}-{chemical_symbols[second]}"
        text = f"{pair} at {distance:.3f} Angstrom, {ratio:.2f} of the sum of their covalent radii"
        yield "atoms too close", level, text


def _closest_contact(structure: Structure) -> tuple[float, float, int, int] | None:
    """Return the smallest distance over sum of radii: (ratio, distance, element, element)."""
    radii = covalent_radii[structure.numbers]
    cutoff = 2.0 * SUSPICIOUS_CONTACT * float(radii.max())
    edge_index, offsets = edges(structure.positions, structure.cell, structure.pbc, cutoff)
    ends = structure.positions[edge_index]
    distances = np.linalg.norm(ends[0] - ends[1] + offsets @ structure.cell, axis=1)
    ratios = distances / radii[edge_index].sum(axis=0)
    return _with_coinciding_atoms(structure, ratios, distances, edge_index)


def _with_coinciding_atoms(
    structure: Structure, ratios: np.ndarray, distances: np.ndarray, edge_index: np.ndarray
) -> tuple[float, float, int, int] | None:
    """Atoms on one point are no edge: they are looked for by their rounded positions."""
    _, first, counts = np.unique(
        np.round(structure.positions, 2), axis=0, return_index=True, return_counts=True
    )
    if (counts > 1).any():
        element = int(structure.numbers[first[np.argmax(counts)]])
        return 0.0, 0.0, element, element
    if len(ratios) == 0:
        return None
    closest = int(np.argmin(ratios))
    source, target = (int(z) for z in structure.numbers[edge_index[:, closest]])
    return float(ratios[closest]), float(distances[closest]), source, target
