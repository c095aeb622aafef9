"""What can be wrong with records together: duplicates, leakage, outliers, element coverage."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np
from ase.data import chemical_symbols

from piwsl_ocp.datasets.findings import ERROR, WARNING, Findings
from piwsl_ocp.datasets.neighbours import edges
from piwsl_ocp.datasets.structures import Structure

#: Robust z of the energy per atom (median and median absolute deviation) that is reported.
OUTLIER_Z = 20.0

#: Two structures are the same if all their sorted distances agree within this.
SAME_DISTANCE_ANGSTROM = 1e-3
COMPARED_RANGE_ANGSTROM = 5.0

#: Energies of one composition closer than this part of their spread make a pair be compared.
ENERGY_COINCIDENCE = 1e-4

Place = tuple[str, int]


class Population:
    """Gathers, record by record, what the checks on all of them need."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.energies = array("d")
        self.compositions: dict[bytes, int] = {}
        self.composition_numbers = array("i")
        self._geometries: dict[bytes, int] = {}
        self.copies: list[tuple[int, int]] = []

    def add(self, split: str, record: int, structure: Structure) -> None:
        """Take in a record whose arrays are sound."""
        number = len(self.places)
        self.places.append((split, record))
        self.energies.append(structure.energy)
        key = structure.composition
        self.composition_numbers.append(self.compositions.setdefault(key, len(self.compositions)))
        first = self._geometries.setdefault(structure.geometry_digest, number)
        if first != number:
            self.copies.append((first, number))

    def element_counts(self) -> np.ndarray:
        """Return (compositions, 119) numbers of atoms by atomic number."""
        rows = [
            np.bincount(np.frombuffer(key, dtype=np.uint8), minlength=119)
            for key in self.compositions
        ]
        return np.array(rows)


def population_findings(
    population: Population, findings: Findings, read: Callable[[Place], Structure]
) -> None:
    """Add what is wrong with the records together.

    Args:
        population: all records.
        findings: receives the findings.
        read: returns a record again.
    """
    _report_copies(population, findings)
    _report_near_copies(population, findings, read)
    _report_outliers(population, findings)
    _report_coverage(population, findings)


def _report_copies(population: Population, findings: Findings) -> None:
    for first, second in population.copies:
        _report_pair(population, findings, first, second, "the same structure as", ERROR)


def _report_pair(
    population: Population, findings: Findings, first: int, second: int, words: str, leak: str
) -> None:
    split, record = population.places[second]
    other_split, other_record = population.places[first]
    there = f"{words} {other_split} record {other_record}"
    if split != other_split:
        text = f"{there}: it leaks from one split into the other; leave one out"
        findings.add("leakage", leak, split, record, text)
        return
    difference = abs(population.energies[first] - population.energies[second])
    spread = float(np.std(np.asarray(population.energies)))
    if difference > 1e-3 * spread and difference > 1e-6:
        text = f"{there}, but its energy differs by {difference:.6g}: one of the labels is wrong"
        findings.add("contradiction", ERROR, split, record, text)
    else:
        findings.add("duplicates", WARNING, split, record, there)


def _report_near_copies(
    population: Population, findings: Findings, read: Callable[[Place], Structure]
) -> None:
    """Structures of equal composition and energy: moved, turned or relabelled copies?"""
    exact = {second for _, second in population.copies}
    for first, second in _coincidences(population):
        if second in exact or first in exact:
            continue
        one, other = (_distances(read(population.places[place])) for place in (first, second))
        if len(one) == len(other) and np.allclose(one, other, rtol=0, atol=SAME_DISTANCE_ANGSTROM):
            words = f"all distances agree within {SAME_DISTANCE_ANGSTROM} Angstrom with"
            _report_pair(population, findings, *sorted((first, second)), words, WARNING)


def _coincidences(population: Population) -> Iterator[tuple[int, int]]:
    energies = np.asarray(population.energies)
    compositions = np.asarray(population.composition_numbers)
    order = np.lexsort((energies, compositions))
    for group in np.split(order, np.flatnonzero(np.diff(compositions[order])) + 1):
        if len(group) < 2:
            continue
        limit = ENERGY_COINCIDENCE * float(np.std(energies[group]))
        for place in np.flatnonzero(np.diff(energies[group]) <= limit):
            yield int(group[place]), int(group[place + 1])


def _distances(structure: Structure) -> np.ndarray:
    index, offsets = edges(
        structure.positions, structure.cell, structure.pbc, COMPARED_RANGE_ANGSTROM
    )
    ends = structure.positions[index]
    return np.sort(np.linalg.norm(ends[0] - ends[1] + offsets @ structure.cell, axis=1))


def _report_outliers(population: Population, findings: Findings) -> None:
    """Energy per atom after a least-squares fit of element energies to all records."""
    if len(population.places) < 10:
        return
    counts = population.element_counts().astype(np.float64)
    chosen = counts[np.asarray(population.composition_numbers)]
    energies = np.asarray(population.energies)
    if np.ptp(energies) == 0.0:
        text = "all energies are the same number: a missing label?"
        findings.add("equal energies", WARNING, "all", None, text)
        return
    # The same fit, from one row per composition: small, however many records there are.
    normal = chosen.T @ chosen
    fitted = np.linalg.lstsq(normal, chosen.T @ energies, rcond=None)[0]
    per_atom = (energies - chosen @ fitted) / chosen.sum(axis=1)
    deviation = np.abs(per_atom - np.median(per_atom))
    scale = 1.4826 * np.median(deviation)
    if scale == 0.0:
        return
    for place in np.argsort(-deviation):
        z = deviation[place] / scale
        if z < OUTLIER_Z:
            break
        text = f"energy per atom {z:.0f} robust standard deviations from the median"
        findings.add("energy outliers", WARNING, *population.places[place], text)


def _report_coverage(population: Population, findings: Findings) -> None:
    counts = population.element_counts() > 0
    present: dict[str, np.ndarray] = {}
    for (split, _), number in zip(population.places, population.composition_numbers, strict=True):
        present.setdefault(split, np.zeros(119, dtype=bool))
        present[split] |= counts[number]
    if "train" not in present:
        return
    for split, elements in present.items():
        unseen = [chemical_symbols[z] for z in np.flatnonzero(elements & ~present["train"])]
        if unseen:
            text = f"{', '.join(unseen)} do not occur in training: a model cannot know them"
            findings.add("element coverage", WARNING, split, None, text)
