"""Consistency error: how far the forces of a model are from the slope of its energy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from piwsl_ocp.consistency.displacement import DisplacementOptions, displace
from piwsl_ocp.consistency.potential import Potential, Structures
from piwsl_ocp.consistency.randomness import generators
from piwsl_ocp.consistency.residuals import consistency_residual
from piwsl_ocp.ocp.evaluations import CONSISTENCY_COPY, VALIDATION_SEED

#: Largest size of a component of the displacement by default, Angstrom.
EPSILON_ANGSTROM = 0.025


@dataclass(frozen=True)
class ConsistencyError:
    """The consistency error of a model on a set of structures.

    Attributes:
        unit: energy unit.
        rms: root mean square of the residual over structures, in `unit`.
        structures: number of structures.
        epsilon_angstrom: largest size of a component of the displacement.
        displacement: sampler of the displacement.
        seed: of the displacement.
    """

    unit: str
    rms: float
    structures: int
    epsilon_angstrom: float
    displacement: str = "uniform"
    seed: int = VALIDATION_SEED

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the fields as plain values."""
        return asdict(self)


def consistency_residuals(
    potential: Potential,
    structures: Structures,
    records: Iterable[int],
    epsilon_angstrom: float = EPSILON_ANGSTROM,
    seed: int = VALIDATION_SEED,
) -> Float[Tensor, " structures"]:
    """Return [E(r + d) - E(r - d)] / 2 + sum_i d_i . F_i(r) of each structure.

    It is 0 for a conservative potential up to O(d^3). The displacement d_i = eps_b g_i, with one
    eps_b in U(0, epsilon_angstrom) a structure and g in U(-1, 1)^3, is a function of the seed and
    the record number alone: the one that training uses on validation data.

    Args:
        potential: energies and forces at positions of these structures.
        structures: B structures of N atoms.
        records: (B,) record number of each structure in its data set.
        epsilon_angstrom: largest size of a component of d.
        seed: of the displacement.

    Returns:
        (B,) residuals in the energy unit of the potential, in float64.
    """
    options = DisplacementOptions(epsilon_max_angstrom=epsilon_angstrom)
    displacement = displace(structures, options, generators(seed, 0, records, CONSISTENCY_COPY))
    positions = structures.positions
    clean = potential(positions)
    plus = potential(positions + displacement)
    minus = potential(positions - displacement)
    return consistency_residual(
        plus.energy.detach().double(),
        minus.energy.detach().double(),
        clean.forces.detach().double(),
        displacement.double(),
        structures.structure_index,
    )


def root_mean_square(residuals: Iterable[Float[Tensor, " structures"]]) -> float:
    """Return the root mean square over the structures of all batches."""
    return float(torch.cat(list(residuals)).square().mean().sqrt())
