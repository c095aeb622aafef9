"""What every model must fulfil to be trained with consistency losses, in both force modes."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from fairchem.core.datasets import data_list_collater
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch_geometric.data import Batch

from piwsl_ocp.consistency.displacement import DisplacementOptions
from piwsl_ocp.consistency.objective import ObjectiveOptions
from piwsl_ocp.errors import UserError
from piwsl_ocp.models.edges import edge_vectors
from piwsl_ocp.ocp.copies import concatenate_copies, with_noise_keys
from piwsl_ocp.ocp.evaluations import CopyEvaluator
from piwsl_ocp.ocp.predictor import graph_data
from tests.contract.models import MODELS, STRUCTURES, ContractModel, batch_of, rattled

Output = dict[str, Tensor]


@pytest.fixture(params=MODELS)
def contract(request: pytest.FixtureRequest) -> ContractModel:
    return MODELS[request.param]


@pytest.fixture(params=STRUCTURES)
def structures(request: pytest.FixtureRequest) -> list[Atoms]:
    return STRUCTURES[request.param]()


@pytest.fixture
def model(contract: ContractModel) -> nn.Module:
    return contract.build()


@torch.no_grad()
def evaluate(model: nn.Module, structures: list[Atoms], dtype=torch.float64) -> Output:
    outputs = model(batch_of(structures, model, dtype))
    return {"energy": outputs["energy"].reshape(-1), "forces": outputs["forces"]}


def assert_same(actual: Output, expected: Output, tolerance: float) -> None:
    """Compare energies and forces relative to the largest force."""
    scale = expected["forces"].abs().max().item()
    assert scale > 1e-6, "too small to see an error"
    for name in ("energy", "forces"):
        torch.testing.assert_close(
            actual[name], expected[name], rtol=tolerance, atol=tolerance * scale
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(
    contract: ContractModel, structures: list[Atoms], dtype: torch.dtype
) -> None:
    model = contract.build(dtype)
    outputs = evaluate(model, structures, dtype)
    atoms = sum(len(a) for a in structures)
    assert outputs["energy"].shape == (len(structures),)
    assert outputs["forces"].shape == (atoms, 3)
    assert {value.dtype for value in outputs.values()} == {dtype}
    assert all(value.isfinite().all() for value in outputs.values())


def test_the_graph_maker_reads_its_settings_from_the_model(model: nn.Module) -> None:
    assert model.cutoff > 0
    assert model.max_neighbors > 0
    assert model.otf_graph is False


def test_a_structure_is_the_same_alone_and_in_a_batch(
    model: nn.Module, structures: list[Atoms]
) -> None:
    together = evaluate(model, structures)
    alone = [evaluate(model, [atoms]) for atoms in structures]
    joined = {name: torch.cat([output[name] for output in alone]) for name in together}
    assert_same(together, joined, 1e-10)
    backwards = evaluate(model, structures[::-1])
    assert_same({**joined, "energy": backwards["energy"].flip(0)}, joined, 1e-10)


def test_permutation_of_atoms(model: nn.Module, structures: list[Atoms]) -> None:
    atoms = structures[0]
    order = np.random.default_rng(1).permutation(len(atoms))
    expected, actual = evaluate(model, [atoms]), evaluate(model, [atoms[order]])
    expected["forces"] = expected["forces"][torch.as_tensor(order)]
    assert_same(actual, expected, 1e-10)


def test_translation(model: nn.Module, structures: list[Atoms]) -> None:
    moved = [atoms.copy() for atoms in structures]
    for atoms in moved:
        atoms.positions += [1.3, -2.1, 0.4]
    assert_same(evaluate(model, moved), evaluate(model, structures), 1e-8)


def test_rotation(contract: ContractModel, model: nn.Module, structures: list[Atoms]) -> None:
    rotation = Rotation.random(random_state=3).as_matrix()
    turned = [atoms.copy() for atoms in structures]
    for atoms in turned:
        atoms.set_cell(atoms.cell.array @ rotation.T)
        atoms.positions = atoms.positions @ rotation.T
    expected = evaluate(model, structures)
    expected["forces"] = expected["forces"] @ torch.as_tensor(rotation).T
    actual = evaluate(model, turned)
    if not contract.covariant_forces:
        actual["forces"] = expected["forces"]
    assert_same(actual, expected, contract.rotation_tolerance)


def test_gradient_forces_are_the_gradient(
    contract: ContractModel, model: nn.Module, structures: list[Atoms]
) -> None:
    if not contract.conservative:
        pytest.skip("direct forces")
    batch = batch_of(structures, model)
    forces = model(batch)["forces"]
    direction = torch.randn(forces.shape, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-5

    def energy(scale: float) -> float:
        moved = batch.clone()
        moved.pos = batch.pos + scale * step * direction
        return model(moved)["energy"].sum().item()

    slope = (8 * (energy(1) - energy(-1)) - (energy(2) - energy(-2))) / (12 * step)
    work = -(forces * direction).sum().item()
    assert abs(slope - work) < 1e-5 * (abs(work) + forces.norm().item())


def test_forces_of_a_molecule_are_finite_along_every_axis(
    contract: ContractModel, model: nn.Module
) -> None:
    """Edges along the coordinate axes are the poles of spherical angles."""
    octahedron = [[0, 0, 0], *(1.2 * np.vstack([np.eye(3), -np.eye(3)])).tolist()]
    outputs = model(batch_of([Atoms("SF6", octahedron)], model))
    assert outputs["forces"].isfinite().all()


def test_a_batch_is_never_changed(model: nn.Module, structures: list[Atoms]) -> None:
    batch = batch_of(structures, model)
    before = {key: deepcopy(value) for key, value in batch}
    for training in (False, True):
        model.train(training)
        model(batch)
        assert set(batch.keys()) == set(before)
        for key, value in batch:
            same = torch.equal(value, before[key]) if torch.is_tensor(value) else True
            assert same, key
            assert not (torch.is_tensor(value) and value.requires_grad), key


def test_a_second_evaluation_is_identical(model: nn.Module, structures: list[Atoms]) -> None:
    first, second = evaluate(model, structures), evaluate(model, structures)
    for name, value in first.items():
        assert torch.equal(second[name], value), name


def test_evaluation_keeps_no_graph_of_operations(
    contract: ContractModel, model: nn.Module, structures: list[Atoms]
) -> None:
    batch = batch_of(structures, model)
    with torch.no_grad():
        outputs = list(model(batch).values())
    if contract.conservative:
        outputs += model(batch).values()
    assert not any(value.requires_grad for value in outputs)


def test_weights_travel_by_state_dict(
    contract: ContractModel, model: nn.Module, structures: list[Atoms]
) -> None:
    other = contract.build(seed=1)
    expected = evaluate(model, structures)
    assert not torch.allclose(evaluate(other, structures)["energy"], expected["energy"])
    other.load_state_dict(model.state_dict())
    assert_same(evaluate(other, structures), expected, 1e-12)


def weak_losses(
    model: nn.Module,
    batch: Batch,
    separate: bool = False,
    epsilon: float = 0.05,
    step: int = 3,
) -> tuple[dict[str, Tensor], Output]:
    options = ObjectiveOptions(
        {"pitc": 1.2, "pisc": 0.8}, DisplacementOptions(epsilon_max_angstrom=epsilon)
    )
    evaluator = CopyEvaluator(options, 0, "kcal/mol", {}, 0.025, separate=separate)
    model.train()
    evaluation = evaluator.training(model, batch, step)
    return evaluation.losses, evaluation.outputs


def total_loss(losses: dict[str, Tensor], outputs: Output) -> Tensor:
    supervised = outputs["energy"].abs().mean() + outputs["forces"].square().sum()
    return supervised + sum(loss.mean() for loss in losses.values())


def test_displaced_copies_keep_the_graph(model: nn.Module, structures: list[Atoms]) -> None:
    batch = batch_of(structures, model)
    move = 0.3 * torch.randn(batch.pos.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        both = model(concatenate_copies(batch, [move]))["energy"].reshape(2, -1)
    moved = batch.clone()
    moved.pos = batch.pos + move
    with torch.no_grad():
        expected = model(moved)["energy"].reshape(-1)
    torch.testing.assert_close(both[1], expected, rtol=1e-10, atol=1e-10)


def without_edges(batch: Batch, gone: Tensor) -> Batch:
    """Return a batch with some of its stored edges left out."""
    fewer = batch.clone()
    fewer.edge_index, fewer.cell_offsets = batch.edge_index[:, ~gone], batch.cell_offsets[~gone]
    structure = batch.batch[fewer.edge_index[1]]
    fewer.neighbors = torch.bincount(structure, minlength=len(batch.natoms))
    return fewer


@torch.no_grad()
def test_the_stored_edges_are_the_graph(model: nn.Module, structures: list[Atoms]) -> None:
    batch = batch_of(structures, model)
    first, second = batch.edge_index
    bond = ((first == 0) & (second == 1)) | ((first == 1) & (second == 0))
    change = (model(without_edges(batch, bond))["energy"] - model(batch)["energy"]).reshape(-1)
    assert change[0].abs() > 1e-7
    assert change[1:].abs().max() < 1e-10


@torch.no_grad()
def test_an_edge_counts_in_a_displaced_copy_if_it_counts_in_the_clean_structure(
    model: nn.Module,
) -> None:
    """A model that chooses among the stored edges chooses once."""
    crystal = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(2))
    record = graph_data(crystal, 0, model.cutoff, 0, torch.float64)
    batch = data_list_collater([record], otf_graph=False)
    # The most distant of the first atom's sources; SpinConv is limited to 20.
    around = torch.nonzero(batch.edge_index[1] == 0)[-8:, 0]
    move = 0.2 * torch.randn(batch.pos.shape, generator=torch.Generator().manual_seed(0)).double()

    def energies(batch: Batch) -> Tensor:
        return model(concatenate_copies(batch, [move]))["energy"].reshape(2)

    every = energies(batch)
    for edge in around:
        gone = torch.arange(len(batch.edge_index.T)) == edge
        clean, displaced = (energies(without_edges(batch, gone)) - every).abs() > 1e-12
        assert clean == displaced


@torch.no_grad()
def test_edges_stay_where_a_displacement_takes_them_beyond_the_cutoff(
    model: nn.Module, structures: list[Atoms]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for bias in (p for p in model.parameters() if p.dim() == 1):  # fresh ones are zero
        bias += 0.1 * torch.randn(bias.shape, generator=generator).to(bias)
    batch = batch_of(structures, model)
    batch.pos, batch.cell = 1.2 * batch.pos, 1.2 * batch.cell
    vectors = edge_vectors(batch, batch.edge_index, batch.cell_offsets)
    beyond = vectors.norm(dim=1) > model.cutoff
    assert beyond.any()
    change = model(without_edges(batch, beyond))["energy"] - model(batch)["energy"]
    assert change.abs().max() > 1e-6


def test_copies_that_are_not_displaced_have_the_same_energy_in_training(
    model: nn.Module, structures: list[Atoms]
) -> None:
    batch = with_noise_keys(batch_of(structures, model), torch.arange(len(structures)) + 5)
    model.train()
    energies = model(concatenate_copies(batch, [torch.zeros_like(batch.pos)] * 2))["energy"]
    clean, first, second = energies.reshape(3, -1)
    assert (first - clean).abs().max() < 1e-10
    assert (second - clean).abs().max() < 1e-10
    alone = with_noise_keys(batch_of(structures[1:2], model), torch.tensor([6]))
    torch.testing.assert_close(model(alone)["energy"].reshape(-1), clean[1:2])


def test_a_step_changes_every_weight_and_no_buffer(
    contract: ContractModel, structures: list[Atoms]
) -> None:
    model = contract.build(torch.float32)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    batch = batch_of(structures, model, torch.float32)
    for step in range(2):
        optimizer.zero_grad()
        total_loss(*weak_losses(model, batch, step=step)).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    now = dict(model.named_parameters())
    unchanged = [name for name in trainable if torch.equal(now[name], weights[name])]
    unused = [name for name in trainable if name.startswith(contract.unused)]
    assert unchanged == (unused if contract.unused else [])
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_one_forward_and_three_forwards_have_the_same_gradient(
    contract: ContractModel, structures: list[Atoms]
) -> None:
    gradients = []
    for separate in (False, True):
        model = contract.build()
        batch = batch_of(structures, model)
        total_loss(*weak_losses(model, batch, separate)).backward()
        parts = [p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
    assert gradients[0].norm() > 0
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert difference < 1e-9


def test_the_gradient_of_a_loss_is_its_slope(model: nn.Module, structures: list[Atoms]) -> None:
    """That of forces, too, which takes second derivatives where forces are a gradient."""
    batch = batch_of(structures, model)
    weights = [p for p in model.parameters() if p.requires_grad]

    def loss() -> Tensor:
        losses, outputs = weak_losses(model, batch)
        return outputs["forces"].square().sum() + sum(loss.mean() for loss in losses.values())

    gradient = parameters_to_vector(
        torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    )
    start = parameters_to_vector(weights).detach()
    direction = torch.randn(len(start), generator=torch.Generator().manual_seed(4)).double()

    def moved(distance: float) -> float:
        vector_to_parameters(start + distance * direction, weights)
        return float(loss().detach())

    step = 1e-6
    slope = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
    assert gradient.norm() > 0
    assert abs(slope - gradient @ direction) < 1e-5 * gradient.norm()


BAD = {
    "isolated atom": lambda: [molecule("H2O"), Atoms("He")],
    "one atom": lambda: [Atoms("O")],
    "no edges": lambda: [Atoms("H2", [[0, 0, 0], [0, 0, 50]])],
    "isolated atom in a molecule": lambda: [
        Atoms("OH2He", [[0, 0, 0], [0, 0, 0.96], [0.93, 0, -0.24], [40, 0, 0]])
    ],
    "same spot": lambda: [Atoms("OHH", [[0, 0, 0], [0.9, 0, 0], [0.9, 0, 0]])],
    "linear": lambda: [molecule("CO2")],
    "diatomic": lambda: [molecule("N2")],
    "small cell": lambda: [Atoms("Fe", cell=[1.9, 2.0, 2.1], pbc=True)],
    "unknown element": lambda: [Atoms([119, 1], [[0, 0, 0], [0, 0, 1.5]])],
}


@pytest.mark.parametrize("case", BAD)
def test_unusual_structures_give_finite_numbers_or_a_clear_error(
    model: nn.Module, case: str
) -> None:
    for training in (False, True):
        model.train(training)
        try:
            outputs = model(batch_of(BAD[case](), model))
        except UserError as error:
            assert "\n" not in str(error)
            continue
        assert all(value.isfinite().all() for value in outputs.values())
        assert case != "unknown element"
        if not training:
            continue
        total = outputs["energy"].sum() + outputs["forces"].square().sum()
        gradients = torch.autograd.grad(
            total, [p for p in model.parameters() if p.requires_grad], allow_unused=True
        )
        assert all(g is None or g.isfinite().all() for g in gradients)


def tensors_in(value: object, seen: set[int]) -> list[Tensor]:
    """Return all tensors with a shape behind an attribute, in fairchem's own objects as well."""
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, Tensor):
        return [value] if value.dim() else []  # without a shape it is a number on every device
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    return [tensor for part in parts for tensor in tensors_in(part, seen)]


