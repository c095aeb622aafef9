"""Displaced copies keep the clean graph, and the given batch stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from ase.build import bulk, molecule
from fairchem.core.datasets import data_list_collater
from torch_geometric.data import Batch

from piwsl_ocp.ocp.copies import concatenate_copies, with_positions
from piwsl_ocp.ocp.predictor import graph_data


def batch_of(*structures) -> Batch:
    records = [graph_data(atoms, n, 4.0, 20) for n, atoms in enumerate(structures)]
    return data_list_collater(records, otf_graph=False)


@pytest.fixture(params=["molecules", "crystals"])
def batch(request: pytest.FixtureRequest) -> Batch:
    if request.param == "molecules":
        return batch_of(molecule("CH3CH2OH"), molecule("H2O"), molecule("C6H6"))
    return batch_of(bulk("MgO", "rocksalt", a=4.2), bulk("MgO", "rocksalt", a=4.3, cubic=True))


def displacements(batch: Batch, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(batch.pos.shape, generator=generator) for _ in range(count)]


def test_every_copy_is_the_collated_displaced_structures(batch: Batch) -> None:
    moves = displacements(batch, 2)
    joined = concatenate_copies(batch, moves)
    single = [with_positions(batch, batch.pos + move) for move in [torch.zeros(()), *moves]]
    records = [record for one in single for record in one.to_data_list()]
    expected = data_list_collater(records, otf_graph=False)
    for key in ("pos", "atomic_numbers", "batch", "natoms", "cell", "pbc", "edge_index"):
        assert torch.equal(joined[key], expected[key]), key
    for key in ("cell_offsets", "neighbors", "fixed", "tags"):
        assert torch.equal(joined[key], expected[key]), key


def test_the_batch_is_not_changed(batch: Batch) -> None:
    before = copy.deepcopy(batch)
    joined = concatenate_copies(batch, displacements(batch, 1))
    joined.pos.requires_grad_(True)
    moved = with_positions(batch, batch.pos + 1.0)
    moved.pos.mul_(2.0)
    assert set(batch.keys()) == set(before.keys())
    for key in batch.keys():  # noqa: SIM118
        if isinstance(batch[key], torch.Tensor):
            assert torch.equal(batch[key], before[key]), key
    assert not batch.pos.requires_grad


def test_no_displacement_gives_the_batch_itself(batch: Batch) -> None:
    joined = concatenate_copies(batch, [])
    assert torch.equal(joined.pos, batch.pos)
    assert torch.equal(joined.edge_index, batch.edge_index)
    assert joined.pos.data_ptr() != batch.pos.data_ptr()
