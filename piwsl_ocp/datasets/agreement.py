"""Sign and unit of forces against energies, seen from near structures and from bonds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase.units import Bohr
from scipy.spatial.distance import cdist

from piwsl_ocp.datasets.findings import ERROR, INFO, WARNING, Findings
from piwsl_ocp.datasets.neighbours import edges
from piwsl_ocp.datasets.structures import Structure
from piwsl_ocp.units import ENERGY_IN_EV, energy_factor

#: Structures that are compared with each other, at most.
SAMPLE = 4_000
SAMPLE_PER_GROUP = 1_000

#: Root mean square distance per atom up to which the trapezoid rule is trusted.
NEAR_ANGSTROM = 0.3
FEWEST_PAIRS = 5
MOST_PAIRS = 100
FEWEST_BONDS = 30

#: Correlation from which a slope is believed.
BELIEVABLE = 0.8

#: Stretching force constant of X-H bonds (X = C, N, O), typical of experiment and of DFT.
XH_STIFFNESS_KCAL_PER_MOL_ANGSTROM2 = 650.0

#: A slope within this factor of 1 is in order.
SLOPE_TOLERANCE = 1.3


def _unit_ratios() -> dict[str, float]:
    """Return energy unit over force unit, by words."""
    ratios = {
        f"energies in {first} and forces in {second}/Angstrom": energy_factor(second, first)
        for first in ENERGY_IN_EV
        for second in ENERGY_IN_EV
        if first != second
    }
    ratios["forces per Bohr instead of per Angstrom"] = 1.0 / Bohr
    ratios["forces multiplied by Angstrom/Bohr once too often"] = Bohr
    for first in ENERGY_IN_EV:
        for second in ENERGY_IN_EV:
            if first != second:
                text = f"energies in {first} and forces in {second}/Bohr"
                ratios[text] = energy_factor(second, first) / Bohr
    return ratios


UNIT_RATIOS = _unit_ratios()


@dataclass(frozen=True)
class Slope:
    """Least-squares slope through the origin, and the correlation."""

    count: int
    slope: float
    correlation: float


def agreement_findings(
    structures: Iterable[Structure], unit: str | None, findings: Findings
) -> None:
    """Add what the near pairs and the bonds to hydrogen say.

    Args:
        structures: any; at most `SAMPLE` of them are looked at.
        unit: declared energy unit, None where it is not known.
        findings: receives the findings.
    """
    groups = _groups(structures)
    energy_differences, works = near_pairs(groups)
    pairs = _slope(works, energy_differences, FEWEST_PAIRS)
    _report_pairs(pairs, findings)
    bonds = _slope(*hydrogen_bonds_stretch(groups), FEWEST_BONDS)
    _report_bonds(bonds, unit, findings)


def near_pairs(groups: Iterable[list[Structure]]) -> tuple[np.ndarray, np.ndarray]:
    """Return E_b - E_a and the trapezoid -1/2 (F_a + F_b).(r_b - r_a) of the nearest pairs.

    For a smooth potential dE = -int F.dr; the trapezoid is right to third order in the
    displacement. Molecules are first laid upon each other.

    Args:
        groups: structures with the same atoms in the same order (and cell), molecules or crystals.

    Returns:
        (P,) and (P,), at most `MOST_PAIRS` pairs nearer than `NEAR_ANGSTROM`.
    """
    found: list[tuple[float, float, float]] = []
    for group in groups:
        if len(group) < 2:
            continue
        descriptors = np.array([_descriptor(structure) for structure in group])
        distances = cdist(descriptors, descriptors)
        np.fill_diagonal(distances, np.inf)
        pairs = {tuple(sorted((a, int(b)))) for a, b in enumerate(distances.argmin(axis=1))}
        found += [_compare(group[a], group[b]) for a, b in pairs]
    near = sorted(pair for pair in found if pair[0] <= NEAR_ANGSTROM)[:MOST_PAIRS]
    table = np.array(near, dtype=np.float64).reshape(-1, 3)
    return table[:, 1], table[:, 2]


def hydrogen_bonds_stretch(
    groups: Iterable[list[Structure]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return stretch and outward force of every H bound to C, N or O, less their means.

    Returns:
        (P,) d - mean d in Angstrom and (P,) F_H.u with u from X to H; means by element X.
    """
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for structure in (structure for group in groups for structure in group):
        numbers = structure.numbers
        hydrogens = numbers == 1
        if not hydrogens.any():
            continue
        index, offsets = edges(structure.positions, structure.cell, structure.pbc, 1.4, 1)
        kept = hydrogens[index[1]] & np.isin(numbers[index[0]], (6, 7, 8))
        heavy, hydrogen = index[:, kept]
        outward = structure.positions[hydrogen] - structure.positions[heavy]
        outward = outward - offsets[kept] @ structure.cell
        lengths = np.linalg.norm(outward, axis=1)
        pull = (structure.forces[hydrogen] * outward).sum(axis=1) / lengths
        for element, length, force in zip(numbers[heavy], lengths, pull, strict=True):
            found[int(element)].append((float(length), float(force)))
    rows = [np.array(values) - np.mean(values, axis=0) for values in found.values()]
    table = np.concatenate(rows) if rows else np.zeros((0, 2))
    return table[:, 0], table[:, 1]


