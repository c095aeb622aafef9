"""Random draws that follow structures and edges, so that copies of a structure meet the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ase.build import molecule
from torch_geometric.data import Batch

from piwsl_ocp.models.draws import Draws, KeyedDropout
from piwsl_ocp.ocp.copies import concatenate_copies
from tests.small_models import EQUIFORMER, ESCN, SMALL, batch_of, small_model

ETHANOL, METHANE = molecule("CH3CH2OH"), molecule("CH4")
#: Every source of noise of each model, one after the other and all at once.
NOISY = [
    (ESCN, {"frames": "random"}),
    (EQUIFORMER, {"frames": "random", "alpha_drop": 0.0, "drop_path_rate": 0.0}),
    (EQUIFORMER, {"alpha_drop": 0.3, "drop_path_rate": 0.0}),
    (EQUIFORMER, {"alpha_drop": 0.0, "drop_path_rate": 0.3}),
    (EQUIFORMER, {"alpha_drop": 0.0, "drop_path_rate": 0.0, "proj_drop": 0.3}),
    (EQUIFORMER, {"frames": "random", "alpha_drop": 0.2, "drop_path_rate": 0.2, "proj_drop": 0.2}),
]
every_noise = pytest.mark.parametrize(("name", "options"), NOISY)


def energies(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return model(batch)["energy"].detach().reshape(-1)


@every_noise
@pytest.mark.parametrize("forces", ["direct", "gradient"])
def test_copies_without_displacement_are_alike(
    name: str, options: dict, forces: str, assert_close: Callable[..., None]
) -> None:
    model = small_model(name, forces=forces, **options).train()
    batch = batch_of([ETHANOL, METHANE], keys=[11, 12])
    outputs = model(concatenate_copies(batch, [torch.zeros_like(batch.pos)] * 2))
    for value in outputs.values():
        first, second, third = value.chunk(3)
        assert_close(first, second)
        assert_close(first, third)


@every_noise
def test_draws_belong_to_the_structure_not_to_its_place(
    name: str, options: dict, assert_close: Callable[..., None]
) -> None:
    model = small_model(name, **options).train()
    ahead = energies(model, batch_of([ETHANOL, METHANE], keys=[11, 12]))
    behind = energies(model, batch_of([METHANE, METHANE, ETHANOL], keys=[12, 13, 11]))
    assert_close(ahead, behind[[2, 0]])


@every_noise
def test_keys_change_the_energy_in_training_alone(name: str, options: dict) -> None:
    model = small_model(name, **options).train()
    keys = range(8)
    alike = batch_of([ETHANOL] * len(keys), keys=keys)
    trained = energies(model, alike)
    assert len(set(trained.tolist())) > 2
    assert torch.equal(trained, energies(model, alike))
    evaluated = energies(model.eval(), alike)
    assert float(evaluated.std()) < 1e-10
    assert torch.equal(evaluated, energies(model, alike))


@every_noise
def test_without_keys_every_pass_draws_from_the_seeded_generator(name: str, options: dict) -> None:
    model = small_model(name, **options).train()
    batch = batch_of([ETHANOL] * 8)
    torch.manual_seed(3)
    first, second = energies(model, batch), energies(model, batch)
    torch.manual_seed(3)
    assert torch.equal(first, energies(model, batch))
    assert not torch.equal(first, second)


def test_models_without_dropout_draw_nothing_with_fixed_frames() -> None:
    for name in SMALL:
        options = {"alpha_drop": 0.0, "drop_path_rate": 0.0} if name == EQUIFORMER else {}
        model = small_model(name, **options)
        batch = batch_of([ETHANOL], keys=[5])
        assert torch.equal(energies(model.train(), batch), energies(model.eval(), batch))


def draws_for(structures: int, keys: list[int]) -> tuple[Draws, Batch]:
    batch = batch_of([METHANE] * structures, keys=keys)
    draws = Draws()
    draws.begin(batch, batch, training=True)
    return draws, batch


@pytest.mark.parametrize("kind", ["structure", "atom", "edge"])
def test_dropout_keeps_the_mean(kind: str) -> None:
    draws, batch = draws_for(200, list(range(200)))
    rows = {"structure": len(batch.pos), "atom": len(batch.pos), "edge": batch.edge_index.shape[1]}
    dropout = KeyedDropout(0.25, kind, draws)
    dropped = dropout(torch.ones(rows[kind], 1, 64), batch.batch)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    dropout.eval()
    assert torch.equal(dropout(dropped, batch.batch), dropped)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dropout_has_its_rate_in_every_dtype(dtype: torch.dtype) -> None:
    draws, batch = draws_for(50, list(range(50)))
    ones = torch.ones(batch.edge_index.shape[1], 1, 64, dtype=dtype)
    dropped = KeyedDropout(0.1, "edge", draws)(ones)
    assert dropped.dtype == dtype
    assert dropped.isfinite().all()
    # 64,000 draws: one standard deviation is 0.0012.
    assert float((dropped == 0).double().mean()) == pytest.approx(0.1, abs=0.005)
    draws.begin(batch, batch, training=True)
    single = KeyedDropout(0.1, "edge", draws)(ones.float())
    assert torch.equal(dropped == 0, single == 0)


def test_dropout_shares_draws_where_asked() -> None:
    draws, batch = draws_for(4, [0, 1, 2, 3])
    ones = torch.ones(len(batch.pos), 9, 16)
    paths = KeyedDropout(0.5, "structure", draws, shared=(1, 2))(ones, batch.batch)
    assert torch.equal(paths, paths[:, :1, :1].expand_as(paths))
    assert all(len(paths[batch.batch == n].unique()) == 1 for n in range(4))
    channels = KeyedDropout(0.5, "atom", draws, shared=(1,))(ones)
    assert torch.equal(channels, channels[:, :1].expand_as(channels))
    assert len(channels[0, 0].unique()) == 2


def test_every_draw_of_a_pass_is_another() -> None:
    draws, batch = draws_for(4, [0, 1, 2, 3])
    dropout = KeyedDropout(0.5, "edge", draws)
    ones = torch.ones(batch.edge_index.shape[1], 1, 8, 1)
    first, second = dropout(ones), dropout(ones)
    assert not torch.equal(first, second)
    draws.begin(batch, batch, training=True)
    assert torch.equal(dropout(ones), first)
