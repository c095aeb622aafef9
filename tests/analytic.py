"""Potentials whose answers are known in closed form, and one small network without any.

Each takes positions (N, 3) and returns a `Prediction`; units are arbitrary but consistent.
`evaluate` predicts a batch and its displaced copies, as one training step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from torch import Tensor, nn

from piwsl_ocp.consistency.potential import Labels, Potential, Prediction, Structures
from piwsl_ocp.consistency.residuals import sum_over_atoms
from piwsl_ocp.consistency.terms import TERMS, Evaluations

#: All terms but the one whose residual depends on the other structures of the batch on purpose.
PER_STRUCTURE = tuple(name for name in TERMS if name != "pisc_batch_work")


def random_structures(
    sizes: Sequence[int],
    seed: int = 0,
    spacing: float = 1.15,
    jitter: float = 0.08,
    dtype: torch.dtype = torch.float64,
) -> Structures:
    """Return structures of the given sizes: a simple cubic lattice with random jitter."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for size in sizes:
        side = max(1, round(size ** (1 / 3) + 0.5))
        axis = torch.arange(side, dtype=torch.float64)
        lattice = spacing * torch.cartesian_prod(axis, axis, axis).reshape(-1, 3)[:size]
        noise = 2 * torch.rand(size, 3, dtype=torch.float64, generator=generator) - 1
        blocks.append(lattice + jitter * noise)
    num_atoms = sum(sizes)
    return Structures(
        positions=torch.cat(blocks).to(dtype),
        structure_index=torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        num_structures=len(sizes),
        atomic_numbers=torch.randint(1, 9, (num_atoms,), generator=generator),
    )


