"""What can be wrong with records together: duplicates, leakage, outliers, element coverage."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np
from ase.data import chemical_symbols

from piwsl_ocp.datasets.findings import ERROR, WARNING, Findings
from piwsl_ocp.datasets.neighbours import edges
from piwsl_ocp.datasets.references import are_determined
from piwsl_ocp.datasets.structures import Structure
from piwsl_ocp.datasets.survey import element_counts, formula

#: Robust z of the energy per atom (median and median absolute deviation) that is reported.
OUTLIER_Z = 20.0

#: Two structures are the same if all their sorted distances agree within this.
SAME_DISTANCE_ANGSTROM = 1e-3
COMPARED_RANGE_ANGSTROM = 5.0

#: Energies of one composition closer than this part of their spread make a pair be compared.
ENERGY_COINCIDENCE = 1e-4

Place = tuple[str, int]


class Population:
    """Gathers, record by record, what the checks on all of them need: 28 bytes of each."""

    def __init__(self) -> None:
        self.splits: list[str] = []
        self._split_numbers = array("i")
        self._records = array("i")
        self._energies = array("d")
        self._geometries = array("Q")
        self._compositions: dict[bytes, int] = {}
        self._composition_numbers = array("i")

    def add(self, split: str, record: int, structure: Structure) -> None:
        """Take in a record whose arrays are sound."""
        if split not in self.splits:
            self.splits.append(split)
        self._split_numbers.append(self.splits.index(split))
        self._records.append(record)
        self._energies.append(structure.energy)
        self._geometries.append(structure.geometry_digest)
        known = self._compositions
        self._composition_numbers.append(known.setdefault(structure.composition, len(known)))

    def __len__(self) -> int:
        return len(self._records)

    def place(self, number: int) -> Place:
        """Return the split and record of the structure that was added as `number`."""
        return self.splits[self._split_numbers[number]], self._records[number]

    @property
    def energies(self) -> np.ndarray:
        """Energies, (n,)."""
        return np.asarray(self._energies)

    @property
    def composition_numbers(self) -> np.ndarray:
        """Row of `element_counts` of every structure, (n,)."""
        return np.asarray(self._composition_numbers)

    def element_counts(self) -> np.ndarray:
        """Return (compositions, 119) numbers of atoms by atomic number."""
        return element_counts(self._compositions)

    def compositions_of(self, split: str) -> np.ndarray:
        """Return the numbers of the compositions in a split, ascending."""
        inside = np.asarray(self._split_numbers) == self.splits.index(split)
        return np.unique(self.composition_numbers[inside])

    def copies(self) -> list[tuple[int, int]]:
        """Return (first, later) of structures with the same geometry, by the later one."""
        geometries = np.asarray(self._geometries)
        _, first, which = np.unique(geometries, return_index=True, return_inverse=True)
        later = np.flatnonzero(first[which] != np.arange(len(geometries)))
        return [(int(first[which[number]]), int(number)) for number in later]


def population_findings(
    population: Population, findings: Findings, read: Callable[[Place], Structure]
) -> None:
    """Add what is wrong with the records together.

    Args:
        population: all records.
        findings: receives the findings.
        read: returns a record again.
    """
    copies = population.copies()
    for first, second in copies:
        _report_pair(population, findings, first, second, "the same structure as", ERROR)
    _report_near_copies(population, {second for _, second in copies}, findings, read)
    _report_outliers(population, findings)
    _report_coverage(population, findings)


def _report_pair(
    population: Population, findings: Findings, first: int, second: int, words: str, leak: str
) -> None:
    split, record = population.place(second)
    other_split, other_record = population.place(first)
    there = f"{words} {other_split} record {other_record}"
    if split != other_split:
        text = f"{there}: it leaks from one split into the other; leave one out"
        findings.add("leakage", leak, split, record, text)
        return
    difference = abs(population.energies[first] - population.energies[second])
    spread = float(np.std(population.energies))
    if difference > 1e-3 * spread and difference > 1e-6:
        text = f"{there}, but its energy differs by {difference:.6g}: one of the labels is wrong"
        findings.add("contradiction", ERROR, split, record, text)
    else:
        findings.add("duplicates", WARNING, split, record, there)


def _report_near_copies(
    population: Population,
    copies: set[int],
    findings: Findings,
    read: Callable[[Place], Structure],
) -> None:
    """Structures of equal composition and energy: moved, turned or relabelled copies?"""
    for first, second in _coincidences(population):
        if second in copies or first in copies:
            continue
        one, other = (_distances(read(population.place(number))) for number in (first, second))
        if len(one) == len(other) and np.allclose(one, other, rtol=0, atol=SAME_DISTANCE_ANGSTROM):
            words = f"all distances agree within {SAME_DISTANCE_ANGSTROM} Angstrom with"
            _report_pair(population, findings, *sorted((first, second)), words, WARNING)


def _coincidences(population: Population) -> Iterator[tuple[int, int]]:
    energies, compositions = population.energies, population.composition_numbers
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
    if len(population) < 10:
        return
    energies, which = population.energies, population.composition_numbers
    if np.ptp(energies) == 0.0:
        text = "all energies are the same number: a missing label?"
        findings.add("equal energies", WARNING, "all", None, text)
        return
    # The same fit, from one row per composition: small, however many records there are.
    counts = population.element_counts().astype(np.float64)
    sums = np.bincount(which, weights=energies, minlength=len(counts))
    normal = counts.T @ (np.bincount(which, minlength=len(counts))[:, None] * counts)
    fitted = np.linalg.lstsq(normal, counts.T @ sums, rcond=None)[0]
    per_atom = (energies - (counts @ fitted)[which]) / counts.sum(axis=1)[which]
    deviation = np.abs(per_atom - np.median(per_atom))
    scale = 1.4826 * np.median(deviation)
    if scale == 0.0:
        return
    for place in np.argsort(-deviation):
        z = deviation[place] / scale
        if z < OUTLIER_Z:
            break
        text = f"energy per atom {z:.0f} robust standard deviations from the median"
        findings.add("energy outliers", WARNING, *population.place(int(place)), text)


def _report_coverage(population: Population, findings: Findings) -> None:
    if "train" not in population.splits:
        return
    counts = population.element_counts()
    training = counts[population.compositions_of("train")]
    known = training.any(axis=0)
    for split in population.splits:
        inside = counts[population.compositions_of(split)]
        unseen = [chemical_symbols[z] for z in np.flatnonzero(inside.any(axis=0) & ~known)]
        if unseen:
            text = f"{', '.join(unseen)} do not occur in training: a model cannot know them"
            findings.add("element coverage", WARNING, split, None, text)
        inside = inside[~inside[:, ~known].any(axis=1)]
        outside = inside[~are_determined(training, inside)]
        if len(outside):
            text = (
                f"{len(outside)} compositions, such as {formula(outside[0])}, are no combination "
                "of training compositions: fitted reference energies say nothing about them"
            )
            findings.add("composition coverage", WARNING, split, None, text)