def test_nothing_stays_behind_when_a_model_moves(model: nn.Module, structures: list[Atoms]) -> None:
    for training in (True, False):
        model.train(training)
        model(batch_of(structures, model))
    model.to("meta")
    found = tensors_in(model, set())
    assert len(found) >= sum(parameter.dim() > 0 for parameter in model.parameters())
    assert {tensor.device.type for tensor in found} == {"meta"}


def test_inference_mode_gives_the_same_and_leaves_nothing_behind(
    model: nn.Module, structures: list[Atoms]
) -> None:
    expected = evaluate(model, structures)
    with torch.inference_mode():
        made_within = batch_of(structures, model)
        for batch in (batch_of(structures, model), made_within):
            outputs = model(batch)
            assert not any(value.requires_grad for value in outputs.values())
            for name, value in expected.items():
                assert torch.equal(outputs[name].reshape(value.shape), value), name
        assert torch.is_inference_mode_enabled()
    for name, value in model(made_within).items():
        torch.testing.assert_close(value.reshape(expected[name].shape), expected[name])
    total_loss(*weak_losses(model, batch_of(structures, model))).backward()


def test_stored_periodic_edges_need_a_periodic_model(model: nn.Module) -> None:
    model.use_pbc = False
    batch = batch_of(STRUCTURES["crystals"](), model)
    with pytest.raises(UserError, match=r"sid 0: its stored edges reach .* model.use_pbc is false"):
        model(batch)
    molecules = STRUCTURES["molecules"]()
    without = evaluate(model, molecules)
    model.use_pbc = True
    assert_same(evaluate(model, molecules), without, 1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("amp", [False, True])
def test_a_gpu_gives_the_same(contract: ContractModel, structures: list[Atoms], amp: bool) -> None:
    model = contract.build(torch.float32)
    expected = evaluate(model, structures, torch.float32)
    on_gpu = model.to("cuda")
    with torch.autocast("cuda", enabled=amp):
        outputs = on_gpu(batch_of(structures, on_gpu, torch.float32, "cuda"))
    actual = {name: outputs[name].float().cpu().reshape(expected[name].shape) for name in expected}
    assert_same(actual, expected, 5e-2 if amp else 1e-3)
