"""What leaves a residual unchanged: motion of the frame, names of atoms, company in the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piwsl_ocp.consistency.potential import Labels, Prediction, Structures
from piwsl_ocp.consistency.terms import TERMS
from tests.analytic import PER_STRUCTURE, PairNetwork, evaluate, random_structures, random_vectors

SIZES = st.lists(st.integers(1, 6), min_size=2, max_size=4)
SEEDS = st.integers(0, 10_000)
every_term = pytest.mark.parametrize("name", TERMS)
each_kind_of_force = pytest.mark.parametrize("conservative", [False, True])


def residual(
    name: str,
    structures: Structures,
    moves: list[torch.Tensor],
    labels: Labels,
    conservative: bool = False,
) -> torch.Tensor:
    """Return the residual of a small network."""
    potential = PairNetwork(conservative).at(structures)
    return TERMS[name].residual(evaluate(potential, structures, moves, labels)).detach()


def random_case(sizes: list[int], seed: int) -> tuple[Structures, list[torch.Tensor], Labels]:
    """Return structures, two displacements and labels that fit nothing."""
    structures = random_structures(sizes, seed)
    moves = [random_vectors(structures, seed + i, size=0.05) for i in (1, 2)]
    energy = torch.linspace(-1, 1, len(sizes), dtype=torch.float64)
    return structures, moves, Labels(energy, random_vectors(structures, seed + 3))


def rearranged(
    atoms: torch.Tensor,
    new_index: torch.Tensor,
    structures: Structures,
    moves: list[torch.Tensor],
    labels: Labels,
    kept: torch.Tensor,
) -> tuple[Structures, list[torch.Tensor], Labels]:
    """Return the case with these atoms in this order and these structures."""
    changed = Structures(
        structures.positions[atoms], new_index, len(kept), structures.atomic_numbers[atoms]
    )
    new_labels = Labels(labels.energy[kept], labels.forces[atoms])
    return changed, [move[atoms] for move in moves], new_labels


@every_term
@each_kind_of_force
@given(sizes=SIZES, seed=SEEDS)
def test_rotation_and_translation(name, conservative, sizes, seed, assert_close) -> None:
    structures, moves, labels = random_case(sizes, seed)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=generator)
    ).Q  # proper or improper: energies know neither
    shift = torch.randn(3, dtype=torch.float64, generator=generator)
    turned = replace(structures, positions=structures.positions @ rotation + shift)
    turned_labels = Labels(labels.energy, labels.forces @ rotation)
    assert_close(
        residual(name, turned, [move @ rotation for move in moves], turned_labels, conservative),
        residual(name, structures, moves, labels, conservative),
    )


@every_term
@given(sizes=SIZES, seed=SEEDS)
def test_permutation_of_atoms_across_the_whole_batch(name, sizes, seed, assert_close) -> None:
    case = random_case(sizes, seed)
    structures = case[0]
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randperm(len(structures.positions), generator=generator)
    shuffled = rearranged(
        atoms, structures.structure_index[atoms], *case, kept=torch.arange(len(sizes))
    )
    assert_close(residual(name, *shuffled), residual(name, *case))


@every_term
@given(sizes=SIZES, seed=SEEDS)
def test_order_of_structures(name, sizes, seed, assert_close) -> None:
    case = random_case(sizes, seed)
    index = case[0].structure_index
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))
    atoms = torch.cat([(index == b).nonzero().squeeze(1) for b in order.tolist()])
    new_index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)[order])
    reordered = rearranged(atoms, new_index, *case, kept=order)
    assert_close(residual(name, *reordered), residual(name, *case)[order])


@pytest.mark.parametrize("name", PER_STRUCTURE)
@given(sizes=SIZES, seed=SEEDS)
def test_company_in_the_batch(name, sizes, seed, assert_close) -> None:
    case = random_case(sizes, seed)
    index = case[0].structure_index
    together = residual(name, *case)
    for structure in range(len(sizes)):
        atoms = (index == structure).nonzero().squeeze(1)
        alone = rearranged(atoms, torch.zeros_like(atoms), *case, kept=torch.tensor([structure]))
        assert_close(residual(name, *alone), together[structure : structure + 1])


@every_term
def test_zero_of_the_energy(name, assert_close) -> None:
    structures, moves, labels = random_case([2, 5, 3], seed=4)
    zero = torch.tensor([1000.0, -20.0, 3.0], dtype=torch.float64)
    potential = PairNetwork(conservative=False).at(structures)

    def shifted(positions: torch.Tensor) -> Prediction:
        prediction = potential(positions)
        return Prediction(prediction.energy + zero, prediction.forces)

    term, moved_labels = TERMS[name], Labels(labels.energy + zero, labels.forces)
    expected = term.residual(evaluate(potential, structures, moves, labels))
    found = term.residual(evaluate(shifted, structures, moves, moved_labels))
    assert_close(found, expected, scale=100)


@every_term
def test_nothing_is_written_into_the_arguments(name) -> None:
    structures, moves, labels = random_case([4, 2], seed=2)
    potential = PairNetwork(conservative=False).at(structures)
    evaluations = evaluate(potential, structures, moves, labels)
    tensors = [
        structures.positions,
        structures.structure_index,
        *moves,
        labels.energy,
        labels.forces,
        *(t for p in (evaluations.clean, *evaluations.displaced) for t in (p.energy, p.forces)),
    ]
    versions = [tensor._version for tensor in tensors]
    copies = [tensor.detach().clone() for tensor in tensors]
    TERMS[name].residual(evaluations).sum().backward()
    assert [tensor._version for tensor in tensors] == versions
    assert all(torch.equal(t, copy) for t, copy in zip(tensors, copies, strict=True))
    assert not structures.positions.requires_grad
