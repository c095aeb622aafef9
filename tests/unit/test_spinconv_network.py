"""SpinConv as a whole: parameters, symmetries, forces, noise, precision, odd input."""

from __future__ import annotations

import copy
from typing import Any

import ase.build
import pytest
import torch
from ase import Atoms
from fairchem.core.common.registry import registry
from torch_geometric.data import Batch

from piwsl_ocp.errors import UserError
from piwsl_ocp.models.noise import KEY_ATTRIBUTE
from piwsl_ocp.models.spinconv import SpinConv
from piwsl_ocp.models.spinconv.frames import random_rotations
from tests.spinconv_cases import (
    PAPER,
    TINY,
    TINY_ODD,
    aspirin,
    batch,
    benzene,
    model,
    oxide,
    water_dimer,
)

STRUCTURES = {"aspirin": aspirin(), "dimer": water_dimer(), "benzene": benzene(), "oxide": oxide()}


def haar(count: int, seed: int = 0) -> torch.Tensor:
    return random_rotations(torch.arange(count) + 1000 * seed, torch.float64)


def turned(atoms: Atoms, matrix: torch.Tensor) -> Atoms:
    result = atoms.copy()
    result.positions = atoms.positions @ matrix.numpy().T
    result.cell = atoms.cell.array @ matrix.numpy().T
    return result


def evaluate(network: SpinConv, data: Batch, rotations: torch.Tensor) -> dict[str, torch.Tensor]:
    edges = network.edges(data)
    return network.evaluate(data.atomic_numbers, data.batch, *edges, rotations)


