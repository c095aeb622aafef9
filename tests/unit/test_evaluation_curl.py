"""Curl of force fields whose curl is known."""

from __future__ import annotations

import pytest
import torch

from piwsl_ocp.evaluation.curl import curl_norm, estimated_curl, jacobian
from tests.analytic import (
    Circulation,
    Harmonic,
    LennardJones,
    random_matrix,
    random_structures,
)


def on_copies(potential):
    """Return the forces of a potential over one structure for several positions."""
    return lambda positions: torch.stack([potential(p).forces for p in positions])


@pytest.fixture
def swirl():
    """Forces -K r + A r of five atoms, with |A| known."""
    structures = random_structures([5], seed=1)
    springs = Harmonic(structures, random_matrix(structures, 2, symmetry=1))
    turning = random_matrix(structures, 3, symmetry=-1)
    forces = on_copies(Circulation(springs, turning))
    return forces, structures.positions, float(turning.norm())


def test_the_jacobian_of_springs_is_minus_their_stiffness() -> None:
    structures = random_structures([4], seed=1)
    stiffness = random_matrix(structures, 2, symmetry=1)
    found = jacobian(on_copies(Harmonic(structures, stiffness)), structures.positions)
    torch.testing.assert_close(found, -stiffness, rtol=0, atol=1e-11)


def test_the_curl_of_a_known_field(swirl) -> None:
    forces, positions, known = swirl
    assert curl_norm(jacobian(forces, positions)) == pytest.approx(known, rel=1e-10)


def test_a_conservative_field_has_none() -> None:
    structures = random_structures([6], seed=4)
    matrix = jacobian(on_copies(LennardJones(structures)), structures.positions)
    assert curl_norm(matrix) < 1e-5 * float(matrix.norm())


def test_the_estimate_is_right_within_its_error_and_unbiased(swirl) -> None:
    forces, positions, known = swirl
    found, errors = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        value, error = estimated_curl(forces, positions, generator, probes=12)
        found.append(value)
        errors.append(error)
    found = torch.tensor(found)
    spread = float(found.std())
    assert abs(float(found.mean()) - known**2) < 4 * spread / len(found) ** 0.5
    assert 0.6 < float(torch.tensor(errors).mean()) / spread < 1.7


def test_more_directions_narrow_the_estimate(swirl) -> None:
    forces, positions, known = swirl
    generator = torch.Generator().manual_seed(0)
    value, error = estimated_curl(forces, positions, generator, probes=400)
    assert error < 0.1 * known**2
    assert abs(value - known**2) < 4 * error
