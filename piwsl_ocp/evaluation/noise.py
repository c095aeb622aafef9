"""Noise floor: how much the energy of one input changes between repeated evaluations."""

from __future__ import annotations

import torch

from piwsl_ocp.consistency.potential import Potential, Structures

REPETITIONS = 10


def noise_floor(
    potential: Potential, structures: Structures, repetitions: int = REPETITIONS
) -> float:
    """Return the standard deviation of E over repeated evaluations of one input.

    sqrt(mean over structures of var(E)), with the unbiased variance over the repetitions. It is 0
    for a deterministic model; a consistency error below it says nothing.

    Args:
        potential: B structures in, their energies out.
        structures: the same B structures.
        repetitions: evaluations of the same positions, at least 2.

    Returns:
        The noise in the energy unit of the potential.

    Raises:
        ValueError: if there are fewer than two repetitions.
    """
    if repetitions < 2:
        raise ValueError(f"repetitions is {repetitions}: expected at least 2")
    energies = [
        potential(structures.positions).energy.detach().double() for _ in range(repetitions)
    ]
    deviations = torch.stack(energies) - energies[0]
    return float(deviations.var(dim=0, unbiased=True).mean().sqrt())
