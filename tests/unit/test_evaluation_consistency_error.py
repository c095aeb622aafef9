"""Consistency error and noise floor of potentials with known answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from piwsl_ocp.consistency.displacement import DisplacementOptions, displace
from piwsl_ocp.consistency.potential import Potential, Prediction, Structures
from piwsl_ocp.consistency.randomness import generators
from piwsl_ocp.consistency.residuals import work
from piwsl_ocp.evaluation.consistency_error import consistency_residuals, root_mean_square
from piwsl_ocp.evaluation.noise import noise_floor
from piwsl_ocp.ocp.evaluations import CONSISTENCY_COPY
from tests.analytic import (
    ConstantOffset,
    Harmonic,
    LennardJones,
    random_matrix,
    random_structures,
    random_vectors,
)

RECORDS = (5, 2, 11)


@pytest.fixture
def structures() -> Structures:
    return random_structures([4, 1, 6], seed=3)


@pytest.fixture
def harmonic(structures: Structures) -> Harmonic:
    return Harmonic(structures, random_matrix(structures, 7, symmetry=1))


def drawn(structures: Structures, epsilon_angstrom: float) -> Tensor:
    """The displacement that the consistency error draws with the default seed."""
    options = DisplacementOptions(epsilon_max_angstrom=epsilon_angstrom)
    return displace(structures, options, generators(0, 0, RECORDS, CONSISTENCY_COPY))


def test_it_is_zero_for_a_quadratic_energy(structures: Structures, harmonic: Harmonic) -> None:
    residuals = consistency_residuals(harmonic, structures, RECORDS)
    torch.testing.assert_close(residuals, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_constant_force_offset_gives_its_work(
    structures: Structures, harmonic: Harmonic, assert_close
) -> None:
    offset = random_vectors(structures, 1)
    residuals = consistency_residuals(ConstantOffset(harmonic, offset), structures, RECORDS)
    displacement = drawn(structures, 0.025)
    expected = work(displacement, offset, structures.structure_index, 3)
    assert expected.abs().min() > 1e-4
    assert_close(residuals, expected)


def test_it_is_of_third_order_for_lennard_jones() -> None:
    structures = random_structures([5, 8, 3], seed=1)
    potential = LennardJones(structures)
    small, large = (
        root_mean_square([consistency_residuals(potential, structures, RECORDS, epsilon)])
        for epsilon in (0.002, 0.004)
    )
    assert math.log2(large / small) == pytest.approx(3.0, abs=0.05)


def test_displacements_stay_within_epsilon_and_belong_to_the_record(
    structures: Structures, harmonic: Harmonic
) -> None:
    moved: list[Tensor] = []

    def recording(positions: Tensor) -> Prediction:
        moved.append(positions - structures.positions)
        return harmonic(positions)

    for epsilon in (0.01, 0.03):
        consistency_residuals(recording, structures, RECORDS, epsilon)
    consistency_residuals(recording, structures, RECORDS, 0.01)
    consistency_residuals(recording, structures, (5, 3, 11), 0.01)
    clean, plus, minus = moved[:3]
    assert clean.abs().max() == 0
    torch.testing.assert_close(plus, -minus, rtol=0, atol=1e-14)
    assert 0 < plus.abs().max() <= 0.01
    assert plus.abs().max() < moved[4].abs().max() <= 0.03
    assert torch.equal(plus, moved[7])
    changed = (plus != moved[10]).any(dim=1)
    assert torch.equal(changed, structures.structure_index == 1)


def test_root_mean_square_counts_structures_and_not_batches() -> None:
    assert root_mean_square([torch.tensor([3.0, 0.0, 0.0]), torch.tensor([4.0])]) == 2.5


@dataclass
class Noisy:
    """A potential whose energies carry normally distributed noise of a given size."""

    potential: Potential
    size: float
    generator: torch.Generator

    def __call__(self, positions: Tensor) -> Prediction:
        clean = self.potential(positions)
        noise = torch.randn(len(clean.energy), dtype=torch.float64, generator=self.generator)
        return Prediction(clean.energy + self.size * noise, clean.forces)


def test_noise_floor_is_zero_for_a_deterministic_model(
    structures: Structures, harmonic: Harmonic
) -> None:
    assert noise_floor(harmonic, structures) == 0.0


def test_noise_floor_is_the_standard_deviation_of_the_noise(
    structures: Structures, harmonic: Harmonic
) -> None:
    noisy = Noisy(harmonic, 0.2, torch.Generator().manual_seed(0))
    measured = noise_floor(noisy, structures, repetitions=3000)
    # 9000 numbers: the standard error of their standard deviation is 0.2 / sqrt(18000) = 0.0015
    assert measured == pytest.approx(0.2, abs=0.006)


def test_one_evaluation_has_no_noise(structures: Structures, harmonic: Harmonic) -> None:
    with pytest.raises(ValueError, match="expected at least 2"):
        noise_floor(harmonic, structures, repetitions=1)
