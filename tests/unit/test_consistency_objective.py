"""The objective: copies, weights, units, rare application, what it refuses."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piwsl_ocp.consistency.displacement import (
    ADVERSARIAL,
    DisplacementOptions,
    adversarial,
    displace,
)
from piwsl_ocp.consistency.metrics import METRICS
from piwsl_ocp.consistency.objective import Objective, ObjectiveOptions
from piwsl_ocp.consistency.potential import Labels, Prediction
from piwsl_ocp.consistency.randomness import generators
from piwsl_ocp.consistency.terms import TERMS
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import ENERGY_IN_EV, energy_factor
from tests.analytic import (
    ConstantOffset,
    Linear,
    PairNetwork,
    evaluate,
    random_structures,
    random_vectors,
    true_labels,
)

COPIES = {
    "pitc": 1,
    "pitc_trapezoid": 1,
    "pisc": 2,
    "pisc_batch_work": 2,
    "pisc_case2": 2,
    "pisc_case3": 2,
    "pisc_trapezoid": 2,
    "closed_loop": 2,
    "weak_label": 1,
    "weak_label_predicted_forces": 1,
}
STRUCTURES = random_structures([3, 5])
RECORDS = [40, 7]


def one_step(objective: Objective, potential, labels: Labels | None = None, step: int = 0):
    """Return the losses of one step."""
    moves = objective.displacements(STRUCTURES, RECORDS, step)
    clean = potential(STRUCTURES.positions)
    displaced = [potential(STRUCTURES.positions + move) for move in moves]
    return objective.losses(clean, displaced, moves, STRUCTURES.structure_index, labels)


@pytest.mark.parametrize("name", TERMS)
def test_number_of_copies_of_a_term(name) -> None:
    objective = Objective(ObjectiveOptions({name: 1.0}), seed=0)
    assert objective.number_of_copies == COPIES[name]
    assert len(objective.displacements(STRUCTURES, RECORDS, 0)) == COPIES[name]


def test_number_of_copies_is_the_largest_that_a_term_needs() -> None:
    assert Objective(ObjectiveOptions({}), 0).number_of_copies == 0
    assert Objective(ObjectiveOptions({"pitc": 1, "pisc": 1}), 0).number_of_copies == 2


def test_a_term_of_weight_zero_costs_nothing() -> None:
    objective = Objective(ObjectiveOptions({"pitc": 1.0, "pisc": 0.0}), seed=0)
    assert objective.number_of_copies == 1
    assert objective.names == ("pitc",)
    assert objective.weights == {"pitc": 1.0}


def test_no_terms_no_losses() -> None:
    objective = Objective(ObjectiveOptions(), seed=0)
    assert objective.displacements(STRUCTURES, RECORDS, 0) == []
    assert one_step(objective, Linear(STRUCTURES, random_vectors(STRUCTURES, 0))) == {}


def test_displacements_follow_seed_step_record_and_copy() -> None:
    options = ObjectiveOptions({"pisc": 1.0}, DisplacementOptions("unit", 0.1, 0.5))
    drawn = Objective(options, seed=3).displacements(STRUCTURES, torch.tensor(RECORDS), step=9)
    for copy in (0, 1):
        expected = displace(STRUCTURES, options.displacement, generators(3, 9, RECORDS, copy))
        assert torch.equal(drawn[copy], expected)
    assert not torch.allclose(drawn[0], drawn[1])


def test_the_first_copy_does_not_depend_on_the_second() -> None:
    alone = Objective(ObjectiveOptions({"pitc": 1.0}), seed=0)
    both = Objective(ObjectiveOptions({"pitc": 1.0, "pisc": 1.0}), seed=0)
    first = alone.displacements(STRUCTURES, RECORDS, 4)[0]
    assert torch.equal(first, both.displacements(STRUCTURES, RECORDS, 4)[0])


def test_fixed_displacements_stay_and_are_those_of_no_step() -> None:
    options = ObjectiveOptions({"pitc": 1.0}, every_probability=0.01)
    objective = Objective(options, seed=0)
    fixed = objective.fixed_displacements(STRUCTURES, RECORDS)
    assert len(fixed) == 1
    assert torch.equal(fixed[0], objective.fixed_displacements(STRUCTURES, RECORDS)[0])
    every_step = Objective(ObjectiveOptions({"pitc": 1.0}), seed=0)
    for step in range(5):
        assert not torch.allclose(fixed[0], every_step.displacements(STRUCTURES, RECORDS, step)[0])


@pytest.mark.parametrize("metric", METRICS)
def test_losses_are_the_metric_of_the_residuals(metric, assert_close) -> None:
    names = list(TERMS)
    objective = Objective(ObjectiveOptions(dict.fromkeys(names, 0.5), metric=metric), seed=0)
    potential = PairNetwork(conservative=False).at(STRUCTURES)
    labels = Labels(torch.zeros(2, dtype=torch.float64), random_vectors(STRUCTURES, 1))
    moves = objective.displacements(STRUCTURES, RECORDS, 0)
    evaluations = evaluate(potential, STRUCTURES, moves, labels)
    arguments = (evaluations.clean, evaluations.displaced, moves, STRUCTURES.structure_index)
    residuals = objective.residuals(*arguments, labels)
    losses = objective.losses(*arguments, labels)
    assert list(residuals) == list(losses) == names
    for name, term in TERMS.items():
        assert_close(residuals[name], term.residual(evaluations))
        expected = METRICS[metric](residuals[name], term.tolerance(evaluations))
        assert losses[name].shape == (2,)
        assert_close(losses[name], expected)


def test_known_loss_of_a_constant_force_error(assert_close) -> None:
    objective = Objective(ObjectiveOptions({"pitc": 1.2, "pisc": 0.01}), seed=0)
    right = Linear(STRUCTURES, random_vectors(STRUCTURES, 0))
    offset = random_vectors(STRUCTURES, 1)
    first, second = objective.displacements(STRUCTURES, RECORDS, 0)
    losses = one_step(objective, ConstantOffset(right, offset))

    def work(step: torch.Tensor) -> torch.Tensor:
        per_atom = (step * offset).sum(dim=1)
        return torch.stack([per_atom[:3].sum(), per_atom[3:].sum()])

    assert_close(losses["pitc"], work(first).square())
    assert_close(losses["pisc"], work(first - second).square())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("unit", ENERGY_IN_EV)
def test_losses_and_gradients_do_not_know_the_unit_of_the_labels(
    unit, metric, assert_close
) -> None:
    """The same physics stored in another unit gives the same loss in kcal/mol."""
    factor = energy_factor("kcal/mol", unit)
    options = ObjectiveOptions(dict.fromkeys(TERMS, 1.0), metric=metric)
    labels = Labels(torch.ones(2, dtype=torch.float64), random_vectors(STRUCTURES, 1))
    converted_labels = Labels(factor * labels.energy, factor * labels.forces)
    network = PairNetwork(conservative=False)
    potential = network.at(STRUCTURES)

    def converted(positions: torch.Tensor) -> Prediction:
        prediction = potential(positions)
        return Prediction(factor * prediction.energy, factor * prediction.forces)

    def gradients(losses: dict[str, torch.Tensor]) -> torch.Tensor:
        network.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    expected = one_step(Objective(options, 0), potential, labels)
    found = one_step(Objective(options, 0, energy_unit=unit), converted, converted_labels)
    assert all(bool((loss > 0).any()) for loss in expected.values()) or metric == "relu"
    for name in TERMS:
        assert_close(found[name], expected[name])
    assert_close(gradients(found), gradients(expected))


def test_residuals_stay_in_the_unit_of_the_predictions(assert_close) -> None:
    options = ObjectiveOptions({"pitc": 1.0})
    potential = PairNetwork(conservative=False).at(STRUCTURES)
    objective = Objective(options, 0, energy_unit="eV")
    moves = objective.displacements(STRUCTURES, RECORDS, 0)
    evaluations = evaluate(potential, STRUCTURES, moves)
    arguments = (evaluations.clean, evaluations.displaced, moves, STRUCTURES.structure_index)
    residual = objective.residuals(*arguments)["pitc"]
    assert_close(objective.losses(*arguments)["pitc"], (residual * 23.060547830619).square())


def test_rare_application_keeps_the_mean_weight() -> None:
    objective = Objective(ObjectiveOptions({"pitc": 1.2}, every_probability=0.25), seed=5)
    steps = 4000
    applied = sum(objective.applies(step) for step in range(steps))
    assert abs(applied / steps - 0.25) < 4 * (0.25 * 0.75 / steps) ** 0.5
    assert objective.weights == {"pitc": 4.8}
    assert abs(objective.weights["pitc"] * applied / steps / 1.2 - 1) < 0.12


def test_rare_application_follows_seed_and_step_alone() -> None:
    def pattern(seed: int, terms: dict[str, float]) -> list[bool]:
        objective = Objective(ObjectiveOptions(terms, every_probability=0.5), seed)
        return [objective.applies(step) for step in range(64)]

    first = pattern(0, {"pitc": 1.0})
    torch.rand(3)
    assert first == pattern(0, {"pisc": 0.3, "pitc": 1.0})
    assert first != pattern(1, {"pitc": 1.0})
    assert first[1:] != first[:-1]


def test_a_step_left_out_has_no_displacements_and_no_losses() -> None:
    objective = Objective(ObjectiveOptions({"pitc": 1.0}, every_probability=0.5), seed=0)
    potential = Linear(STRUCTURES, random_vectors(STRUCTURES, 0))
    for step in range(20):
        drawn = objective.displacements(STRUCTURES, RECORDS, step)
        losses = one_step(objective, potential, step=step)
        assert len(drawn) == len(losses) == int(objective.applies(step))


@given(step=st.integers(0, 10**9), seed=st.integers(0, 2**32))
def test_probability_one_applies_always(step, seed) -> None:
    assert Objective(ObjectiveOptions({"pitc": 1.0}), seed).applies(step)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_displacements_follow_the_clean_prediction(name, assert_close) -> None:
    options = ObjectiveOptions({"pisc": 1.0}, DisplacementOptions(name, 0.1))
    objective = Objective(options, seed=3)
    assert objective.needs_clean_prediction
    clean = Linear(STRUCTURES, random_vectors(STRUCTURES, 0))(STRUCTURES.positions)
    labels = Labels(clean.energy - 1, random_vectors(STRUCTURES, 1))
    first, second = objective.displacements(STRUCTURES, RECORDS, 5, clean, labels)
    known = replace(labels, forces=None) if name.endswith("predicted_forces") else labels
    expected = adversarial(STRUCTURES, 0.1, generators(3, 5, RECORDS, 0), clean, known)
    assert_close(first, expected)
    by_chance = DisplacementOptions("uniform", 0.1)
    assert_close(second, displace(STRUCTURES, by_chance, generators(3, 5, RECORDS, 1)))


def test_adversarial_displacements_without_reference_forces_follow_the_predicted_ones(
    assert_close,
) -> None:
    """Without F_ref the direction is F sign(E_ref - E), up to the random sign."""
    options = ObjectiveOptions({"pitc": 1.0}, DisplacementOptions("adversarial", 0.1))
    clean = Linear(STRUCTURES, random_vectors(STRUCTURES, 0))(STRUCTURES.positions)
    labels = Labels(clean.energy - 1)
    (found,) = Objective(options, 0).displacements(STRUCTURES, RECORDS, 0, clean, labels)
    for atoms in (STRUCTURES.structure_index == b for b in range(STRUCTURES.num_structures)):
        direction = clean.forces[atoms] / clean.forces[atoms].norm()
        assert_close((found[atoms] * direction).sum().abs(), found[atoms].norm())
        assert_close(found[atoms].norm(), torch.tensor(0.1, dtype=torch.float64))


def test_random_displacements_need_no_prediction() -> None:
    assert not Objective(ObjectiveOptions({"pitc": 1.0}), 0).needs_clean_prediction
    adversary = DisplacementOptions("adversarial")
    assert not Objective(ObjectiveOptions({}, adversary), 0).needs_clean_prediction


def test_labels_are_asked_for_where_a_term_needs_them() -> None:
    needs = {
        name: (objective.needs_labels, objective.needs_label_forces)
        for name in TERMS
        for objective in [Objective(ObjectiveOptions({name: 1.0}), 0)]
    }
    expected = dict.fromkeys(TERMS, (False, False))
    expected["weak_label"] = (True, True)
    expected["weak_label_predicted_forces"] = (True, False)
    assert needs == expected


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("weak_label", None, "'weak_label' needs reference energies"),
        ("weak_label", "energies", "'weak_label' needs reference forces"),
        ("weak_label_predicted_forces", None, "needs reference energies"),
    ],
)
def test_missing_labels_end_in_one_line(name, labels, message) -> None:
    potential = Linear(STRUCTURES, random_vectors(STRUCTURES, 0))
    if labels is not None:
        labels = Labels(true_labels(potential, STRUCTURES).energy)
    with pytest.raises(UserError, match=message) as caught:
        one_step(Objective(ObjectiveOptions({name: 1.0}), 0), potential, labels)
    assert "\n" not in str(caught.value)


def test_reference_energies_alone_serve_predicted_forces() -> None:
    potential = Linear(STRUCTURES, random_vectors(STRUCTURES, 0))
    labels = Labels(true_labels(potential, STRUCTURES).energy)
    objective = Objective(ObjectiveOptions({"weak_label_predicted_forces": 1.0}), 0)
    assert one_step(objective, potential, labels)["weak_label_predicted_forces"].max() < 1e-20


def test_a_wrong_number_of_copies_is_refused() -> None:
    potential = Linear(STRUCTURES, random_vectors(STRUCTURES, 0))
    objective = Objective(ObjectiveOptions({"pisc": 1.0}), 0)
    moves = objective.displacements(STRUCTURES, RECORDS, 0)
    clean = potential(STRUCTURES.positions)
    index = STRUCTURES.structure_index
    with pytest.raises(ValueError, match="1 displaced predictions for 2 displacements"):
        objective.losses(clean, [clean], moves, index)
    with pytest.raises(ValueError, match="1 displaced copies: expected 2"):
        objective.residuals(clean, [clean], moves[:1], index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": {"pitcc": 1.0}}, "unknown term 'pitcc': did you mean 'pitc'"),
        ({"terms": {"pitc_trapez": 1.0}}, "did you mean 'pitc_trapezoid'"),
        ({"terms": {"pitc": -1.0}}, "weight of term 'pitc' is -1.0: expected at least 0"),
        ({"terms": {"pitc": float("inf")}}, "is inf: expected a finite number"),
        ({"terms": {"pitc": "1e-2"}}, "a str: expected a number"),
        ({"terms": {"pitc": None}}, "a NoneType: expected a number"),
        ({"terms": ["pitc"]}, "a list: expected a weight for each name"),
        ({"terms": {}, "metric": "msa"}, "unknown metric 'msa': did you mean '(mse|mae)'"),
        ({"terms": {}, "displacement": {"name": "unit"}}, "expected options such as"),
        ({"terms": {}, "every_probability": 0.0}, "every_probability is 0.0: expected"),
        ({"terms": {}, "noisy_nodes": -0.5}, "noisy_nodes is -0.5: expected"),
        ({"terms": {}, "every_probability": 1.1}, "every_probability is 1.1: expected"),
        ({"terms": {}, "every_probability": "half"}, "is 'half', a str: expected a number"),
    ],
)
def test_bad_options_end_in_one_line(options, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ObjectiveOptions(**options)
    assert "\n" not in str(caught.value)


def test_an_unknown_energy_unit_ends_in_one_line() -> None:
    with pytest.raises(UserError, match="unknown energy unit 'kcal'"):
        Objective(ObjectiveOptions({"pitc": 1.0}), 0, energy_unit="kcal")


def test_options_are_not_changed_from_outside() -> None:
    weights = {"pitc": 1.0}
    options = ObjectiveOptions(weights)
    weights["pitc"] = 5.0
    assert options.terms["pitc"] == 1.0


def test_options_travel_to_another_process_and_into_a_file() -> None:
    options = ObjectiveOptions({"pitc": 1.0}, DisplacementOptions("unit", 0.1), "mae", 0.5)
    assert pickle.loads(pickle.dumps(options)) == options
    assert json.loads(json.dumps(asdict(options))) == {
        "terms": {"pitc": 1.0},
        "displacement": {
            "name": "unit",
            "epsilon_max_angstrom": 0.1,
            "atom_fraction": 1.0,
        },
        "metric": "mae",
        "every_probability": 0.5,
        "noisy_nodes": 0.0,
    }


def test_noisy_nodes_alone_asks_for_one_copy() -> None:
    objective = Objective(ObjectiveOptions(noisy_nodes=0.5, every_probability=0.25), seed=0)
    assert objective.number_of_copies == 1
    assert objective.noisy_nodes_weight == 2.0
    assert 10 < sum(objective.applies(step) for step in range(80)) < 32