def _groups(structures: Iterable[Structure]) -> list[list[Structure]]:
    groups: dict[bytes, list[Structure]] = defaultdict(list)
    taken = 0
    for structure in structures:
        key = structure.numbers.tobytes() + structure.pbc.tobytes()
        if structure.pbc.any():
            key += np.round(structure.cell, 2).tobytes()
        if len(groups[key]) < SAMPLE_PER_GROUP:
            groups[key].append(structure)
            taken += 1
        if taken == SAMPLE:
            break
    return list(groups.values())


def _descriptor(structure: Structure) -> np.ndarray:
    """Return numbers that are near for near structures: distances, or phases in a cell."""
    if structure.pbc.any():
        phases = 2.0 * np.pi * structure.positions @ np.linalg.pinv(structure.cell)
        lengths = np.linalg.norm(structure.cell, axis=1)
        return np.concatenate([(lengths * f(phases)).ravel() for f in (np.cos, np.sin)])
    pairs = np.triu_indices(len(structure.numbers), 1)
    ends = structure.positions[np.array(pairs)]
    return np.linalg.norm(ends[0] - ends[1], axis=1)


def _compare(first: Structure, second: Structure) -> tuple[float, float, float]:
    """Return (root mean square distance, energy difference, work of the mean force with sign)."""
    moved, forces = second.positions, second.forces
    if first.pbc.any():
        step = moved - first.positions
        inverse = np.linalg.pinv(first.cell)
        step = step - np.round(step @ inverse) @ first.cell
        if np.abs(first.cell - second.cell).max() > 1e-3:
            return np.inf, 0.0, 0.0
    else:
        rotation = _rotation(second.positions, first.positions)
        start = first.positions - first.positions.mean(axis=0)
        step = (moved - moved.mean(axis=0)) @ rotation - start
        forces = forces @ rotation
    distance = float(np.sqrt((step**2).sum(axis=1).mean()))
    work = -0.5 * float(((first.forces + forces) * step).sum())
    return distance, second.energy - first.energy, work


def _rotation(moved: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Return the rotation R that brings centred `moved` @ R nearest to `fixed` (Kabsch 1976)."""
    left, _, right = np.linalg.svd((moved - moved.mean(axis=0)).T @ (fixed - fixed.mean(axis=0)))
    handedness = np.sign(np.linalg.det(left @ right))
    return left @ np.diag([1.0, 1.0, handedness]) @ right


def _slope(x: np.ndarray, y: np.ndarray, fewest: int) -> Slope | None:
    if len(x) < fewest or not (x**2).sum() > 0.0 or not (y**2).sum() > 0.0:
        return None
    product = float((x * y).sum())
    squares = float((x**2).sum()), float((y**2).sum())
    return Slope(len(x), product / squares[0], product / float(np.sqrt(squares[0] * squares[1])))


def _report_pairs(pairs: Slope | None, findings: Findings) -> None:
    def add(level: str, text: str) -> None:
        findings.add("energy and forces", level, "all", None, text)

    if pairs is None:
        add(INFO, "no near pairs of structures: whether forces fit energies cannot be seen")
        return
    seen = (
        f"energy differences of {pairs.count} near pairs against -F.dr: "
        f"slope {pairs.slope:.4g}, correlation {pairs.correlation:.2f}"
    )
    if abs(pairs.correlation) < BELIEVABLE:
        add(WARNING, f"{seen}: forces do not explain the energies; are they of one method?")
    elif pairs.slope < 0:
        add(ERROR, f"{seen}: the sign of the forces is reversed; convert with --gradients")
    elif 1.0 / SLOPE_TOLERANCE <= pairs.slope <= SLOPE_TOLERANCE:
        add(INFO, f"{seen}: they agree in sign and unit")
    else:
        add(ERROR, f"{seen}, expected 1: probably {_nearest(pairs.slope, UNIT_RATIOS)}")


def _report_bonds(bonds: Slope | None, unit: str | None, findings: Findings) -> None:
    def add(level: str, text: str) -> None:
        findings.add("bonds", level, "all", None, text)

    if bonds is None or abs(bonds.correlation) < 0.5:
        return
    seen = f"force on H along {bonds.count} X-H bonds against their stretch"
    if bonds.slope > 0:
        add(ERROR, f"{seen}: stretched bonds push outward, so the sign of the forces is reversed")
        return
    if unit is None:
        add(INFO, f"{seen}: stiffness {-bonds.slope:.4g}/Angstrom^2; the unit is not declared")
        return
    expected = XH_STIFFNESS_KCAL_PER_MOL_ANGSTROM2 * energy_factor("kcal/mol", unit)
    ratios = {other: energy_factor(other, unit) for other in ENERGY_IN_EV}
    probable = _nearest(-bonds.slope / expected, {o: 1.0 / r for o, r in ratios.items()})
    text = f"{seen}: stiffness {-bonds.slope:.4g} {unit}/Angstrom^2, typical is {expected:.4g}"
    if probable == unit:
        add(INFO, f"{text}: the unit fits")
    else:
        add(ERROR, f"{text}: the numbers are probably in {probable}/Angstrom")


def _nearest(value: float, candidates: dict[str, float]) -> str:
    return min(candidates, key=lambda name: abs(np.log(value / candidates[name])))
