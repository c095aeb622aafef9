"""Residuals of the physical constraints between a structure and its displaced copies.

Symbols: S is a structure, S_d and S_d' its copies displaced by d (`displacement`) and d'
(`displacement_second`), d'' = d - d'. E and F are energy and forces in one physical unit.
Every function returns one residual per structure, in the unit of the energy, and detaches
nothing: gradients flow through all predictions. Equation numbers are those of arXiv 2408.05215.
Shapes: energies (B,), forces (N, 3), displacements (N, 3) in Angstrom, `structure_index` (N,).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def sum_over_atoms(
    values: Float[Tensor, " atoms"], structure_index: Int[Tensor, " atoms"], num_structures: int
) -> Float[Tensor, " structures"]:
    """Sum a value per atom (N,) within each structure.

    Returns:
        (B,) sums; 0 for a structure without atoms.
    """
    return values.new_zeros(num_structures).index_add(0, structure_index, values)


def work(
    displacement: Float[Tensor, "atoms 3"],
    forces: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
    num_structures: int,
) -> Float[Tensor, " structures"]:
    """Work of the forces along a displacement: w_b(d, F) = sum over atoms i of b of d_i . F_i.

    Args:
        displacement: d (N, 3), Angstrom.
        forces: F (N, 3), energy unit per Angstrom.
        structure_index: (N,) structure of each atom.
        num_structures: B.

    Returns:
        (B,) in the energy unit.
    """
    return sum_over_atoms((displacement * forces).sum(dim=1), structure_index, num_structures)


def taylor_energy(
    energy: Float[Tensor, " structures"],
    forces: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """First-order estimate of the energy of a displaced copy: T(d; S) = E(S) - w(d, F(S)).

    Source: Eq. 2.

    Args:
        energy: E(S) (B,).
        forces: F(S) (N, 3).
        displacement: d (N, 3), Angstrom, from S to the copy.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) in the energy unit.
    """
    return energy - work(displacement, forces, structure_index, len(energy))


def pitc(
    energy_displaced: Float[Tensor, " structures"],
    energy: Float[Tensor, " structures"],
    forces: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Taylor-expansion consistency: E(S_d) - T(d; S).

    Source: Eq. 3.

    Args:
        energy_displaced: E(S_d) (B,).
        energy: E(S) (B,).
        forces: F(S) (N, 3).
        displacement: d (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    return energy_displaced - taylor_energy(energy, forces, displacement, structure_index)


def pisc(
    energy_displaced: Float[Tensor, " structures"],
    energy_second: Float[Tensor, " structures"],
    forces_second: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    displacement_second: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Spatial consistency, case 1: E(S_d) - T(d''; S_d').

    Source: Eqs. 4 and A7.

    Args:
        energy_displaced: E(S_d) (B,).
        energy_second: E(S_d') (B,).
        forces_second: F(S_d') (N, 3).
        displacement: d (N, 3), Angstrom.
        displacement_second: d' (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    between = displacement - displacement_second
    return energy_displaced - taylor_energy(energy_second, forces_second, between, structure_index)


def pisc_batch_work(
    energy_displaced: Float[Tensor, " structures"],
    energy_second: Float[Tensor, " structures"],
    forces_second: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    displacement_second: Float[Tensor, "atoms 3"],
) -> Float[Tensor, " structures"]:
    """Spatial consistency with the work of all structures of the batch in every residual.

    A deviation from Eq. 4 of arXiv 2408.05215, to measure what it does: E(S_d) - E(S_d') +
    sum over all atoms of the batch of d''_i . F_i(S_d'). It equals `pisc` for one structure.

    Args:
        energy_displaced: E(S_d) (B,).
        energy_second: E(S_d') (B,).
        forces_second: F(S_d') (N, 3).
        displacement: d (N, 3), Angstrom.
        displacement_second: d' (N, 3), Angstrom.

    Returns:
        (B,) residuals in the energy unit.
    """
    between = displacement - displacement_second
    return energy_displaced - energy_second + (between * forces_second).sum()


def pisc_case2(
    energy: Float[Tensor, " structures"],
    forces: Float[Tensor, "atoms 3"],
    energy_second: Float[Tensor, " structures"],
    forces_second: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    displacement_second: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Spatial consistency, case 2: T(d; S) - T(d''; S_d').

    Source: Eq. A8 (A6 is its gradient).

    Args:
        energy: E(S) (B,).
        forces: F(S) (N, 3).
        energy_second: E(S_d') (B,).
        forces_second: F(S_d') (N, 3).
        displacement: d (N, 3), Angstrom.
        displacement_second: d' (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    between = displacement - displacement_second
    direct = taylor_energy(energy, forces, displacement, structure_index)
    return direct - taylor_energy(energy_second, forces_second, between, structure_index)


def pisc_case3(
    energy_displaced: Float[Tensor, " structures"],
    forces_displaced: Float[Tensor, "atoms 3"],
    energy_second: Float[Tensor, " structures"],
    displacement: Float[Tensor, "atoms 3"],
    displacement_second: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Spatial consistency, case 3: E(S_d') - T(-d''; S_d).

    Source: Eq. A9.

    Args:
        energy_displaced: E(S_d) (B,).
        forces_displaced: F(S_d) (N, 3).
        energy_second: E(S_d') (B,).
        displacement: d (N, 3), Angstrom.
        displacement_second: d' (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    back = displacement_second - displacement
    return energy_second - taylor_energy(energy_displaced, forces_displaced, back, structure_index)


def weak_label(
    energy_displaced: Float[Tensor, " structures"],
    reference_energy: Float[Tensor, " structures"],
    reference_forces: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Weak label from the reference: E(S_d) - [E_ref - w(d, F_ref)].

    Source: Eq. A3, after Cooper et al. 2020.

    Args:
        energy_displaced: E(S_d) (B,).
        reference_energy: E_ref (B,) of S, with the zero of the prediction.
        reference_forces: F_ref (N, 3) of S.
        displacement: d (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    label = taylor_energy(reference_energy, reference_forces, displacement, structure_index)
    return energy_displaced - label


def weak_label_predicted_forces(
    energy_displaced: Float[Tensor, " structures"],
    reference_energy: Float[Tensor, " structures"],
    forces: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Weak label from the reference energy and predicted forces: E(S_d) - [E_ref - w(d, F(S))].

    Source: D.10.

    Args:
        energy_displaced: E(S_d) (B,).
        reference_energy: E_ref (B,) of S, with the zero of the prediction.
        forces: F(S) (N, 3), predicted.
        displacement: d (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    label = taylor_energy(reference_energy, forces, displacement, structure_index)
    return energy_displaced - label


def pitc_trapezoid(
    energy_displaced: Float[Tensor, " structures"],
    forces_displaced: Float[Tensor, "atoms 3"],
    energy: Float[Tensor, " structures"],
    forces: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Trapezoid rule from S to S_d: E(S_d) - E(S) + w(d, F(S) + F(S_d)) / 2.

    Its error for a conservative potential is of order d^3, one order above `pitc`.

    Args:
        energy_displaced: E(S_d) (B,).
        forces_displaced: F(S_d) (N, 3).
        energy: E(S) (B,).
        forces: F(S) (N, 3).
        displacement: d (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    mean_forces = (forces + forces_displaced) / 2
    return pitc(energy_displaced, energy, mean_forces, displacement, structure_index)


def pisc_trapezoid(
    energy_displaced: Float[Tensor, " structures"],
    forces_displaced: Float[Tensor, "atoms 3"],
    energy_second: Float[Tensor, " structures"],
    forces_second: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    displacement_second: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Trapezoid rule from S_d' to S_d: E(S_d) - E(S_d') + w(d'', F(S_d') + F(S_d)) / 2.

    Args:
        energy_displaced: E(S_d) (B,).
        forces_displaced: F(S_d) (N, 3).
        energy_second: E(S_d') (B,).
        forces_second: F(S_d') (N, 3).
        displacement: d (N, 3), Angstrom.
        displacement_second: d' (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    between = displacement - displacement_second
    mean_forces = (forces_second + forces_displaced) / 2
    return pitc(energy_displaced, energy_second, mean_forces, between, structure_index)


def closed_loop(
    forces: Float[Tensor, "atoms 3"],
    forces_displaced: Float[Tensor, "atoms 3"],
    forces_second: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    displacement_second: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
    num_structures: int,
) -> Float[Tensor, " structures"]:
    """Work around the triangle S -> S_d' -> S_d -> S by the trapezoid rule.

    [w(d', F + F') + w(d'', F' + F_d) - w(d, F_d + F)] / 2 with F, F', F_d at S, S_d', S_d.
    It is of order d^3 for a smooth conservative potential and 0 for a quadratic one.

    Args:
        forces: F(S) (N, 3).
        forces_displaced: F(S_d) (N, 3).
        forces_second: F(S_d') (N, 3).
        displacement: d (N, 3), Angstrom.
        displacement_second: d' (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.
        num_structures: B.

    Returns:
        (B,) residuals in the energy unit.
    """
    edges = (
        (displacement_second, forces + forces_second),
        (displacement - displacement_second, forces_second + forces_displaced),
        (-displacement, forces_displaced + forces),
    )
    return sum(work(edge, both / 2, structure_index, num_structures) for edge, both in edges)


def consistency_residual(
    energy_plus: Float[Tensor, " structures"],
    energy_minus: Float[Tensor, " structures"],
    forces: Float[Tensor, "atoms 3"],
    displacement: Float[Tensor, "atoms 3"],
    structure_index: Int[Tensor, " atoms"],
) -> Float[Tensor, " structures"]:
    """Diagnostic of forces against energies: [E(r + d) - E(r - d)] / 2 + w(d, F(r)).

    It is of order d^3 for a conservative potential; its root mean square over structures is
    the consistency error of a model.

    Args:
        energy_plus: E(r + d) (B,).
        energy_minus: E(r - d) (B,).
        forces: F(r) (N, 3).
        displacement: d (N, 3), Angstrom.
        structure_index: (N,) structure of each atom.

    Returns:
        (B,) residuals in the energy unit.
    """
    half_difference = (energy_plus - energy_minus) / 2
    return half_difference + work(displacement, forces, structure_index, len(energy_plus))
