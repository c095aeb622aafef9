"""Gradients of the terms: complete, and equal to finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from piwsl_ocp.consistency.metrics import METRICS
from piwsl_ocp.consistency.potential import Labels, Prediction
from piwsl_ocp.consistency.terms import TERMS, Evaluations
from tests.analytic import PairNetwork, evaluate, random_structures, random_vectors

every_term = pytest.mark.parametrize("name", TERMS)

STRUCTURES = random_structures([2, 3], seed=1)
MOVES = [random_vectors(STRUCTURES, seed, size=0.2) for seed in (1, 2)]
LABELS = Labels(torch.tensor([0.3, -0.4], dtype=torch.float64), random_vectors(STRUCTURES, 3))


@every_term
@pytest.mark.parametrize("conservative", [False, True])
def test_with_respect_to_the_parameters_of_a_model(name, conservative) -> None:
    network = PairNetwork(conservative, width=2)
    names, values = zip(*network.named_parameters(), strict=True)

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        weights = dict(zip(names, parameters, strict=True))
        evaluations = evaluate(
            lambda r: functional_call(network, weights, (r, STRUCTURES)), STRUCTURES, MOVES, LABELS
        )
        residual = TERMS[name].residual(evaluations)
        return METRICS["mse"](residual, TERMS[name].tolerance(evaluations))

    parameters = [value.detach().clone().requires_grad_(True) for value in values]
    assert bool(
        (
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        loss(*parameters).sum(), parameters, allow_unused=False
                    )
                ]
            )
            != 0
        ).any()
    )
    assert torch.autograd.gradcheck(loss, parameters)


@every_term
def test_with_respect_to_every_prediction(name) -> None:
    """A detached side would have a gradient of 0 where finite differences have none."""
    values = []
    for seed in range(3):
        energy = torch.tensor([0.1, 0.2], dtype=torch.float64) * (seed + 1)
        values += [energy.requires_grad_(True), random_vectors(STRUCTURES, seed).requires_grad_()]

    def residual(*tensors: torch.Tensor) -> torch.Tensor:
        clean, first, second = (Prediction(*tensors[2 * i : 2 * i + 2]) for i in range(3))
        evaluations = Evaluations(clean, [first, second], MOVES, STRUCTURES.structure_index, LABELS)
        # 0 * x joins those tensors to the graph that the term leaves aside
        return TERMS[name].residual(evaluations) + sum(0 * t.sum() for t in tensors)

    assert torch.autograd.gradcheck(residual, values)


def test_pitc_pulls_on_both_energies_and_on_the_forces(assert_close) -> None:
    """Gradient of Eq. 3: +1 for E(S_d), -1 for E(S), +d for F(S)."""
    clean = Prediction(
        torch.zeros(2, dtype=torch.float64, requires_grad=True),
        torch.zeros(5, 3, dtype=torch.float64, requires_grad=True),
    )
    moved = Prediction(torch.zeros(2, dtype=torch.float64, requires_grad=True), torch.zeros(5, 3))
    evaluations = Evaluations(clean, [moved], MOVES[:1], STRUCTURES.structure_index)
    TERMS["pitc"].residual(evaluations).sum().backward()
    ones = torch.ones(2, dtype=torch.float64)
    assert_close(moved.energy.grad, ones)
    assert_close(clean.energy.grad, -ones)
    assert_close(clean.forces.grad, MOVES[0])


def test_pisc_pulls_on_the_forces_of_the_second_copy(assert_close) -> None:
    """Gradient of Eq. 4: +1 for E(S_d), -1 for E(S_d'), +(d - d') for F(S_d')."""
    predictions = [
        Prediction(
            torch.zeros(2, dtype=torch.float64, requires_grad=True),
            torch.zeros(5, 3, dtype=torch.float64, requires_grad=True),
        )
        for _ in range(3)
    ]
    clean, first, second = predictions
    evaluations = Evaluations(clean, [first, second], MOVES, STRUCTURES.structure_index)
    TERMS["pisc"].residual(evaluations).sum().backward()
    ones = torch.ones(2, dtype=torch.float64)
    assert_close(first.energy.grad, ones)
    assert_close(second.energy.grad, -ones)
    assert_close(second.forces.grad, MOVES[0] - MOVES[1])
    assert clean.energy.grad is None and clean.forces.grad is None
