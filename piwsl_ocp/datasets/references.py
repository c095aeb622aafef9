"""Reference energies per element, taken off the total energies before they become float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from piwsl_ocp.datasets.sources.source import Source
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

#: Relative size below which a singular value or a remainder of compositions counts as zero.
RANK_TOLERANCE = 1e-8


class TrainingEnergies(Protocol):
    """What a fit needs to know of the training split."""

    compositions: np.ndarray  # (n, elements) number of atoms of each element
    elements: np.ndarray  # (elements,) atomic numbers
    energies: np.ndarray  # (n,) total energies


def minimum_norm_fit(training: TrainingEnergies) -> dict[int, float]:
    """Return the minimum-norm minimiser over c of sum_k [E_k - sum_Z n_kZ c_Z]^2, in float64.

    Where compositions do not tell elements apart (one molecule), the sum is exact and the single
    numbers mean nothing.

    Args:
        training: energies in any unit and compositions of the training split alone.

    Returns:
        Energy per atomic number, in the unit of the energies.
    """
    counts = np.asarray(training.compositions, dtype=np.float64)
    energies = np.asarray(training.energies, dtype=np.float64)
    fitted, *_ = np.linalg.lstsq(counts, energies, rcond=None)
    return {int(z): float(c) for z, c in zip(training.elements, fitted, strict=True)}


def are_determined(training: np.ndarray, compositions: np.ndarray) -> np.ndarray:
    """Return for which compositions a fit to those of training gives a reference energy.

    These are the linear combinations of training compositions; the energy of any other one, such
    as a single atom beside molecules of one kind, depends on which of many equal fits is taken.

    Args:
        training: (n, elements) numbers of atoms of the training split, each composition once.
        compositions: (m, elements).

    Returns:
        (m,) bool.
    """
    _, sizes, rows = np.linalg.svd(training, full_matrices=False)
    basis = rows[sizes > RANK_TOLERANCE * sizes.max()]
    rest = compositions - compositions @ basis.T @ basis
    return np.linalg.norm(rest, axis=1) <= RANK_TOLERANCE * np.linalg.norm(compositions, axis=1)


def atomic_table(source: Source, elements: np.ndarray, unit: str) -> dict[int, float]:
    """Return the source's atomic energies in `unit`.

    Raises:
        UserError: if the source has no table, or an element of the data is not in it.
    """
    table = {atomic_numbers[symbol]: value for symbol, value in source.atomic_energies.items()}
    if not table:
        raise UserError(
            f"'{source.name}' has no table of atomic energies for these labels: "
            "use --references least_squares or none"
        )
    missing = [chemical_symbols[z] for z in elements if int(z) not in table]
    if missing:
        raise UserError(
            f"the table of atomic energies of '{source.name}' lacks {', '.join(missing)}: "
            "use --references least_squares or none"
        )
    factor = energy_factor(source.atomic_energy_unit, unit)
    return {z: value * factor for z, value in sorted(table.items())}


@dataclass(frozen=True)
class ReferenceQuestion:
    """What any kind of reference energies may need to know.

    Args:
        source: where the structures come from.
        elements: atomic numbers of all kept structures.
        unit: of the answer.
        training: returns the energies and compositions of the training split, in `unit`.
    """

    source: Source
    elements: np.ndarray
    unit: str
    training: Callable[[], TrainingEnergies]


#: Kinds of reference energies: question -> energy per atomic number.
REFERENCES: dict[str, Callable[[ReferenceQuestion], dict[int, float]]] = {
    "atomic": lambda asked: atomic_table(asked.source, asked.elements, asked.unit),
    "least_squares": lambda asked: minimum_norm_fit(asked.training()),
    "none": lambda asked: {},
}

#: The kind that is fitted, for which the first pass has to keep energies.
FITTED = "least_squares"


def reference_energy(numbers: np.ndarray, references: Mapping[int, float]) -> float:
    """Return sum_i reference(Z_i) of one structure, in the unit of the references.

    An element without a reference counts as 0: it does not occur in training.

    Args:
        numbers: (N,) atomic numbers.
        references: energy per atomic number.
    """
    elements, counts = np.unique(numbers, return_counts=True)
    return float(
        sum(int(n) * references.get(int(z), 0.0) for z, n in zip(elements, counts, strict=True))
    )
