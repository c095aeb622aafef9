"""Metrics: where they are zero, their known values, their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piwsl_ocp.consistency.metrics import METRICS
from piwsl_ocp.consistency.terms import TERMS
from tests.analytic import Cubic, Linear, evaluate, random_structures, random_vectors

RESIDUAL = [3.0, -3.0, 0.5, -0.5, 0.0]
TOLERANCE = [1.0, 1.0, 1.0, -1.0, -1.0]
KNOWN = {
    "mse": [9.0, 9.0, 0.25, 0.25, 0.0],
    "mae": [3.0, 3.0, 0.5, 0.5, 0.0],
    "relu": [2.0, 2.0, 0.0, 0.0, 0.0],
    "relu_literal": [2.0, 2.0, 0.0, 1.5, 1.0],
}
every_metric = pytest.mark.parametrize("name", METRICS)
NUMBERS = st.floats(-100, 100)


@every_metric
def test_known_values(name) -> None:
    residual = torch.tensor(RESIDUAL, dtype=torch.float64)
    tolerance = torch.tensor(TOLERANCE, dtype=torch.float64)
    assert METRICS[name](residual, tolerance).tolist() == KNOWN[name]


@every_metric
@given(residual=NUMBERS, tolerance=NUMBERS)
def test_sign_of_the_residual_does_not_matter(name, residual, tolerance) -> None:
    loss = METRICS[name](torch.tensor([residual, -residual]), torch.tensor([tolerance] * 2))
    assert loss[0] == loss[1] >= 0


@given(residual=NUMBERS, tolerance=NUMBERS)
def test_only_the_literal_relu_knows_the_sign_of_the_energy(residual, tolerance) -> None:
    residuals = torch.tensor([residual] * 2, dtype=torch.float64)
    tolerances = torch.tensor([tolerance, -tolerance], dtype=torch.float64)
    for name, metric in METRICS.items():
        loss = metric(residuals, tolerances)
        assert (loss[0] == loss[1]) or name == "relu_literal"
    literal = METRICS["relu_literal"](residuals, tolerances)
    assert literal.max() == abs(residual) + abs(tolerance)


@every_metric
def test_gradient(name) -> None:
    residual = torch.tensor([3.0, -3.0, 0.4, -0.6], dtype=torch.float64, requires_grad=True)
    tolerance = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda r, t: METRICS[name](r, t) + 0 * (r + t), (residual, tolerance)
    )


def test_tolerance_of_a_term_on_the_displacement_from_the_structure(assert_close) -> None:
    structures = random_structures([2, 3])
    potential = Cubic(structures)
    moves = [random_vectors(structures, 1), random_vectors(structures, 2)]
    evaluations = evaluate(potential, structures, moves)
    energy = potential(structures.positions + moves[0]).energy
    squares = torch.stack([moves[0][:2].square().sum(), moves[0][2:].square().sum()])
    assert_close(TERMS["pitc"].tolerance(evaluations), energy * squares)


def test_tolerance_of_a_term_on_the_displacement_between_the_copies(assert_close) -> None:
    structures = random_structures([2, 3])
    potential = Linear(structures, random_vectors(structures, 0))
    moves = [random_vectors(structures, 1), random_vectors(structures, 2)]
    evaluations = evaluate(potential, structures, moves)
    energy = potential(structures.positions + moves[0]).energy
    between = moves[0] - moves[1]
    squares = torch.stack([between[:2].square().sum(), between[2:].square().sum()])
    assert_close(TERMS["pisc"].tolerance(evaluations), energy * squares)
