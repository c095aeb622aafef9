"""How smooth the energy of a potential is when atoms pass its cutoff."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import molecule
from numpy.typing import NDArray

from piwsl_ocp.consistency.potential import Prediction

#: Shortest O-O distance of the path, Angstrom; it ends this far beyond the cutoff.
_START_ANGSTROM = 2.4
_BEYOND_ANGSTROM = 2.0
_STEP_ANGSTROM = 0.01


@dataclass(frozen=True)
class EnergyPath:
    """Energies of two water molecules that move apart.

    Attributes:
        distances_angstrom: (D,) between the oxygen atoms.
        energies: (D,) in the potential's unit.
        cutoff_angstrom: of the potential's graph.
    """

    distances_angstrom: NDArray[np.float64]
    energies: NDArray[np.float64]
    cutoff_angstrom: float

    def relative(self) -> NDArray[np.float64]:
        """Return the energies less that at the end, divided by their range."""
        return (self.energies - self.energies[-1]) / max(np.ptp(self.energies), 1e-300)

    def largest_jump(self) -> float:
        """Return the largest jump between neighbouring points, relative to the range of E.

        The jump at a point is what a straight line through the two points before and the line
        through the two points after leave open between them: 0 for a smooth curve.
        """
        energies = self.energies
        before = energies[1:-2] + 0.5 * (energies[1:-2] - energies[:-3])
        after = energies[2:-1] - 0.5 * (energies[3:] - energies[2:-1])
        return float(np.abs(after - before).max() / max(np.ptp(energies), 1e-300))


def dimer_path(
    predict: Callable[[Sequence[Atoms]], Sequence[Prediction]], cutoff_angstrom: float
) -> EnergyPath:
    """Return the energy of two water molecules from contact to beyond the cutoff.

    Args:
        predict: structures -> predictions, with a graph made anew for each.
        cutoff_angstrom: of that graph.
    """
    distances = np.arange(_START_ANGSTROM, cutoff_angstrom + _BEYOND_ANGSTROM, _STEP_ANGSTROM)
    water = molecule("H2O")
    water.positions -= water.positions[0]
    other = water.copy()
    other.rotate(70, (1, 2, 3), center=(0, 0, 0))
    frames = []
    for distance in distances:
        moved = other.copy()
        moved.positions += distance * np.array([0.36, 0.48, 0.8])
        frames.append(water + moved)
    energies = np.array([float(prediction.energy) for prediction in predict(frames)])
    return EnergyPath(distances, energies, float(cutoff_angstrom))
