"""Random and adversarial displacements of the atoms of a batch, one structure at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from piwsl_ocp.consistency.choices import expect_choice, expect_number
from piwsl_ocp.consistency.potential import Labels, Prediction, Structures
from piwsl_ocp.consistency.randomness import generators as generators
from piwsl_ocp.consistency.residuals import sum_over_atoms
from piwsl_ocp.errors import UserError

#: (structures, magnitude_max in Angstrom, one generator per structure) -> (N, 3) Angstrom
Sampler = Callable[[Structures, float, Sequence[torch.Generator]], Tensor]


def uniform(
    structures: Structures, magnitude_max: float, generators: Sequence[torch.Generator]
) -> Float[Tensor, "atoms 3"]:
    """Draw delta_i = eps_b g_i with g in U(-1, 1)^3 and one eps_b in U(0, magnitude_max).

    Source: arXiv 2408.05215, B.1.

    Args:
        structures: B structures of N atoms.
        magnitude_max: largest size of a component, Angstrom.
        generators: one per structure.

    Returns:
        (N, 3) Angstrom, on the device and in the dtype of the positions; 0 for fixed atoms.
    """

    return _scaled_draw(structures, magnitude_max, generators, _cube)


def uniform_one_sided(
    structures: Structures, magnitude_max: float, generators: Sequence[torch.Generator]
) -> Float[Tensor, "atoms 3"]:
    """Draw delta_i = eps_b g_i with g in U(0, 1)^3 and one eps_b in U(0, magnitude_max).

    A deviation from B.1 of arXiv 2408.05215, to measure what it does: the mean displacement is
    not zero, so every structure is moved along (1, 1, 1) on average.

    Args:
        structures: B structures of N atoms.
        magnitude_max: largest size of a component, Angstrom.
        generators: one per structure.

    Returns:
        (N, 3) Angstrom, on the device and in the dtype of the positions; 0 for fixed atoms.
    """
    return _scaled_draw(structures, magnitude_max, generators, _positive_cube)


def unit(
    structures: Structures, magnitude_max: float, generators: Sequence[torch.Generator]
) -> Float[Tensor, "atoms 3"]:
    """Draw delta = magnitude_max g / |g|, the norm over the 3N vector of the whole structure.

    Source: arXiv 2408.05215, Eq. 6, with g in U(-1, 1)^3N.

    Args:
        structures: B structures of N atoms.
        magnitude_max: length of the displacement of a structure, Angstrom.
        generators: one per structure.

    Returns:
        (N, 3) Angstrom, on the device and in the dtype of the positions; 0 for fixed atoms,
        which take no part in the norm.
    """
    directions = _hold_fixed(_draw(structures, generators, _cube), structures)
    index = structures.structure_index.cpu()
    return _cast(
        magnitude_max * _over_structure_norm(directions, index, structures.num_structures),
        structures,
    )


def unit_per_atom(
    structures: Structures, magnitude_max: float, generators: Sequence[torch.Generator]
) -> Float[Tensor, "atoms 3"]:
    """Draw delta_i = magnitude_max g_i / |g_i|: every atom is moved by the same length.

    Source: arXiv 2408.05215, D.6, read as a length of each atom's vector.

    Args:
        structures: B structures of N atoms.
        magnitude_max: length of the displacement of an atom, Angstrom.
        generators: one per structure.

    Returns:
        (N, 3) Angstrom, on the device and in the dtype of the positions; 0 for fixed atoms.
    """
    directions = _draw(structures, generators, _cube)
    lengths = directions.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return _cast(_hold_fixed(magnitude_max * directions / lengths, structures), structures)


#: Samplers that need nothing but random numbers, by the name used in a configuration.
DISPLACEMENTS: dict[str, Sampler] = {
    "uniform": uniform,
    "uniform_one_sided": uniform_one_sided,
    "unit": unit,
    "unit_per_atom": unit_per_atom,
}


#: Names of the displacements along the gradient of the energy error -> whether that gradient is
#: taken with the reference forces where the data set holds them.
ADVERSARIAL: dict[str, bool] = {"adversarial": True, "adversarial_predicted_forces": False}


@dataclass(frozen=True)
class DisplacementOptions:
    """How the displaced copies of a structure are drawn.

    Attributes:
        name: a key of `DISPLACEMENTS` or of `ADVERSARIAL`.
        epsilon_max_angstrom: size of a displacement, Angstrom, as the sampler of that name
            reads it; at least 0.
        atom_fraction: share of the atoms of a structure that is moved, in (0, 1].

    Raises:
        UserError: if a value has another type or is out of its range.
    """

    name: str = "uniform"
    epsilon_max_angstrom: float = 0.01
    atom_fraction: float = 1.0

    def __post_init__(self) -> None:
        expect_choice("displacement", self.name, [*DISPLACEMENTS, *ADVERSARIAL])
        if expect_number("epsilon_max_angstrom", self.epsilon_max_angstrom) < 0:
            raise UserError(
                f"epsilon_max_angstrom is {self.epsilon_max_angstrom}: "
                "expected a length of at least 0 Angstrom"
            )
        if not 0 < expect_number("atom_fraction", self.atom_fraction) <= 1:
            raise UserError(
                f"atom_fraction is {self.atom_fraction}: "
                "expected a share above 0 and up to 1 (1 moves every atom)"
            )


def displace(
    structures: Structures,
    options: DisplacementOptions,
    generators: Sequence[torch.Generator],
    prediction: Prediction | None = None,
    labels: Labels | None = None,
) -> Float[Tensor, "atoms 3"]:
    """Draw the displacement of each structure from its own generator.

    The numbers are drawn in float64 on the CPU, structure by structure, and cast at the end: a
    displacement does not depend on the other structures, on their order, device or dtype.

    Args:
        structures: B structures of N atoms.
        options: which sampler, how far, which share of the atoms.
        generators: one per structure, as `randomness.generators` makes them.
        prediction: of the clean structures; for the displacements in `ADVERSARIAL` alone.
        labels: reference values of the clean structures; for these alone, too.

    Returns:
        (N, 3) Angstrom, on the device and in the dtype of the positions; 0 for atoms at rest.
    """
    if options.atom_fraction < 1:
        structures = hold_all_but_fraction(structures, options.atom_fraction, generators)
    size = options.epsilon_max_angstrom
    if options.name not in ADVERSARIAL:
        return DISPLACEMENTS[options.name](structures, size, generators)
    if not ADVERSARIAL[options.name]:
        labels = replace(labels, forces=None)
    return adversarial(structures, size, generators, prediction, labels)


def hold_all_but_fraction(
    structures: Structures, atom_fraction: float, generators: Sequence[torch.Generator]
) -> Structures:
    """Fix all atoms but a random subset of ceil(p n) of the n movable atoms of each structure.

    Source: arXiv 2408.05215, Table A14.

    Args:
        structures: B structures of N atoms; atoms already fixed stay fixed and are not counted.
        atom_fraction: p, in (0, 1].
        generators: one per structure.

    Returns:
        The same structures with a larger `fixed` mask.
    """
    fixed = _fixed_on_cpu(structures)

    def draw(num_atoms: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num_atoms, 1, dtype=torch.float64, generator=generator)

    # fixed atoms get a score above every other, the smallest scores of a structure move
    scores = _draw(structures, generators, draw).squeeze(1) + fixed.double()
    moved = torch.zeros_like(fixed)
    for atoms in _atoms_by_structure(structures):
        movable = int((~fixed[atoms]).sum())
        # 0.28 * 25 is a little more than 7 in floating point and is meant to be 7
        wanted = math.ceil(round(atom_fraction * movable, 9))
        moved[atoms[scores[atoms].argsort()[:wanted]]] = True
    return replace(structures, fixed=(~moved).to(structures.positions.device))


def adversarial(
    structures: Structures,
    magnitude: float,
    generators: Sequence[torch.Generator],
    prediction: Prediction,
    labels: Labels,
) -> Float[Tensor, "atoms 3"]:
    """Displace along the gradient of the energy error, with a random sign.

    delta = +-magnitude v / |v| over each structure, with v = -(F - F_ref) sign(E - E_ref), the
    gradient of |E - E_ref|; without reference forces v = F sign(E_ref - E).
    Source: arXiv 2408.05215, Eq. 7 and A1 without its factor 1/2. A structure with v = 0 gets a
    random direction. The displacement is a constant: no gradient flows through it.

    Args:
        structures: B structures of N atoms.
        magnitude: length of the displacement of a structure, Angstrom.
        generators: one per structure.
        prediction: E (B,) and F (N, 3) of the clean structures.
        labels: E_ref (B,) and F_ref (N, 3) or None, in the unit of the prediction.

    Returns:
        (N, 3) Angstrom, on the device and in the dtype of the positions; 0 for fixed atoms.
    """
    index, count = structures.structure_index, structures.num_structures
    fallback = unit(structures, 1.0, generators)
    flips = [torch.rand((), dtype=torch.float64, generator=g) < 0.5 for g in generators]
    signs = torch.where(torch.stack(flips), 1.0, -1.0).to(fallback)

    error = prediction.energy.detach() - labels.energy
    forces = prediction.forces.detach()
    force_error = forces if labels.forces is None else forces - labels.forces
    uphill = _hold_fixed(-force_error * error.sign()[index, None], structures)
    directions = _over_structure_norm(uphill.double(), index, count).to(fallback)
    is_zero = sum_over_atoms(directions.square().sum(dim=1), index, count) == 0
    directions = torch.where(is_zero[index, None], fallback, directions)
    return magnitude * signs[index, None] * directions


def _scaled_draw(
    structures: Structures,
    magnitude_max: float,
    generators: Sequence[torch.Generator],
    draw_rows: Callable[[int, torch.Generator], Tensor],
) -> Tensor:
    """Draw rows for each structure and scale them by a magnitude in U(0, magnitude_max)."""

    def draw(num_atoms: int, generator: torch.Generator) -> Tensor:
        magnitude = magnitude_max * torch.rand((), dtype=torch.float64, generator=generator)
        return magnitude * draw_rows(num_atoms, generator)

    return _cast(_hold_fixed(_draw(structures, generators, draw), structures), structures)


def _positive_cube(num_atoms: int, generator: torch.Generator) -> Tensor:
    """Draw (num_atoms, 3) float64 numbers from U(0, 1)."""
    return torch.rand(num_atoms, 3, dtype=torch.float64, generator=generator)


def _cube(num_atoms: int, generator: torch.Generator) -> Tensor:
    """Draw (num_atoms, 3) float64 numbers from U(-1, 1)."""
    return 2 * _positive_cube(num_atoms, generator) - 1


def _atoms_by_structure(structures: Structures) -> tuple[Tensor, ...]:
    """Return the atoms of each structure, in the order in which they stand in the batch."""
    index = structures.structure_index.cpu()
    counts = torch.bincount(index, minlength=structures.num_structures)
    return index.argsort(stable=True).split(counts.tolist())


def _draw(
    structures: Structures,
    generators: Sequence[torch.Generator],
    draw: Callable[[int, torch.Generator], Tensor],
) -> Tensor:
    """Draw rows for each structure from its generator and put them where its atoms stand."""
    atoms = _atoms_by_structure(structures)
    if len(generators) != len(atoms):
        raise ValueError(f"{len(generators)} generators for {len(atoms)} structures")
    rows = torch.cat([draw(len(a), g) for a, g in zip(atoms, generators, strict=True)])
    placed = torch.empty_like(rows)
    placed[torch.cat(atoms)] = rows
    return placed


def _fixed_on_cpu(structures: Structures) -> Bool[Tensor, " atoms"]:
    if structures.fixed is None:
        return torch.zeros(len(structures.positions), dtype=torch.bool)
    return structures.fixed.cpu()


def _hold_fixed(vectors: Tensor, structures: Structures) -> Tensor:
    """Return the vectors with those of fixed atoms set to zero."""
    if structures.fixed is None:
        return vectors
    return vectors.masked_fill(structures.fixed.to(vectors.device)[:, None], 0.0)


def _over_structure_norm(vectors: Tensor, index: Tensor, num_structures: int) -> Tensor:
    """Divide the vectors of a structure by their common norm; a zero vector stays zero."""
    squared = sum_over_atoms(vectors.square().sum(dim=1), index, num_structures)
    norms = squared.sqrt().clamp_min(torch.finfo(vectors.dtype).tiny)
    return vectors / norms[index, None]


def _cast(displacement: Tensor, structures: Structures) -> Tensor:
    return displacement.to(structures.positions)