def energy_scale(network: SpinConv, atoms: Atoms) -> float:
    """Standard deviation of the energy when atoms move by 0.05 Angstrom."""
    copies = [atoms.copy() for _ in range(8)]
    for seed, moved in enumerate(copies):
        moved.rattle(0.05, seed=seed)
    with torch.no_grad():
        return network(batch(copies))["energy"].std().item()


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (PAPER, 8_473_371),
        (PAPER | {"force_estimator": "grad"}, 6_816_265),
        (PAPER | {"regress_forces": False}, 6_816_265),
        (PAPER | {"scale_distances": False}, 8_457_171),
        (PAPER | {"scale_distances": False, "force_estimator": "grad"}, 6_800_065),
        (PAPER | {"max_num_elements": 100}, 8_483_571),
        (PAPER | {"num_interactions": 1}, 4_880_571),
        (PAPER | {"hidden_channels": 64}, 8_514_459),
        ({}, 2_919_147),
        ({"force_estimator": "grad"}, 1_925_785),
        (TINY, 66_787),
        (TINY | {"force_estimator": "grad"}, 50_193),
        (TINY_ODD, 15_619),
        (TINY_ODD | {"force_estimator": "grad"}, 9_841),
    ],
)
def test_number_of_parameters(options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        network = SpinConv(**options)
    assert network.num_params == parameters
    assert not list(network.buffers())


def test_fresh_networks_have_the_published_magnitudes() -> None:
    """Means over seeds of root mean squares, tiny network on aspirin; ± 3 standard errors."""
    seeds, measured = 20, []
    data = batch([aspirin()], torch.float32)
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = SpinConv(**TINY)
        values = {}

        def keep(module: Any, _: Any, output: torch.Tensor, values: dict = values) -> None:
            values.setdefault(module, output.detach().square().mean().sqrt().item())

        first = network.interactions[0]
        parts = (network.distance_layer, network.message_mixture, first.spin, first)
        for part in parts:
            part.register_forward_hook(keep)
        with torch.no_grad():
            forces = network(data)["forces"]
        measured.append([*values.values(), forces.square().mean().sqrt().item()])
    mean = torch.tensor(measured).mean(dim=0)
    expected = torch.tensor([0.306, 0.119, 0.9927, 0.117, 0.049])
    # Both means are uncertain: here by 20 seeds, there by 40.
    deviation = torch.tensor([0.027, 0.010, 0.0019, 0.015, 0.027]) * (1 / 20 + 1 / 40) ** 0.5
    assert ((mean - expected).abs() < 3 * deviation + 0.0005).all(), mean


@pytest.mark.parametrize("name", STRUCTURES)
def test_turning_a_structure(name: str) -> None:
    atoms = STRUCTURES[name]
    network, data = model(), batch([atoms])
    rotations = haar(2 * len(atoms)).view(-1, 2, 3, 3)
    scale = energy_scale(network, atoms)
    with torch.no_grad():
        for lab, energy_bound, force_bound in [(None, 1e-3, 1e-4), (0.0, 1e-9, 1e-9)]:
            if lab is not None:
                network.lab_component = lab
            still = evaluate(network, data, rotations)
            for matrix in haar(4, seed=1):
                moved = evaluate(network, batch([turned(atoms, matrix)]), rotations @ matrix.T)
                assert (moved["energy"] - still["energy"]).abs() < energy_bound * scale
                error = (moved["forces"] @ matrix - still["forces"]).norm()
                assert error < force_bound * still["forces"].norm()


@pytest.mark.parametrize("name", STRUCTURES)
def test_single_precision(name: str) -> None:
    network, rotations = model(), haar(2 * len(STRUCTURES[name])).view(-1, 2, 3, 3)
    single = copy.deepcopy(network).float()
    with torch.no_grad():
        double = evaluate(network, batch([STRUCTURES[name]]), rotations)
        data = batch([STRUCTURES[name]], torch.float32)
        found = evaluate(single, data, rotations.float())
    assert found["energy"].dtype == found["forces"].dtype == torch.float32
    torch.testing.assert_close(found["energy"].double(), double["energy"], rtol=1e-3, atol=0)
    error = (found["forces"] - double["forces"]).norm()
    assert error < 1e-3 * double["forces"].norm()


@pytest.mark.parametrize("name", ["CO2", "HF", "C2H2"])
def test_degenerate_frames_leave_no_rounding_in_single_precision(name: str) -> None:
    """All neighbours are at a pole of every sphere, whose roll nothing fixes."""
    atoms = ase.build.molecule(name)
    single = model(dtype=torch.float32)
    scale = energy_scale(model(), atoms)
    turns = [turned(atoms, matrix) for matrix in haar(8, seed=1)]
    with torch.no_grad():
        energies = single(batch(turns, torch.float32))["energy"].double()
        exact = model()(batch([atoms]))["energy"]
    assert (energies - exact).abs().max() < 1e-4 * scale


def test_neighbour_rule_fixes_the_roll_at_sites_of_a_perfect_crystal() -> None:
    atoms = oxide(0.0)
    scale = energy_scale(model(max_num_neighbors=200), atoms)
    errors = {}
    for rule in ("published", "neighbour"):
        network = model(frame_rule=rule, max_num_neighbors=200)
        with torch.no_grad():
            turns = [turned(atoms, matrix) for matrix in haar(4, seed=1)]
            energies = network(batch([atoms, *turns]))["energy"]
        errors[rule] = (energies - energies[0]).abs().max() / scale
    assert errors["published"] > 1e-3
    assert errors["neighbour"] < 1e-9


def test_double_precision_positions_in_a_single_precision_model() -> None:
    results = model(dtype=torch.float32)(batch([water_dimer()]))
    assert torch.isfinite(results["energy"]).all()
    results["forces"].square().sum().backward()


def test_autocast_keeps_geometry_exact() -> None:
    network, data = model(dtype=torch.float32), batch([aspirin()], torch.float32)
    exact = network(data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        index, vectors = network.edges(data)
        geometry = network._geometry(21, index, vectors, None)
        mixed = network(data)
    for chunk, other in zip(
        geometry.neighbours.chunks,
        network._geometry(21, index, vectors, None).neighbours.chunks,
        strict=True,
    ):
        torch.testing.assert_close(chunk.weights, other.weights, rtol=0, atol=0)
    assert mixed["energy"].dtype == mixed["forces"].dtype == torch.float32
    difference = (mixed["energy"] - exact["energy"]).abs()
    assert difference < 0.1 * max(exact["energy"].abs().item(), 1.0)
    (mixed["energy"].sum() + mixed["forces"].square().sum()).backward()


def test_permutation_and_translation() -> None:
    network, atoms = model(), water_dimer()
    order = [4, 1, 0, 5, 3, 2]
    with torch.no_grad():
        first = network(batch([atoms]))
        permuted = network(batch([atoms[order]]))
        torch.testing.assert_close(permuted["energy"], first["energy"], rtol=1e-10, atol=0)
        torch.testing.assert_close(permuted["forces"], first["forces"][order], rtol=1e-10, atol=0)
        for structure in (water_dimer(), oxide()):
            first = network(batch([structure]))
            structure.translate((3.1, -2.2, 7.3))
            moved = network(batch([structure]))
            torch.testing.assert_close(moved["energy"], first["energy"], rtol=1e-9, atol=0)
            torch.testing.assert_close(moved["forces"], first["forces"], rtol=1e-8, atol=1e-10)


def test_a_batch_equals_its_structures_one_by_one() -> None:
    network = model()
    structures = [water_dimer(), oxide(), Atoms("He"), benzene()]
    with torch.no_grad():
        together = network(batch(structures))
        alone = [network(batch([atoms])) for atoms in structures]
    for key in ("energy", "forces"):
        expected = torch.cat([result[key] for result in alone])
        torch.testing.assert_close(together[key], expected, rtol=1e-10, atol=1e-12)


def test_energy_of_a_supercell() -> None:
    network = model(max_num_neighbors=300, cutoff=4.0)
    with torch.no_grad():
        one = network(batch([oxide()]))
        two = network(batch([oxide().repeat((1, 2, 1))]))
    torch.testing.assert_close(two["energy"], 2 * one["energy"], rtol=1e-9, atol=0)
    torch.testing.assert_close(two["forces"][8:], one["forces"], rtol=0, atol=1e-9)


def test_evaluation_repeats_itself_and_changes_nothing() -> None:
    network, data = model(), batch([aspirin(), water_dimer()])
    before = data.clone()
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = network(data), network(data)
    assert torch.equal(torch.get_rng_state(), state)
    for key in first:
        assert torch.equal(first[key], second[key])
    for network in (model(), model(force_estimator="grad")):
        network(data)
        network.train()(data)
        for key, value in before:
            assert torch.equal(data[key], value)
            assert not data[key].requires_grad


def test_evaluation_has_its_own_number_of_rotations_and_seed() -> None:
    network = model(num_rand_rotations_eval=7, rotation_seed=3)
    data = batch([water_dimer()])
    rotations = network.rotations(data, 1)
    assert rotations.shape == (6, 7, 3, 3)
    assert torch.equal(rotations[0], rotations[5])
    assert network.train().rotations(data, 1).shape == (6, 5, 3, 3)
    other = model(num_rand_rotations_eval=7, rotation_seed=4).rotations(data, 1)
    assert not torch.equal(rotations, other)


def test_copies_with_one_key_meet_the_same_rotations() -> None:
    network = model().train()
    keys = torch.tensor([11, 11, 12])
    data = batch([water_dimer()] * 3, **{KEY_ATTRIBUTE: keys})
    with torch.no_grad():
        first, second, other = network(data)["forces"].chunk(3)
    assert torch.equal(first, second)
    assert (first - other).abs().max() > 1e-3
    rotations = network.rotations(data, 3)
    assert not torch.equal(rotations[0], rotations[1])
    # Without a key every training step draws anew.
    fresh = batch([water_dimer()])
    assert not torch.equal(network.rotations(fresh, 1), network.rotations(fresh, 1))


def test_mean_force_over_many_rotations_turns_with_the_structure() -> None:
    network, atoms = model(TINY_ODD), water_dimer()[:3]
    means, squared_errors = [], []
    for seed, matrix in enumerate([torch.eye(3, dtype=torch.float64), haar(1, seed=9)[0]]):
        data = batch([turned(atoms, matrix)])
        drawn = haar(3 * 8_000, seed=100 * (seed + 1)).view(40, 3, 200, 3, 3)
        with torch.no_grad():
            parts = [evaluate(network, data, rotations)["forces"] for rotations in drawn]
        forces = torch.stack(parts) @ matrix
        means.append(forces.mean(dim=0))
        squared_errors.append(forces.var(dim=0) / len(drawn))
    error = (squared_errors[0] + squared_errors[1]).sqrt()
    assert ((means[0] - means[1]).abs() < 3 * error).all()
    # Errors small enough to see a draw that favours an axis.
    assert error.norm() < 0.1 * means[0].norm()


@pytest.mark.parametrize("structure", [water_dimer(), oxide()], ids=["dimer", "oxide"])
def test_conservative_forces_are_minus_the_slope_of_the_energy(structure: Atoms) -> None:
    # Few pairs, so that none crosses a line of a grid within the step.
    cutoff = 2.5 if structure.pbc.any() else 5.0
    network = model(force_estimator="grad", max_num_neighbors=300, cutoff=cutoff)
    with torch.no_grad():
        forces = network(batch([structure]))["forces"]
        step, moved = 1e-5, []
        for sign in (1, -1):
            for number in range(9):
                other = structure.copy()
                other.positions[number // 3, number % 3] += sign * step
                moved.append(other)
        up, down = network(batch(moved))["energy"].chunk(2)
    slope = -(up - down).view(3, 3) / (2 * step)
    assert (forces[:3] - slope).abs().max() < 1e-6 * forces.abs().max()
    assert forces.sum(dim=0).abs().max() < 1e-12 * forces.abs().sum()
    assert not forces.requires_grad


def test_conservative_forces_are_near_singular_at_ideal_geometries() -> None:
    """The size of it is documented; a displacement of 1e-5 Angstrom turns frames by a radian."""
    network, largest = model(force_estimator="grad"), []
    for rattle in (1e-5, 0.05):
        copies = [ase.build.molecule("C6H6") for _ in range(4)]
        for seed, atoms in enumerate(copies):
            atoms.rotate(37, (1, 2, 3))
            atoms.rattle(rattle, seed=seed)
        largest.append(network(batch(copies))["forces"].norm(dim=1).max().item())
    assert 300 < largest[0] / largest[1] < 3000


def test_conservative_forces_can_be_trained() -> None:
    network, data = model(force_estimator="grad").train(), batch([aspirin(), Atoms("O2")])
    results = network(data)
    (results["energy"].sum() + results["forces"].square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        assert not network(data)["forces"].requires_grad
    network.eval()
    results = network(data)
    assert not results["energy"].requires_grad
    assert not results["forces"].requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_slope_of_direct_force_models_on_request(training: bool) -> None:
    data = batch([water_dimer()])
    data.pos.requires_grad_()
    network = model(position_gradient=True).train(training)
    conservative = model(force_estimator="grad")
    weights = network.state_dict()
    conservative.load_state_dict({k: weights[k] for k in conservative.state_dict()})
    (slope,) = torch.autograd.grad(network(data)["energy"].sum(), data.pos)
    torch.testing.assert_close(-slope, conservative(data)["forces"], rtol=1e-10, atol=1e-12)
    plain = model().train(training)(data)
    assert plain["energy"].requires_grad
    assert torch.autograd.grad(plain["energy"].sum(), data.pos, allow_unused=True) == (None,)


def test_gradients_reach_every_weight_but_the_unused_output() -> None:
    network = model().train()
    results = network(batch([aspirin(), oxide(), ase.build.molecule("CO2"), Atoms("He")]))
    (results["energy"].square().sum() + results["forces"].square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    unused = network.force_head.outward.outward
    assert (unused.weight.grad[1] == 0).all()
    assert unused.bias.grad[1] == 0
    touched = network.interactions[0].spin.weight.grad != 0
    assert touched.all()


ODD = {
    "linear": ase.build.molecule("CO2"),
    "along the lab vector": Atoms("HF", [(0, 0, 0), (0.53, 0.53, 0.53)]),
    "one atom": Atoms("O"),
    "far apart": Atoms("OH", [(0, 0, 0), (0, 0, 30)]),
    "one point": Atoms("OHH", [(0, 0, 0), (0, 0, 0), (0, 0.9, 0)]),
    "symmetric crystal": oxide(0.0),
    "one-atom cell": ase.build.bulk("Al", "fcc", a=4.05),
}


@pytest.mark.parametrize("estimator", ["random", "grad"])
@pytest.mark.parametrize("rule", ["published", "neighbour"])
@pytest.mark.parametrize("name", ODD)
def test_odd_structures_are_finite(name: str, rule: str, estimator: str) -> None:
    for dtype in (torch.float32, torch.float64):
        network = model(dtype=dtype, force_estimator=estimator, frame_rule=rule).train()
        results = network(batch([ODD[name]], dtype))
        assert results["energy"].shape == (1,)
        assert results["forces"].shape == (len(ODD[name]), 3)
        (results["energy"].sum() + results["forces"].square().sum()).backward()
        for value in (*results.values(), *(p.grad for p in network.parameters())):
            assert value is None or torch.isfinite(value).all()


def test_atoms_without_edges_feel_nothing() -> None:
    network = model()
    data = batch([ODD["far apart"], Atoms("O"), Atoms("H")])
    results = network(data)
    assert (results["forces"] == 0).all()
    # Two lone atoms have the sum of their own energies.
    torch.testing.assert_close(results["energy"][0], results["energy"][1:].sum())
    one_near = network(batch([water_dimer() + Atoms("O", [(30, 0, 0)])]))
    assert (one_near["forces"][-1] == 0).all()
    assert one_near["forces"][:-1].abs().min() > 0


def test_removing_the_lab_vector_leaves_finite_numbers() -> None:
    network = model()
    network.lab_component = 0.0
    for atoms in (ODD["linear"], ODD["symmetric crystal"]):
        results = network(batch([atoms]))
        assert torch.isfinite(results["energy"]).all()
        assert torch.isfinite(results["forces"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sphere_message": "rotspharmwd"}, "sphere_message.*rotspharmwd.*fullconv"),
        ({"output_message": "spharm"}, "output_message.*spharm.*fullconv"),
        ({"sphere_message": "rotspharmroll"}, "sphere_message.*rotspharmroll"),
        ({"force_estimator": "gradient"}, "force_estimator.*random or grad"),
        ({"edge_selection": "all"}, "edge_selection.*published or mutual"),
        ({"frame_rule": "x"}, "frame_rule.*published or neighbour"),
        ({"hidden_channels": 7}, "hidden_channels: found 7.*at least 8"),
        ({"hidden_channels": 25}, "hidden_channels: found 25.*multiple of the 3 groups"),
        ({"mid_hidden_channels": 201}, "mid_hidden_channels: found 201.*multiple of the 4 groups"),
        ({"num_basis_functions": 1}, "num_basis_functions"),
        ({"num_rand_rotations": 0}, "num_rand_rotations"),
        ({"num_interactions": 1.5}, "num_interactions.*whole number"),
        ({"cutoff": 0.0}, "cutoff.*above 0"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        SpinConv(**options)


def test_labels_without_effect_are_accepted() -> None:
    with torch.device("meta"):
        labelled = SpinConv(model_ref_number=3, readout="add", show_timing_info=True, lmax=2)
        plain = SpinConv()
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (labelled, plain)]
    assert shapes[0] == shapes[1]


def test_too_large_an_atomic_number_is_named() -> None:
    with pytest.raises(UserError, match=r"atomic number 26, expected 0 to 19.*max_num_elements"):
        model()(batch([Atoms("FeO", [(0, 0, 0), (0, 0, 1.6)])]))


def test_fairchem_finds_the_model() -> None:
    assert registry.get_model_class("spinconv") is SpinConv
    assert registry.get_model_class("piwsl_ocp.models.spinconv.SpinConv") is SpinConv
    network = model()
    assert (network.cutoff, network.max_neighbors) == (5.0, 14)
    assert (network.otf_graph, network.use_pbc, network.regress_forces) == (True, True, True)
    energies = model(regress_forces=False)(batch([water_dimer()]))
    assert list(energies) == ["energy"]
