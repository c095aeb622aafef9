"""Edges of SpinConv: the search, the selection of the nearest, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from piwsl_ocp.datasets.neighbours import edges as reference_edges
from piwsl_ocp.models.spinconv.graph import Edges, all_edges, edge_vectors, select_edges
from piwsl_ocp.ocp.copies import concatenate_copies, with_positions
from tests.spinconv_cases import TINY, batch, model, oxide

SLAB = fcc111("Al", (1, 1, 2), vacuum=0.0, periodic=False)
SLAB.pbc = (True, True, False)
OUTSIDE = bulk("MgO", "rocksalt", a=4.21)
OUTSIDE.positions[1] += 2 * OUTSIDE.cell[0] - 3 * OUTSIDE.cell[1]
STRUCTURES = [molecule("CH3OH"), oxide(), SLAB, OUTSIDE, Atoms("He")]


def rows(index: np.ndarray, shift: np.ndarray) -> list[tuple[int, ...]]:
    return sorted(map(tuple, np.concatenate([index.T, shift], axis=1).astype(int).tolist()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_search_finds_what_a_neighbour_list_finds(dtype: torch.dtype) -> None:
    data = batch(STRUCTURES, dtype)
    found = all_edges(data.pos, data.natoms, data.cell, data.pbc, 5.0)
    expected, first = [], 0
    for atoms in STRUCTURES:
        index, shift = reference_edges(atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
        expected += rows(index + first, shift)
        first += len(atoms)
    assert rows(found.index.numpy(), found.shift.numpy()) == sorted(expected)
    assert found.vectors.dtype == dtype
    again = edge_vectors(data.pos, found.index, found.shift, data.cell[data.batch])
    torch.testing.assert_close(again, found.vectors, rtol=0, atol=0)
    assert found.vectors.norm(dim=1).max() <= 5.0 + 1e-5


def test_search_without_periodicity() -> None:
    data = batch([oxide()])
    found = all_edges(data.pos, data.natoms, None, None, 5.0)
    index, _ = reference_edges(oxide().positions, np.zeros((3, 3)), np.zeros(3, bool), 5.0)
    expected = rows(index, np.zeros((index.shape[1], 3)))
    assert rows(found.index.numpy(), found.shift.numpy()) == expected


def brute_force(edges: Edges, nearest: int, rule: str) -> set[int]:
    """The selection in words, edge by edge."""
    source, target = edges.index.tolist()
    distance = edges.vectors.norm(dim=1).tolist()
    shift = edges.shift.tolist()

    def rank(e: int) -> tuple:
        return round(distance[e] / 1e-6), source[e], shift[e]

    near = []
    for atom in set(target):
        near += sorted((e for e in range(len(source)) if target[e] == atom), key=rank)[:nearest]

    def same(e: int, other: int) -> bool:
        if rule == "published":
            return {source[e], target[e]} == {source[other], target[other]}
        reverse = (target[e], source[e], [-x for x in shift[e]])
        return (source[other], target[other], shift[other]) == reverse or e == other

    return {e for e in range(len(source)) if any(same(e, other) for other in near)}


@pytest.mark.parametrize("rule", ["published", "mutual"])
@pytest.mark.parametrize("nearest", [1, 3, 7, 12])
def test_selection_equals_the_rule_in_words(rule: str, nearest: int) -> None:
    data = batch([oxide(), molecule("C6H6")])
    candidates = all_edges(data.pos, data.natoms, data.cell, data.pbc, 3.2)
    chosen = select_edges(candidates, len(data.pos), nearest, rule, capped=False)
    expected = sorted(brute_force(candidates, nearest, rule))
    torch.testing.assert_close(chosen.index, candidates.index[:, expected])
    torch.testing.assert_close(chosen.shift, candidates.shift[expected])


def test_mutual_edges_have_their_reverse_and_do_not_depend_on_the_order_of_edges() -> None:
    data = batch([oxide(0.0)])
    # All twelve nearest neighbours of one kind are at one distance.
    candidates = all_edges(data.pos, data.natoms, data.cell, data.pbc, 4.0)
    chosen = select_edges(candidates, 8, 9, "mutual", capped=False)
    forward = rows(chosen.index.numpy(), chosen.shift.numpy())
    backward = rows(chosen.index.flip(0).numpy(), -chosen.shift.numpy())
    assert forward == backward
    assert len(forward) < candidates.index.shape[1]
    mixed = torch.randperm(candidates.index.shape[1], generator=torch.Generator().manual_seed(0))
    again = select_edges(candidates[mixed], 8, 9, "mutual", capped=False)
    assert rows(again.index.numpy(), again.shift.numpy()) == forward


def test_graph_made_on_the_fly_has_the_nearest_of_each_target() -> None:
    data = batch([oxide()])
    network = model(TINY, max_num_neighbors=9)
    index, vectors = network.edges(data)
    assert torch.bincount(index[1]).tolist() == [9] * 8
    everything = all_edges(data.pos, data.natoms, data.cell, data.pbc, network.cutoff)
    for atom in range(8):
        distances = everything.vectors[everything.index[1] == atom].norm(dim=1)
        kept = vectors[index[1] == atom].norm(dim=1)
        torch.testing.assert_close(kept.sort().values, distances.sort().values[:9])


def test_stored_edges_give_the_same_network() -> None:
    structures = [oxide(), molecule("CH3OH")]
    network = model(TINY)
    graph = (network.cutoff, network.max_neighbors)
    fly = network(batch(structures))
    network.otf_graph = False
    stored = network(batch(structures, graph=graph))
    for key in fly:
        torch.testing.assert_close(stored[key], fly[key], rtol=1e-11, atol=1e-12)
    # Without stored edges they are made.
    torch.testing.assert_close(network(batch(structures))["energy"], fly["energy"])


def test_mutual_selection_asks_for_all_candidates() -> None:
    assert model(TINY).max_neighbors == TINY["max_num_neighbors"]
    network = model(TINY, edge_selection="mutual", max_num_neighbors=9)
    assert network.max_neighbors == 0
    fly = network.edges(batch([oxide()]))[0]
    network.otf_graph = False
    stored = network.edges(batch([oxide()], graph=(network.cutoff, 0)))[0]
    assert sorted(fly.T.tolist()) == sorted(stored.T.tolist())


@pytest.mark.parametrize("rule", ["published", "mutual"])
@pytest.mark.parametrize("stored", [True, False])
def test_displaced_copies_have_the_edges_of_the_clean_structure(rule: str, stored: bool) -> None:
    network = model(TINY, edge_selection=rule, max_num_neighbors=5, otf_graph=not stored)
    data = batch([oxide(), molecule("CH3OH")], graph=(network.cutoff, 0) if stored else None)
    move = 0.3 * torch.randn(data.pos.shape, generator=torch.Generator().manual_seed(0)).double()
    index, clean = network.edges(data)
    displaced = data.clone()
    displaced.pos = data.pos + move
    assert network.edges(displaced)[0].tolist() != index.tolist()
    both, vectors = network.edges(concatenate_copies(data, [move]))
    assert torch.equal(both[:, : len(index.T)], index)
    assert torch.equal(both[:, len(index.T) :], index + len(data.pos))
    expected = clean + move[index[0]] - move[index[1]]
    torch.testing.assert_close(vectors, torch.cat([clean, expected]), rtol=0, atol=1e-12)
    alone = network.edges(with_positions(data, data.pos + move))
    assert torch.equal(alone[0], index)
    torch.testing.assert_close(alone[1], expected, rtol=0, atol=1e-12)


def test_ties_at_the_limit_are_those_of_the_stored_edges_in_single_precision() -> None:
    """The limit cuts through the shells of a perfect crystal."""
    atoms = oxide(0.0)
    network = model(TINY, torch.float32, max_num_neighbors=9)
    fly = network.edges(batch([atoms], torch.float32))[0]
    network.otf_graph = False
    stored = network.edges(batch([atoms], torch.float32, graph=(network.cutoff, 9)))[0]
    assert sorted(fly.T.tolist()) == sorted(stored.T.tolist())


def test_two_atoms_at_one_point_share_no_edge() -> None:
    atoms = Atoms("OHH", [(0, 0, 0), (0, 0, 0), (0.9, 0.1, 0.2)])
    network = model(TINY, otf_graph=False)
    index = torch.tensor([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]])
    stored = batch([atoms], edge_index=index, cell_offsets=torch.zeros(6, 3))
    for data in (stored, batch([atoms])):
        index, _ = network.edges(data)
        assert sorted(index.T.tolist()) == [[0, 2], [1, 2], [2, 0], [2, 1]]
        results = network(data)
        assert torch.isfinite(results["energy"]).all()
        assert torch.isfinite(results["forces"]).all()
