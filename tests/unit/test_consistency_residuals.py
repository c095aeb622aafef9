"""Residuals against closed forms: zero, known value, order in the displacement."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piwsl_ocp.consistency import residuals
from piwsl_ocp.consistency.potential import Structures
from piwsl_ocp.consistency.terms import TERMS
from tests.analytic import (
    PER_STRUCTURE,
    Circulation,
    ConstantOffset,
    Cubic,
    Harmonic,
    LennardJones,
    Linear,
    evaluate,
    quadratic_form,
    random_matrix,
    random_structures,
    random_vectors,
    true_labels,
)

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
SEEDS = st.integers(0, 10_000)

#: Residual for E = r.K r / 2: the signs of d.K d / 2 and of d''.K d'' / 2 in it.
HARMONIC = {
    "pitc": (1, 0),
    "pitc_trapezoid": (0, 0),
    "pisc": (0, 1),
    "pisc_case2": (-1, 1),
    "pisc_case3": (0, 1),
    "pisc_trapezoid": (0, 0),
    "closed_loop": (0, 0),
    "weak_label": (1, 0),
    "weak_label_predicted_forces": (1, 0),
}
#: Residual for right energies and forces wrong by c: the signs of w(d, c) and w(d', c) in it.
OFFSET = {
    "pitc": (1, 0),
    "pitc_trapezoid": (1, 0),
    "pisc": (1, -1),
    "pisc_case2": (0, -1),
    "pisc_case3": (-1, 1),
    "pisc_trapezoid": (1, -1),
    "closed_loop": (0, 0),
    "weak_label": (0, 0),
    "weak_label_predicted_forces": (1, 0),
}
#: Order in the displacement of each residual for a smooth conservative potential.
ORDER = dict.fromkeys(PER_STRUCTURE, 2) | {
    "pitc_trapezoid": 3,
    "pisc_trapezoid": 3,
    "closed_loop": 3,
}


def work(left: torch.Tensor, right: torch.Tensor, structures: Structures) -> torch.Tensor:
    """Sum left . right over the atoms of each structure, one structure after the other."""
    return torch.stack(
        [
            (left[structures.structure_index == b] * right[structures.structure_index == b]).sum()
            for b in range(structures.num_structures)
        ]
    )


def test_every_term_has_its_expectations() -> None:
    assert set(HARMONIC) == set(OFFSET) == set(ORDER) == set(PER_STRUCTURE)


@given(sizes=SIZES, seed=SEEDS)
def test_work_is_summed_within_each_structure(sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    left, right = random_vectors(structures, seed), random_vectors(structures, seed + 1)
    index, count = structures.structure_index, structures.num_structures
    assert_close(residuals.work(left, right, index, count), work(left, right, structures))


def test_work_of_structures_of_different_size() -> None:
    forces = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [1, 1, 1]])
    displacement = torch.tensor([[10.0, 0, 0], [0, 10, 0], [0, 0, 10], [1, 2, 3]])
    index = torch.tensor([0, 0, 0, 1])
    expected = torch.tensor([60.0, 6.0, 0.0])
    assert torch.equal(residuals.work(displacement, forces, index, 3), expected)


def test_work_of_interleaved_atoms() -> None:
    forces = torch.ones(4, 3)
    displacement = torch.tensor([[1.0], [10], [100], [1000]]).expand(4, 3)
    index = torch.tensor([1, 0, 1, 0])
    expected = torch.tensor([3030.0, 303.0])
    assert torch.equal(residuals.work(displacement, forces, index, 2), expected)


def test_taylor_energy_goes_down_along_the_force() -> None:
    energy = torch.tensor([5.0])
    forces = torch.tensor([[2.0, 0, 0]])
    displacement = torch.tensor([[0.5, 0, 0]])
    estimate = residuals.taylor_energy(energy, forces, displacement, torch.tensor([0]))
    assert torch.equal(estimate, torch.tensor([4.0]))


@pytest.mark.parametrize("name", PER_STRUCTURE)
@given(sizes=SIZES, seed=SEEDS)
def test_zero_in_a_constant_field(name, sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    potential = Linear(structures, random_vectors(structures, seed))
    moves = [random_vectors(structures, seed + 1), random_vectors(structures, seed + 2)]
    labels = true_labels(potential, structures)
    residual = TERMS[name].residual(evaluate(potential, structures, moves, labels))
    assert_close(residual, torch.zeros(len(sizes), dtype=torch.float64))


@pytest.mark.parametrize("name", PER_STRUCTURE)
@given(sizes=SIZES, seed=SEEDS)
def test_known_value_for_springs(name, sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    stiffness = random_matrix(structures, seed, symmetry=1)
    potential = Harmonic(structures, stiffness)
    first, second = random_vectors(structures, seed + 1), random_vectors(structures, seed + 2)
    labels = true_labels(potential, structures)
    residual = TERMS[name].residual(evaluate(potential, structures, [first, second], labels))
    between = first - second
    clean_sign, between_sign = HARMONIC[name]
    expected = clean_sign * quadratic_form(first, stiffness, first, structures) / 2
    expected = expected + between_sign * quadratic_form(between, stiffness, between, structures) / 2
    assert_close(residual, expected, scale=100)


@pytest.mark.parametrize("name", PER_STRUCTURE)
@given(sizes=SIZES, seed=SEEDS)
def test_known_value_for_a_constant_force_error(name, sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    right = Linear(structures, random_vectors(structures, seed))
    offset = random_vectors(structures, seed + 3)
    first, second = random_vectors(structures, seed + 1), random_vectors(structures, seed + 2)
    residual = TERMS[name].residual(
        evaluate(
            ConstantOffset(right, offset),
            structures,
            [first, second],
            true_labels(right, structures),
        )
    )
    first_sign, second_sign = OFFSET[name]
    expected = first_sign * work(first, offset, structures)
    expected = expected + second_sign * work(second, offset, structures)
    assert_close(residual, expected)


@given(sizes=SIZES, seed=SEEDS)
def test_trapezoids_of_a_cubic_potential(sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    potential = Cubic(structures)
    first, second = random_vectors(structures, seed + 1), random_vectors(structures, seed + 2)
    evaluations = evaluate(potential, structures, [first, second])

    def error(step: torch.Tensor) -> torch.Tensor:
        return -potential.curvature / 12 * work(step, step.square(), structures)

    assert_close(TERMS["pitc_trapezoid"].residual(evaluations), error(first), scale=100)
    assert_close(TERMS["pisc_trapezoid"].residual(evaluations), error(first - second), scale=100)
    around = error(second) + error(first - second) + error(-first)
    assert_close(TERMS["closed_loop"].residual(evaluations), around, scale=100)


@given(sizes=SIZES, seed=SEEDS)
def test_closed_loop_is_the_circulation(sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    rotation = random_matrix(structures, seed, symmetry=-1)
    springs = Harmonic(structures, random_matrix(structures, seed + 5, symmetry=1))
    potential = Circulation(springs, rotation)
    first, second = random_vectors(structures, seed + 1), random_vectors(structures, seed + 2)
    evaluations = evaluate(potential, structures, [first, second])
    expected = quadratic_form(first, rotation, second, structures)
    assert_close(TERMS["closed_loop"].residual(evaluations), expected, scale=100)


@given(sizes=SIZES, seed=SEEDS)
def test_pisc_with_the_work_of_the_whole_batch(sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    springs = Harmonic(structures, random_matrix(structures, seed, symmetry=1))
    moves = [random_vectors(structures, seed + 1), random_vectors(structures, seed + 2)]
    evaluations = evaluate(springs, structures, moves)
    found = TERMS["pisc_batch_work"].residual(evaluations)
    each = work(moves[0] - moves[1], evaluations.displaced[1].forces, structures)
    of_the_others = each.sum() - each
    assert_close(found, TERMS["pisc"].residual(evaluations) + of_the_others, scale=100)


@given(seed=SEEDS)
def test_closed_loop_in_the_opposite_sense_changes_sign(seed, assert_close) -> None:
    structures = random_structures([3, 2], seed)
    rotation = random_matrix(structures, seed, symmetry=-1)
    springs = Harmonic(structures, random_matrix(structures, seed + 5, symmetry=1))
    potential = Circulation(springs, rotation)
    moves = [random_vectors(structures, seed + 1), random_vectors(structures, seed + 2)]
    forward = TERMS["closed_loop"].residual(evaluate(potential, structures, moves))
    backward = TERMS["closed_loop"].residual(evaluate(potential, structures, moves[::-1]))
    assert bool((forward.abs() > 1e-3).any())
    assert_close(forward, -backward, scale=100)


def test_springs_with_an_antisymmetric_part_show_it_in_every_force_term(assert_close) -> None:
    structures = random_structures([4, 2])
    rotation = random_matrix(structures, 1, symmetry=-1)
    springs = Harmonic(structures, random_matrix(structures, 2, symmetry=1))
    moves = [random_vectors(structures, 3), random_vectors(structures, 4)]
    evaluations = evaluate(Circulation(springs, rotation), structures, moves)
    swirl = quadratic_form(moves[0], rotation, structures.positions, structures)
    assert_close(TERMS["pitc_trapezoid"].residual(evaluations), swirl, scale=100)
    conservative = TERMS["pitc"].residual(evaluate(springs, structures, moves))
    assert_close(TERMS["pitc"].residual(evaluations), conservative + swirl, scale=100)


@pytest.mark.parametrize("name", PER_STRUCTURE)
def test_order_in_the_displacement_for_lennard_jones(name) -> None:
    structures = random_structures([4, 7, 5], seed=3)
    potential = LennardJones(structures)
    labels = true_labels(potential, structures)
    moves = [random_vectors(structures, 1, size=0.6), random_vectors(structures, 2, size=0.6)]
    magnitudes = numpy.logspace(-3.5, -2.7, 5)
    sizes = [
        TERMS[name].residual(evaluate(potential, structures, [e * m for m in moves], labels))
        for e in magnitudes
    ]
    logarithms = numpy.log(torch.stack(sizes).abs().numpy())
    slopes = numpy.polyfit(numpy.log(magnitudes), logarithms, 1)[0]
    assert numpy.abs(slopes - ORDER[name]).max() < 0.05, slopes


def test_consistency_residual_is_of_third_order_for_lennard_jones() -> None:
    structures = random_structures([4, 7, 5], seed=3)
    potential = LennardJones(structures)
    direction = random_vectors(structures, 1, size=0.6)
    forces = potential(structures.positions).forces
    magnitudes = numpy.logspace(-3.5, -2.7, 5)
    sizes = [
        residuals.consistency_residual(
            potential(structures.positions + e * direction).energy,
            potential(structures.positions - e * direction).energy,
            forces,
            e * direction,
            structures.structure_index,
        )
        for e in magnitudes
    ]
    logarithms = numpy.log(torch.stack(sizes).abs().numpy())
    slopes = numpy.polyfit(numpy.log(magnitudes), logarithms, 1)[0]
    assert numpy.abs(slopes - 3).max() < 0.05, slopes


@given(sizes=SIZES, seed=SEEDS)
def test_consistency_residual_sees_a_constant_force_error(sizes, seed, assert_close) -> None:
    structures = random_structures(sizes, seed)
    springs = Harmonic(structures, random_matrix(structures, seed, symmetry=1))
    offset = random_vectors(structures, seed + 1)
    step = random_vectors(structures, seed + 2)
    residual = residuals.consistency_residual(
        springs(structures.positions + step).energy,
        springs(structures.positions - step).energy,
        ConstantOffset(springs, offset)(structures.positions).forces,
        step,
        structures.structure_index,
    )
    assert_close(residual, work(step, offset, structures), scale=100)


def test_weak_labels_see_a_wrong_energy_and_consistency_terms_do_not(assert_close) -> None:
    structures = random_structures([3, 5])
    springs = Harmonic(structures, random_matrix(structures, 1, symmetry=1))
    labels = true_labels(springs, structures)
    moves = [random_vectors(structures, 2), random_vectors(structures, 3)]
    error = torch.tensor([0.75, -2.0], dtype=torch.float64)

    def shifted(positions: torch.Tensor):
        right = springs(positions)
        return type(right)(right.energy + error, right.forces)

    for name, term in TERMS.items():
        right = term.residual(evaluate(springs, structures, moves, labels))
        wrong = term.residual(evaluate(shifted, structures, moves, labels))
        expected = error if name.startswith("weak_label") else torch.zeros_like(error)
        assert_close(wrong - right, expected, scale=100)
