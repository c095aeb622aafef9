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

#: The error of the trapezoid rule grows with the third power of the displacement: the weight of
#: a pair in the fit falls with its square.
ERROR_POWER = 3
SMALLEST_ANGSTROM = 0.02

#: Correlation from which a slope is believed: weighted, and unweighted where the weighted fit
#: rests on less than `FEWEST_PAIRS`.
BELIEVABLE = 0.8
BELIEVABLE_UNWEIGHTED = 0.9

#: Below this correlation the forces are doubted, if as many pairs are as near as this.
DOUBTFUL = 0.5
DOUBTFUL_PAIRS = 10
DOUBTFUL_ANGSTROM = 0.15

#: Stretching force constant of X-H bonds (X = C, N, O), typical of experiment and of DFT.
XH_STIFFNESS_KCAL_PER_MOL_ANGSTROM2 = 650.0

STIFFNESS_TOLERANCE = 2.0
BELIEVABLE_BONDS = 0.5

#: A slope within this factor of 1 is in order: half way to the nearest wrong one, Angstrom/Bohr.
SLOPE_TOLERANCE = 1.37


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

#: Stored over true number where both labels were read as one unit and are in another.
MISREAD_UNITS = {
    f"labels in {true} that were taken for {taken}": energy_factor(taken, true)
    for taken in ENERGY_IN_EV
    for true in ENERGY_IN_EV
    if taken != true
}


@dataclass(frozen=True)
class Slope:
    """Weighted least-squares slope through the origin, the correlation, the effective count."""

    count: float
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
    _report_pairs(near_pairs(groups), findings)
    stretch, pull = hydrogen_bonds_stretch(groups)
    if len(stretch) >= FEWEST_BONDS:
        _report_bonds(_slope(stretch, pull, np.ones(len(stretch))), unit, findings)


def near_pairs(groups: Iterable[list[Structure]]) -> np.ndarray:
    """Return displacement, E_b - E_a and trapezoid -1/2 (F_a + F_b).(r_b - r_a) of near pairs.

    For a smooth potential dE = -int F.dr; the trapezoid is right to third order in the
    displacement. Molecules are first laid upon each other.

    Args:
        groups: structures with the same atoms in the same order (and cell), molecules or crystals.

    Returns:
        (P, 3), at most `MOST_PAIRS` pairs nearer than `NEAR_ANGSTROM` per atom, nearest first.
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
    return np.array(near, dtype=np.float64).reshape(-1, 3)


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


def _slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Slope:
    products = [float((weights * a * b).sum()) for a, b in ((x, y), (x, x), (y, y))]
    scale = float(np.sqrt(products[1] * products[2]))
    if not scale > 0.0:
        return Slope(0.0, 0.0, 0.0)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return Slope(effective, products[0] / products[1], products[0] / scale)


def _report_pairs(pairs: np.ndarray, findings: Findings) -> None:
    def add(level: str, text: str) -> None:
        findings.add("energy and forces", level, "all", None, text)

    unseen = "whether forces fit energies cannot be seen"
    if len(pairs) < FEWEST_PAIRS:
        add(INFO, f"{len(pairs)} near pairs of structures are too few: {unseen}")
        return
    distances, energy_differences, works = pairs.T
    weights = np.maximum(distances, SMALLEST_ANGSTROM) ** (-2.0 * ERROR_POWER)
    weighted = _slope(works, energy_differences, weights)
    plain = _slope(works, energy_differences, np.ones(len(works)))
    enough = weighted.count >= FEWEST_PAIRS
    fit = weighted if enough else plain
    seen = (
        f"energy differences of {len(pairs)} near pairs against -F.dr: "
        f"slope {fit.slope:.4g}, correlation {fit.correlation:.2f}"
    )
    if abs(fit.correlation) < (BELIEVABLE if enough else BELIEVABLE_UNWEIGHTED):
        close = np.count_nonzero(distances < DOUBTFUL_ANGSTROM) >= DOUBTFUL_PAIRS
        if close and abs(fit.correlation) < DOUBTFUL:
            add(WARNING, f"{seen}: forces do not explain the energies; are they of one method?")
        else:
            add(INFO, f"{seen}: the pairs are not near enough, {unseen}")
    elif fit.slope < 0:
        add(ERROR, f"{seen}: the sign of the forces is reversed; convert with --gradients")
    elif 1.0 / SLOPE_TOLERANCE <= fit.slope <= SLOPE_TOLERANCE:
        add(INFO, f"{seen}: they agree in sign and unit")
    else:
        add(ERROR, f"{seen}, expected 1: probably {_likely(fit.slope, UNIT_RATIOS)}")


def _report_bonds(bonds: Slope, unit: str | None, findings: Findings) -> None:
    def add(level: str, text: str) -> None:
        findings.add("bonds", level, "all", None, text)

    if abs(bonds.correlation) < BELIEVABLE_BONDS:
        return
    seen = f"force on H along {bonds.count:.0f} X-H bonds against their stretch"
    if bonds.slope > 0:
        add(ERROR, f"{seen}: stretched bonds push outward, so the sign of the forces is reversed")
        return
    if unit is None:
        add(INFO, f"{seen}: stiffness {-bonds.slope:.4g}/Angstrom^2; the unit is not declared")
        return
    expected = XH_STIFFNESS_KCAL_PER_MOL_ANGSTROM2 * energy_factor("kcal/mol", unit)
    ratio = -bonds.slope / expected
    text = f"{seen}: stiffness {-bonds.slope:.4g} {unit}/Angstrom^2, typical is {expected:.4g}"
    if 1.0 / STIFFNESS_TOLERANCE <= ratio <= STIFFNESS_TOLERANCE:
        add(INFO, f"{text}: the unit fits")
    else:
        add(ERROR, f"{text}: probably {_likely(ratio, MISREAD_UNITS)}")


def _likely(value: float, candidates: dict[str, float]) -> str:
    """Return the words of the candidates nearest to a value, of all that are about as near."""
    distances = {words: abs(np.log(value / ratio)) for words, ratio in candidates.items()}
    limit = min(distances.values()) + np.log(SLOPE_TOLERANCE)
    return ", or ".join(
        words for words in sorted(distances, key=distances.__getitem__) if distances[words] <= limit
    )
