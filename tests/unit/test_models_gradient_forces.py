"""Forces that are the negative gradient of the energy, over all four models."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from fairchem.core.common.registry import registry
from torch_geometric.data import Batch

from piwsl_ocp.consistency.residuals import closed_loop
from piwsl_ocp.errors import UserError
from piwsl_ocp.models.gradient_forces import gradient_forces
from tests.small_models import (
    EQUIFORMER,
    ESCN,
    PAINN,
    SCHNET,
    SMALL,
    batch_of,
    moved,
    small_model,
    stock_model,
)

ROTATED = (ESCN, EQUIFORMER)
FORCES = {
    PAINN: ("direct", "gradient"),
    SCHNET: ("direct", "gradient"),
    ESCN: ("direct", "gradient", "gradient_detached"),
    EQUIFORMER: ("direct", "gradient", "gradient_detached"),
}
#: Parts of fairchem's models that the energy does not depend on: orders above 0 where all features
#: are scalars yet, and tensors before the last activation, of which scalars alone are read.
IDLE = {
    ESCN: tuple(
        f"layer_blocks.0.message_block.so2_block_{end}.so2_conv" for end in ("source", "target")
    ),
    EQUIFORMER: ("energy_block.so3_linear_1",),
}
EVERY_KIND = [(name, forces) for name, kinds in FORCES.items() for forces in kinds]
#: fairchem's SchNet has no direct forces.
FAIRCHEMS_KINDS = [kind for kind in EVERY_KIND if kind != (SCHNET, "direct")]


def cross() -> Atoms:
    """One atom with neighbours exactly along every axis and against it."""
    arms = np.concatenate([np.eye(3), -np.eye(3)]) * np.array([[1.1], [1.2], [1.3]] * 2)
    return Atoms("SF6", positions=[[0, 0, 0], *arms])


def crystal() -> Atoms:
    """A cell smaller than the cutoff, off its symmetric positions."""
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.rattle(0.05, seed=1)
    return atoms


def structures() -> list[Atoms]:
    return [molecule("CH3CH2OH"), cross(), crystal()]


def vectors(batch: Batch, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch.pos.shape, generator=generator, dtype=torch.float64)


def work(batch: Batch, forces: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    products = (forces * direction).sum(dim=1)
    return torch.zeros(batch.natoms.numel()).to(products).index_add(0, batch.batch, products)


def gradient_error(model: torch.nn.Module, batch: Batch, step: float = 1e-6) -> float:
    """Return the largest error of F.d against finite differences, by the size of the forces."""
    forces = model(batch)["forces"]
    size = work(batch, forces, forces).sqrt()
    errors = []
    for seed in range(3):
        direction = vectors(batch, seed)
        ahead, behind = (
            model(moved(batch, sign * step * direction))["energy"].reshape(-1) for sign in (1, -1)
        )
        slope = (ahead - behind) / (2 * step)
        errors.append(((slope + work(batch, forces, direction)) / size).abs().max())
    return float(max(errors).detach())


@pytest.mark.parametrize("name", SMALL)
def test_forces_are_the_gradient_by_finite_differences(name: str) -> None:
    assert gradient_error(small_model(name, forces="gradient"), batch_of(structures())) < 1e-5


@pytest.mark.parametrize("name", ROTATED)
def test_detached_frames_do_not_give_the_gradient(name: str) -> None:
    model = small_model(name, forces="gradient_detached")
    assert gradient_error(model, batch_of(structures())) > 1e-3


@pytest.mark.parametrize("name", ROTATED)
def test_random_frames_in_training_give_the_gradient(name: str) -> None:
    options = {"alpha_drop": 0.1, "proj_drop": 0.1} if name == EQUIFORMER else {}
    model = small_model(name, forces="gradient", frames="random", **options).train()
    assert gradient_error(model, batch_of(structures(), keys=[3, 4, 5])) < 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_closed_loop_is_of_third_order(name: str) -> None:
    model = small_model(name, forces="gradient")
    batch = batch_of([molecule("CH3CH2OH")])
    first, second = vectors(batch, 0), vectors(batch, 1)
    scales = 1e-4 * torch.tensor([1.0, 2.0])
    residuals = []
    for scale in scales:
        points = [0 * first, scale * first, scale * second]
        forces = [model(moved(batch, point))["forces"] for point in points]
        residuals.append(closed_loop(*forces, *points[1:], batch.batch, 1).abs())
    slope = torch.log(residuals[1] / residuals[0]) / torch.log(torch.tensor(2.0))
    assert abs(float(slope) - 3) < 0.05


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_from_energies_and_gradient_forces(name: str) -> None:
    model = small_model(name, forces="gradient").train()
    outputs = model(batch_of(structures()))
    (outputs["energy"].sum() + outputs["forces"].square().sum()).backward()
    learning = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in learning.items() if gradient is None] == []
    assert all(bool(gradient.isfinite().all()) for gradient in learning.values())
    still = [key for key, gradient in learning.items() if not gradient.any()]
    assert [key for key in still if not any(part in key for part in IDLE.get(name, ()))] == []


def test_gradient_of_the_loss_by_finite_differences() -> None:
    model = small_model(ESCN, forces="gradient").train()
    batch = batch_of([cross()])
    weight = model.layer_blocks[0].message_block.so2_block_source.fc1_m0.weight

    def loss() -> torch.Tensor:
        return (1e3 * model(batch)["forces"]).square().sum()

    (expected,) = torch.autograd.grad(loss(), weight)
    place = np.unravel_index(int(expected.abs().argmax()), expected.shape)
    values = []
    for step in (1e-5, -2e-5):
        weight.data[place] += step
        values.append(float(loss().detach()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(expected[place]), rel=1e-6)


@pytest.mark.parametrize(("name", "forces"), EVERY_KIND)
def test_the_batch_and_the_caller_stay_as_they_were(name: str, forces: str) -> None:
    model = small_model(name, forces=forces)
    batch = batch_of(structures())
    before = copy.deepcopy(batch)
    positions = batch.pos
    first, second = model(batch), model(batch)
    assert batch.pos is positions
    assert not positions.requires_grad
    assert torch.is_grad_enabled()
    assert sorted(batch.keys()) == sorted(before.keys())
    for key, value in before:
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(batch[key])), key
    for key in ("energy", "forces"):
        assert torch.equal(first[key], second[key])
    copy.deepcopy(model)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_forces_in_every_gradient_mode(name: str) -> None:
    model = small_model(name, forces="gradient")
    batch = batch_of([molecule("H2O")])
    outputs = model(batch)
    with torch.no_grad():
        without = model(batch)
        assert not torch.is_grad_enabled()
    for key, value in outputs.items():
        assert not value.requires_grad
        assert torch.equal(value, without[key])
    trained = model.train()(batch)
    assert trained["energy"].requires_grad
    assert trained["forces"].requires_grad


@pytest.mark.parametrize(("name", "forces"), EVERY_KIND)
def test_a_structure_does_not_feel_the_rest_of_the_batch(
    name: str, forces: str, assert_close: Callable[..., None]
) -> None:
    model = small_model(name, forces=forces)
    together = model(batch_of(structures()))
    alone = [model(batch_of([atoms])) for atoms in structures()]
    assert together["energy"].dtype == together["forces"].dtype == torch.float64
    for key in ("energy", "forces"):
        assert_close(together[key], torch.cat([one[key] for one in alone]))


@pytest.mark.parametrize("name", SMALL)
def test_a_model_can_change_its_type(name: str, assert_close: Callable[..., None]) -> None:
    used, fresh = (small_model(name, torch.float32, forces="gradient") for _ in range(2))
    single = used(batch_of(structures(), torch.float32))
    double = used.double()(batch_of(structures()))
    expected = fresh.double()(batch_of(structures()))
    for key, value in expected.items():
        assert single[key].dtype == torch.float32
        assert_close(double[key], value)
        size = value.abs().max()
        assert_close((single[key] / size).float(), (value / size).float(), scale=10.0)


@pytest.mark.parametrize(("name", "forces"), EVERY_KIND)
def test_translation_and_order_of_atoms(
    name: str, forces: str, assert_close: Callable[..., None]
) -> None:
    model = small_model(name, forces=forces)
    atoms = molecule("CH3CH2OH")
    order = np.random.default_rng(0).permutation(len(atoms))
    before = model(batch_of([atoms]))
    permuted = model(batch_of([atoms[order]]))
    atoms.translate([3.0, -2.0, 1.0])
    shifted = model(batch_of([atoms]))
    assert_close(permuted["energy"], before["energy"])
    assert_close(permuted["forces"], before["forces"][order])
    assert_close(shifted["energy"], before["energy"])
    assert_close(shifted["forces"], before["forces"])


@pytest.mark.parametrize("name", [PAINN, SCHNET])
def test_rotation(name: str, assert_close: Callable[..., None]) -> None:
    model = small_model(name, forces="gradient")
    batch = batch_of([molecule("CH3CH2OH")])
    matrix = torch.linalg.qr(vectors(batch, 0)[:3])[0]
    turned = copy.copy(batch)
    turned.pos = batch.pos @ matrix.T
    assert_close(model(turned)["energy"], model(batch)["energy"])
    assert_close(model(turned)["forces"], model(batch)["forces"] @ matrix.T)


@pytest.mark.parametrize(("name", "forces"), EVERY_KIND)
def test_structures_with_few_or_no_edges(name: str, forces: str) -> None:
    lonely = Atoms("OH2C", positions=[[0, 0, 0], [0.9, 0, 0], [-0.9, 0, 0], [30, 0, 0]])
    single, linear = Atoms("He"), molecule("CO2")
    model = small_model(name, forces=forces)
    outputs = model(batch_of([single, lonely, linear, single]))
    assert outputs["energy"].isfinite().all()
    assert outputs["forces"].isfinite().all()
    if forces != "direct":
        assert not outputs["forces"][[0, 4, 8]].any()
    if name in ROTATED:
        with pytest.raises(UserError, match=r"structure sid 0: no atom has a neighbour within 4"):
            model(batch_of([single]))
    else:
        outputs = model(batch_of([single]))
        assert outputs["energy"].isfinite().all()
        assert outputs["forces"].tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("name", "forces"), EVERY_KIND)
def test_two_atoms_on_one_spot_are_named(name: str, forces: str) -> None:
    batch = batch_of([molecule("H2O"), molecule("CH4")])
    batch.pos[4] = batch.pos[6]
    with pytest.raises(UserError, match=r"structure sid 1: atoms (1 and 3|3 and 1) are on the"):
        small_model(name, forces=forces)(batch)


@pytest.mark.parametrize(("name", "forces"), FAIRCHEMS_KINDS)
def test_weights_have_fairchems_names_and_shapes(name: str, forces: str) -> None:
    direct = {PAINN: {"direct_forces": forces == "direct"}, SCHNET: {}}
    stock = stock_model(name, **direct.get(name, {"regress_forces": forces == "direct"}))
    ours = small_model(name, torch.float32, forces=forces)
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in stock.state_dict().items()}
    full = stock_model(name).state_dict()
    ours.load_state_dict(full, strict=True)
    assert all(torch.equal(value, full[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", [PAINN, SCHNET])
def test_predictions_are_fairchems(name: str, assert_close: Callable[..., None]) -> None:
    ours, stock = small_model(name, torch.float32), stock_model(name)
    stock.load_state_dict(ours.state_dict())
    batch = batch_of(structures(), torch.float32)
    expected = stock(copy.deepcopy(batch))
    for key, value in ours(batch).items():
        assert_close(value, expected[key].detach())


@pytest.mark.parametrize("name", ROTATED)
def test_predictions_are_fairchems_with_the_same_frames(
    name: str, assert_close: Callable[..., None]
) -> None:
    ours, stock = small_model(name, torch.float32), stock_model(name)
    stock.load_state_dict(ours.state_dict())
    stock._init_edge_rot_mat = ours._init_edge_rot_mat
    batch = batch_of(structures(), torch.float32)
    expected = stock(copy.deepcopy(batch))
    for key, value in ours(batch).items():
        scale = float(expected[key].detach().abs().max())
        assert_close(value / scale, expected[key].detach() / scale)


def test_fairchems_gradient_of_painn_is_another() -> None:
    ours, stock = small_model(PAINN, forces="gradient"), stock_model(PAINN, direct_forces=False)
    stock.load_state_dict(ours.state_dict())
    batch = batch_of([molecule("CH3CH2OH")], torch.float32)
    theirs = stock(copy.deepcopy(batch))["forces"].detach()
    assert (ours.float()(batch)["forces"] - theirs).norm() > 0.1 * theirs.norm()


@pytest.mark.parametrize("name", SMALL)
def test_options_can_be_checked_before_a_model_is_built(name: str) -> None:
    parameters = inspect.signature(registry.get_model_class(name).__init__).parameters
    assert {"self", "forces", "regress_forces", *SMALL[name]} <= set(parameters)
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())
    with pytest.raises(UserError, match=r"model\.forces: found 'gradent', .* is 'gradient'"):
        small_model(name, forces="gradent")


def test_painn_knows_fairchems_word_for_the_choice() -> None:
    assert small_model(PAINN).forces == "direct"
    assert small_model(PAINN, direct_forces=False).forces == "gradient"
    assert small_model(PAINN, direct_forces=True, forces="gradient").forces == "gradient"


@pytest.mark.parametrize("name", ROTATED)
def test_unknown_elements_are_named(name: str) -> None:
    model = small_model(name, forces="gradient", max_num_elements=8)
    with pytest.raises(UserError, match="structure sid 1: atomic number 8, but"):
        model(batch_of([molecule("CH4"), molecule("H2O")]))


def test_activation_checkpoints_change_nothing(assert_close: Callable[..., None]) -> None:
    plain = small_model(ESCN, forces="gradient", num_layers=3).train()
    saving = small_model(ESCN, forces="gradient", num_layers=3, activation_checkpoint=True).train()
    batch = batch_of(structures())
    for model in (plain, saving):
        (1e3 * model(batch)["forces"]).square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        if one.requires_grad:
            assert_close(one.grad, other.grad)


def test_energy_without_any_position_has_no_forces() -> None:
    batch = batch_of([molecule("H2O")])
    constant = torch.ones(1, requires_grad=True)
    outputs = gradient_forces(lambda data: {"energy": constant * 2}, batch, training=False)
    assert outputs["forces"].tolist() == [[0.0] * 3] * 3