def random_vectors(structures: Structures, seed: int, size: float = 1.0) -> Tensor:
    """Return normally distributed vectors (N, 3) of the given size per component."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(structures.positions.shape, dtype=torch.float64, generator=generator)


def random_matrix(structures: Structures, seed: int, symmetry: int) -> Tensor:
    """Return a (3N, 3N) matrix without coupling between structures.

    Args:
        structures: B structures of N atoms.
        seed: of the random numbers.
        symmetry: +1 for a symmetric matrix, -1 for an antisymmetric one.
    """
    index = structures.structure_index.repeat_interleave(3)
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(len(index), len(index), dtype=torch.float64, generator=generator)
    return torch.where(index[:, None] == index[None, :], full + symmetry * full.T, 0.0)


def quadratic_form(left: Tensor, matrix: Tensor, right: Tensor, structures: Structures) -> Tensor:
    """Return left . matrix . right for each structure (B,)."""
    product = (matrix @ right.reshape(-1)).reshape(-1, 3)
    return sum_over_atoms(
        (left * product).sum(dim=1), structures.structure_index, structures.num_structures
    )


@dataclass(frozen=True)
class Harmonic:
    """A spring network: E = r.K r / 2, F = -K r with a symmetric K (3N, 3N)."""

    structures: Structures
    stiffness: Tensor

    def __call__(self, positions: Tensor) -> Prediction:
        energy = quadratic_form(positions, self.stiffness, positions, self.structures) / 2
        return Prediction(energy, -(self.stiffness @ positions.reshape(-1)).reshape(-1, 3))


@dataclass(frozen=True)
class Circulation:
    """A spring network with forces that do work around a loop: F = -K r + A r, A antisymmetric."""

    harmonic: Harmonic
    rotation: Tensor

    def __call__(self, positions: Tensor) -> Prediction:
        conservative = self.harmonic(positions)
        swirl = (self.rotation @ positions.reshape(-1)).reshape(-1, 3)
        return Prediction(conservative.energy, conservative.forces + swirl)


@dataclass(frozen=True)
class Linear:
    """A constant field: E = a.r, F = -a with a (N, 3)."""

    structures: Structures
    field: Tensor

    def __call__(self, positions: Tensor) -> Prediction:
        per_atom = (self.field * positions).sum(dim=1)
        index, count = self.structures.structure_index, self.structures.num_structures
        return Prediction(sum_over_atoms(per_atom, index, count), -self.field)


@dataclass(frozen=True)
class Cubic:
    """A cubic potential: E = c sum x^3 / 6, F = -c x^2 / 2 for each coordinate x."""

    structures: Structures
    curvature: float = 1.7

    def __call__(self, positions: Tensor) -> Prediction:
        per_atom = self.curvature * positions.pow(3).sum(dim=1) / 6
        index, count = self.structures.structure_index, self.structures.num_structures
        energy = sum_over_atoms(per_atom, index, count)
        return Prediction(energy, -self.curvature * positions.square() / 2)


@dataclass(frozen=True)
class ConstantOffset:
    """Another potential with a constant wrong force on each atom: F + c with c (N, 3)."""

    potential: Potential
    offset: Tensor

    def __call__(self, positions: Tensor) -> Prediction:
        right = self.potential(positions)
        return Prediction(right.energy, right.forces + self.offset)


@dataclass(frozen=True)
class LennardJones:
    """Lennard-Jones clusters computed by ASE, without gradients."""

    structures: Structures

    def __call__(self, positions: Tensor) -> Prediction:
        energies, forces = [], numpy.zeros(positions.shape)
        for structure in range(self.structures.num_structures):
            atoms_of = (self.structures.structure_index == structure).numpy()
            atoms = Atoms(f"Ar{atoms_of.sum()}", positions=positions.detach().numpy()[atoms_of])
            atoms.calc = AseLennardJones(sigma=1.0, epsilon=1.0, rc=100.0)
            energies.append(atoms.get_potential_energy())
            forces[atoms_of] = atoms.get_forces()
        return Prediction(torch.tensor(energies, dtype=torch.float64), torch.from_numpy(forces))


class PairNetwork(nn.Module):
    """A sum over pairs of atoms of a small network of their distance and elements.

    Invariant under rotation, translation and permutation. Forces are minus the gradient of the
    energy, or, if direct, a second output of the network along the line between the atoms.

    Args:
        conservative: whether forces are the gradient of the energy.
        width: hidden width.
        seed: of the weights.
    """

    def __init__(self, conservative: bool, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conservative = conservative
        self.register_buffer("centres", torch.linspace(0.5, 3.5, 5, dtype=torch.float64))
        for name, shape in (("inner", (6, width)), ("bias", (width,)), ("outer", (width, 2))):
            values = torch.randn(shape, dtype=torch.float64, generator=generator)
            self.register_parameter(name, nn.Parameter(values))

    def forward(self, positions: Tensor, structures: Structures) -> Prediction:
        index = structures.structure_index
        pairs = (index[:, None] == index[None, :]).triu(diagonal=1).nonzero()
        if self.conservative and not positions.requires_grad:
            positions = positions.detach().requires_grad_(True)
        vectors = positions[pairs[:, 0]] - positions[pairs[:, 1]]
        lengths = vectors.norm(dim=1, keepdim=True)
        elements = structures.atomic_numbers[pairs].sum(dim=1, keepdim=True) / 10
        features = torch.cat([(-((lengths - self.centres) ** 2)).exp(), elements], dim=1)
        outputs = (features @ self.inner + self.bias).tanh() @ self.outer
        energy = sum_over_atoms(outputs[:, 0], index[pairs[:, 0]], structures.num_structures)
        if self.conservative:
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
            return Prediction(energy, -gradient)
        pushes = outputs[:, 1:] * vectors / lengths
        forces = torch.zeros_like(positions).index_add(0, pairs[:, 0], pushes)
        return Prediction(energy, forces.index_add(0, pairs[:, 1], -pushes))

    def at(self, structures: Structures) -> Potential:
        """Return the potential of these structures."""
        return lambda positions: self(positions, structures)


def evaluate(
    potential: Potential,
    structures: Structures,
    displacements: Sequence[Tensor],
    labels: Labels | None = None,
) -> Evaluations:
    """Predict the clean structures and their displaced copies."""
    return Evaluations(
        clean=potential(structures.positions),
        displaced=[potential(structures.positions + moved) for moved in displacements],
        displacements=displacements,
        structure_index=structures.structure_index,
        labels=labels,
    )


def true_labels(potential: Potential, structures: Structures) -> Labels:
    """Return what a potential predicts for the clean structures, as labels."""
    prediction = potential(structures.positions)
    return Labels(prediction.energy.detach(), prediction.forces.detach())
