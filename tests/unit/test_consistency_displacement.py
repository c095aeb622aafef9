"""Displacements: their distribution, what they depend on, and what stays at rest."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from piwsl_ocp.consistency.displacement import (
    DISPLACEMENTS,
    DisplacementOptions,
    adversarial,
    displace,
    hold_all_but_fraction,
    unit,
)
from piwsl_ocp.consistency.potential import Labels, Prediction, Structures
from piwsl_ocp.consistency.randomness import generators
from piwsl_ocp.consistency.residuals import sum_over_atoms
from piwsl_ocp.errors import UserError
from tests.analytic import random_structures, random_vectors

EPSILON = 0.025
#: Displacement of a structure of two atoms, drawn on 64-bit Linux with torch 2.13.
PINNED = [
    [0.4066794429298629, 0.07890341015346003, -0.02632426504797014],
    [-0.5602264305743679, 0.3505891714544134, 0.3448630399229213],
]
every_sampler = pytest.mark.parametrize("name", DISPLACEMENTS)
FRACTIONS = st.sampled_from([1.0, 0.5, 0.3])
SEEDS = st.integers(0, 10_000)


def draw(structures: Structures, options: DisplacementOptions, records, seed=0, step=0, copy=0):
    """Return the displacement of these records in one step of one run."""
    return displace(structures, options, generators(seed, step, records, copy))


def lengths(vectors: torch.Tensor, structures: Structures) -> torch.Tensor:
    """Return the norm over the 3N vector of each structure."""
    squared = vectors.square().sum(dim=1)
    index, count = structures.structure_index, structures.num_structures
    return sum_over_atoms(squared, index, count).sqrt()


@pytest.mark.parametrize("name", [name for name in DISPLACEMENTS if "one_sided" not in name])
def test_mean_of_many_draws_is_zero(name) -> None:
    structures = random_structures([10] * 500)
    drawn = draw(structures, DisplacementOptions(name, EPSILON), range(500)).reshape(-1)
    standard_error = drawn.std() / len(drawn) ** 0.5
    assert drawn.mean().abs() < 4 * standard_error
    assert 0.48 < (drawn < 0).double().mean() < 0.52


def test_a_one_sided_draw_has_a_mean_of_a_quarter_of_its_largest_size() -> None:
    structures = random_structures([10] * 500)
    options = DisplacementOptions("uniform_one_sided", EPSILON)
    drawn = draw(structures, options, range(500))
    assert drawn.min() >= 0
    # the magnitude has the mean EPSILON / 2, the number it multiplies 1 / 2
    assert abs(drawn.mean() / EPSILON - 0.25) < 0.03


@every_sampler
def test_draws_of_two_copies_are_independent(name) -> None:
    structures = random_structures([10] * 500)
    options = DisplacementOptions(name, EPSILON)
    first, second = (draw(structures, options, range(500), copy=c).reshape(-1) for c in (0, 1))
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert correlation.abs() < 4 / len(first) ** 0.5


def test_uniform_has_one_uniform_magnitude_for_each_structure() -> None:
    size, count = 1000, 200
    structures = random_structures([size] * count)
    drawn = draw(structures, DisplacementOptions("uniform", EPSILON), range(count))
    components = drawn.reshape(count, -1) / EPSILON
    # among 3000 components of one structure the largest comes within 0.3 % of the magnitude
    magnitudes = components.abs().max(dim=1).values
    assert magnitudes.max() <= 1
    assert stats.kstest(magnitudes.numpy(), "uniform").pvalue > 0.01
    directions = (components / magnitudes[:, None]).reshape(-1)[::29]
    assert stats.kstest(directions.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_uniform_has_the_variance_of_its_definition() -> None:
    structures = random_structures([3] * 4000)
    drawn = draw(structures, DisplacementOptions("uniform", EPSILON), range(4000))
    assert abs(float(drawn.square().mean()) / (EPSILON**2 / 9) - 1) < 0.05


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), fraction=FRACTIONS, seed=SEEDS)
def test_unit_has_its_length_over_the_structure(sizes, fraction, seed, assert_close) -> None:
    structures = random_structures(sizes)
    drawn = draw(
        structures, DisplacementOptions("unit", EPSILON, fraction), range(len(sizes)), seed
    )
    expected = torch.full((len(sizes),), EPSILON, dtype=torch.float64)
    assert_close(lengths(drawn, structures), expected)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=SEEDS)
def test_unit_per_atom_has_its_length_for_each_atom(sizes, seed, assert_close) -> None:
    structures = random_structures(sizes)
    drawn = draw(structures, DisplacementOptions("unit_per_atom", EPSILON), range(len(sizes)), seed)
    expected = torch.full((sum(sizes),), EPSILON, dtype=torch.float64)
    assert_close(drawn.norm(dim=1), expected)


@every_sampler
@given(seed=SEEDS, fraction=FRACTIONS, order=st.permutations(range(4)))
def test_independent_of_the_order_of_the_batch(name, seed, fraction, order) -> None:
    sizes, records = [4, 1, 6, 3], [17, 4, 900, 0]
    options = DisplacementOptions(name, EPSILON, fraction)
    whole = draw(random_structures(sizes), options, records, seed).split(sizes)
    reordered_sizes = [sizes[i] for i in order]
    reordered = draw(
        random_structures(reordered_sizes), options, [records[i] for i in order], seed
    ).split(reordered_sizes)
    assert all(torch.equal(reordered[k], whole[i]) for k, i in enumerate(order))


@every_sampler
@given(seed=SEEDS, fraction=FRACTIONS)
def test_independent_of_company_in_the_batch(name, seed, fraction) -> None:
    sizes, records = [4, 1, 6, 3], [17, 4, 900, 0]
    options = DisplacementOptions(name, EPSILON, fraction)
    whole = draw(random_structures(sizes), options, records, seed).split(sizes)
    for size, record, expected in zip(sizes, records, whole, strict=True):
        assert torch.equal(draw(random_structures([size]), options, [record], seed), expected)


@every_sampler
def test_atoms_of_structures_may_be_interleaved(name) -> None:
    structures = random_structures([3, 3])
    options = DisplacementOptions(name, EPSILON, 0.5)
    apart = draw(structures, options, [8, 9])
    order = torch.tensor([0, 3, 1, 4, 2, 5])
    mixed = Structures(structures.positions[order], structures.structure_index[order], 2)
    assert torch.equal(draw(mixed, options, [8, 9]), apart[order])


@every_sampler
def test_independent_of_dtype_up_to_the_cast(name) -> None:
    options = DisplacementOptions(name, EPSILON, 0.5)
    double = draw(random_structures([5, 2]), options, [1, 2])
    single = draw(random_structures([5, 2], dtype=torch.float32), options, [1, 2])
    assert single.dtype == torch.float32
    assert torch.equal(single, double.float())


@every_sampler
def test_depends_on_seed_step_record_and_copy(name) -> None:
    structures, options = random_structures([4]), DisplacementOptions(name, EPSILON)
    base = draw(structures, options, [5], seed=1, step=2, copy=0)
    assert torch.equal(base, draw(structures, options, [5], seed=1, step=2, copy=0))
    others = [
        draw(structures, options, [5], seed=2, step=2, copy=0),
        draw(structures, options, [5], seed=1, step=3, copy=0),
        draw(structures, options, [6], seed=1, step=2, copy=0),
        draw(structures, options, [5], seed=1, step=2, copy=1),
        draw(structures, options, [5], seed=2, step=1, copy=0),
    ]
    assert not any(torch.allclose(base, other) for other in others)


def test_a_pinned_draw() -> None:
    """A resumed run meets the displacements that it would have met without the stop."""
    drawn = draw(random_structures([2]), DisplacementOptions("uniform", 1.0), [12], 3, 45, 1)
    expected = torch.tensor(PINNED, dtype=torch.float64)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-15)


@every_sampler
def test_global_random_state_is_left_alone(name) -> None:
    before = torch.random.get_rng_state()
    drawn = draw(random_structures([4]), DisplacementOptions(name, EPSILON, 0.5), [0])
    assert torch.equal(before, torch.random.get_rng_state())
    assert drawn.abs().max() > 0


@every_sampler
@given(seed=SEEDS, fraction=FRACTIONS, mask=st.lists(st.booleans(), min_size=9, max_size=9))
def test_fixed_atoms_stay(name, seed, fraction, mask) -> None:
    fixed = torch.tensor(mask)
    structures = replace(random_structures([5, 4]), fixed=fixed)
    drawn = draw(structures, DisplacementOptions(name, EPSILON, fraction), [1, 2], seed)
    assert torch.equal(drawn[fixed], torch.zeros(int(fixed.sum()), 3, dtype=torch.float64))
    assert bool(torch.isfinite(drawn).all())
    for part in (slice(0, 5), slice(5, 9)):
        movable = int((~fixed[part]).sum())
        moved = int((drawn[part] != 0).any(dim=1).sum())
        assert moved == ceil(Fraction(str(fraction)) * movable)


def test_unit_keeps_its_length_beside_fixed_atoms(assert_close) -> None:
    fixed = torch.tensor([True, False, False, True, True])
    structures = replace(random_structures([5]), fixed=fixed)
    drawn = draw(structures, DisplacementOptions("unit", EPSILON), [0])
    assert_close(lengths(drawn, structures), torch.tensor([EPSILON], dtype=torch.float64))


@example(size=25, percent=28, seed=0)  # 0.28 * 25 > 7 in floating point
@given(size=st.integers(1, 60), percent=st.integers(1, 100), seed=SEEDS)
def test_number_of_moved_atoms(size, percent, seed) -> None:
    structures = random_structures([size, 7])
    held = hold_all_but_fraction(structures, percent / 100, generators(seed, 0, [0, 1], 0))
    share = Fraction(percent, 100)
    assert int((~held.fixed[:size]).sum()) == ceil(share * size)
    assert int((~held.fixed[size:]).sum()) == ceil(share * 7)


def test_every_atom_is_moved_equally_often() -> None:
    structures = random_structures([10] * 2000)
    held = hold_all_but_fraction(structures, 0.3, generators(0, 0, range(2000), 0))
    shares = (~held.fixed).double().reshape(2000, 10).mean(dim=0)
    assert (shares - 0.3).abs().max() < 4 * (0.3 * 0.7 / 2000) ** 0.5


@every_sampler
def test_arguments_are_left_as_they_were(name) -> None:
    structures = replace(random_structures([4, 2]), fixed=torch.tensor([True] + 5 * [False]))
    positions, fixed = structures.positions.clone(), structures.fixed.clone()
    drawn = draw(structures, DisplacementOptions(name, EPSILON, 0.5), [0, 1])
    drawn += 1
    assert torch.equal(structures.positions, positions)
    assert torch.equal(structures.fixed, fixed)
    assert structures.positions._version == 0 and not drawn.requires_grad


def test_one_generator_for_each_structure() -> None:
    structures, options = random_structures([4, 2]), DisplacementOptions()
    with pytest.raises(ValueError, match="1 generators for 2 structures"):
        displace(structures, options, generators(0, 0, [0], 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon_max_angstrom": -0.01}, "epsilon_max_angstrom is -0.01: expected a length"),
        ({"epsilon_max_angstrom": float("nan")}, "expected a finite number"),
        ({"epsilon_max_angstrom": "1e-2"}, "is '1e-2', a str: expected a number .*write 0.01"),
        ({"epsilon_max_angstrom": True}, "is True, a bool: expected a number"),
        ({"epsilon_max_angstrom": None}, "is None, a NoneType: expected a number"),
        ({"name": "unifrom"}, "unknown displacement 'unifrom': did you mean 'uniform'"),
        ({"name": "gauss"}, "known names: uniform, uniform_one_sided, unit, "),
        ({"name": 3}, "unknown displacement '3'"),
        ({"atom_fraction": 0.0}, "atom_fraction is 0.0: expected a share above 0"),
        ({"atom_fraction": 1.5}, "atom_fraction is 1.5: expected a share above 0"),
    ],
)
def test_bad_options_end_in_one_line(options, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        DisplacementOptions(**options)
    assert "\n" not in str(caught.value)


class TestAdversarial:
    """Displacements along the gradient of the energy error."""

    structures = random_structures([3, 4])
    energy = torch.tensor([1.0, -2.0], dtype=torch.float64)
    prediction = Prediction(energy, random_vectors(structures, 1))
    labels = Labels(energy + torch.tensor([-0.5, 0.5]), random_vectors(structures, 2))

    def drawn(self, labels: Labels, prediction: Prediction | None = None, seed: int = 0):
        return adversarial(
            self.structures,
            EPSILON,
            generators(seed, 0, [0, 1], 0),
            prediction or self.prediction,
            labels,
        )

    def along(self, drawn: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Return the cosine between two vectors of each structure."""
        index = self.structures.structure_index
        product = sum_over_atoms((drawn * direction).sum(dim=1), index, 2)
        return product / lengths(drawn, self.structures) / lengths(direction, self.structures)

    def test_goes_along_the_gradient_of_the_error(self, assert_close) -> None:
        drawn = self.drawn(self.labels)
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64)[self.structures.structure_index]
        uphill = -(self.prediction.forces - self.labels.forces) * sign[:, None]
        ones = torch.ones(2, dtype=torch.float64)
        assert_close(self.along(drawn, uphill).abs(), ones)
        assert_close(lengths(drawn, self.structures), EPSILON * ones)

    def test_direction_is_that_of_finite_differences(self, assert_close) -> None:
        """For a spring against a softer one, |E - E_ref| rises along the direction."""
        positions = self.structures.positions
        index = self.structures.structure_index

        def error(r: torch.Tensor) -> torch.Tensor:
            return sum_over_atoms((r.square()).sum(dim=1), index, 2) * (1.5 - 1.0) / 2

        energy = error(positions)
        prediction = Prediction(3 * energy, -1.5 * positions)
        labels = Labels(2 * energy, -1.0 * positions)
        drawn = self.drawn(labels, prediction)
        rises = (error(positions + drawn) - error(positions)) / EPSILON
        slope = lengths(0.5 * positions, self.structures)
        assert (rises.abs() / slope - 1).abs().max() < 0.01

    def test_without_reference_forces(self, assert_close) -> None:
        drawn = self.drawn(Labels(self.labels.energy))
        ones = torch.ones(2, dtype=torch.float64)
        assert_close(self.along(drawn, self.prediction.forces).abs(), ones)

    def test_both_signs_occur_equally_often(self) -> None:
        reference = self.prediction.forces
        signs = torch.stack(
            [self.along(self.drawn(Labels(self.energy - 1), seed=s), reference) for s in range(400)]
        ).sign()
        assert signs.mean(dim=0).abs().max() < 4 / 400**0.5

    def test_no_error_gives_a_random_direction(self, assert_close) -> None:
        labels = Labels(self.energy, self.prediction.forces)
        first, second = self.drawn(labels), self.drawn(labels, seed=1)
        ones = torch.ones(2, dtype=torch.float64)
        assert_close(lengths(first, self.structures), EPSILON * ones)
        assert self.along(first, second).abs().max() < 0.99

    def test_fixed_atoms_stay_and_take_no_part_in_the_norm(self, assert_close) -> None:
        fixed = torch.tensor([True, False, False, False, True, False, False])
        drawn = adversarial(
            replace(self.structures, fixed=fixed),
            EPSILON,
            generators(0, 0, [0, 1], 0),
            self.prediction,
            self.labels,
        )
        assert torch.equal(drawn[fixed], torch.zeros(2, 3, dtype=torch.float64))
        ones = torch.ones(2, dtype=torch.float64)
        assert_close(lengths(drawn, self.structures), EPSILON * ones)

    def test_no_gradient_flows_through_it(self) -> None:
        prediction = Prediction(
            self.energy.clone().requires_grad_(True),
            self.prediction.forces.clone().requires_grad_(True),
        )
        assert not self.drawn(self.labels, prediction).requires_grad

    def test_single_precision(self) -> None:
        structures = random_structures([3, 4], dtype=torch.float32)
        prediction = Prediction(self.energy.float(), self.prediction.forces.float())
        labels = Labels(self.labels.energy.float(), self.labels.forces.float())
        single = adversarial(structures, EPSILON, generators(0, 0, [0, 1], 0), prediction, labels)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), self.drawn(self.labels), rtol=1e-4, atol=1e-6)


def test_unit_of_a_wholly_fixed_structure_is_zero() -> None:
    structures = replace(random_structures([2]), fixed=torch.tensor([True, True]))
    drawn = unit(structures, EPSILON, generators(0, 0, [0], 0))
    assert torch.equal(drawn, torch.zeros(2, 3, dtype=torch.float64))
