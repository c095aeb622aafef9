"""The neighbour list equals fairchem's, edge for edge."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)
from piwsl_ocp.compat.radius import radius_graph

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.geometry import wrap_positions
from fairchem.core.common.utils import radius_graph_pbc
from hypothesis import given
from scipy.spatial.transform import Rotation
from torch_geometric.data import Batch, Data

from piwsl_ocp.datasets.neighbours import edges

MOLECULE_CELL = np.zeros((3, 3))
MOLECULE_PBC = np.zeros(3, dtype=bool)
TRICLINIC = np.array([[5.1, 0.3, -0.2], [-1.4, 4.3, 0.1], [0.7, -0.9, 3.6]])


def fairchem_edges(positions, cell, pbc, cutoff, max_neighbors):
    """Return fairchem's edges as a set; complete for atoms inside the cell only."""
    data = Data(
        pos=torch.tensor(positions, dtype=torch.float32),
        cell=torch.tensor(cell, dtype=torch.float32)[None],
        pbc=torch.tensor(pbc)[None],
        natoms=len(positions),
    )
    edge_index, offsets, _ = radius_graph_pbc(
        Batch.from_data_list([data]), cutoff, max_neighbors, enforce_max_neighbors_strictly=True
    )
    return as_set(edge_index.numpy(), offsets.numpy())


def as_set(edge_index, offsets):
    """Return edges as a set of (source, target, offset)."""
    return {
        (int(j), int(i), *(int(number) for number in offset))
        for (j, i), offset in zip(edge_index.T, offsets, strict=True)
    }


def edge_vectors(positions, cell, edge_index, offsets):
    """Return the (E, 3) vectors from the target to the source."""
    return positions[edge_index[0]] - positions[edge_index[1]] + offsets @ cell


def random_structure(seed: int, atoms: int, spread: float = 6.0) -> np.ndarray:
    """Return float32-representable positions, some of them outside a cell at the origin."""
    draw = np.random.default_rng(seed).uniform(-spread, spread, (atoms, 3))
    return draw.astype(np.float32).astype(np.float64)


def inside(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return float32-representable positions moved into the cell by whole cell vectors."""
    wrapped = wrap_positions(positions, cell, pbc=True, eps=0)
    return wrapped.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("max_neighbors", [50, 7])
@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "H2O"])
def test_molecule_equals_fairchem(name, max_neighbors):
    positions = molecule(name).positions + random_structure(1, len(molecule(name)), 0.05)
    ours = edges(positions, MOLECULE_CELL, MOLECULE_PBC, 4.0, max_neighbors)
    assert len(ours[0][0]) > 0
    assert as_set(*ours) == fairchem_edges(
        positions, MOLECULE_CELL, MOLECULE_PBC, 4.0, max_neighbors
    )


@pytest.mark.parametrize("max_neighbors", [1000, 20, 3])
@pytest.mark.parametrize("cutoff", [3.0, 6.5])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True)])
def test_triclinic_cell_equals_fairchem(pbc, cutoff, max_neighbors):
    positions = inside(random_structure(2, 8), TRICLINIC)
    ours = edges(positions, TRICLINIC, np.array(pbc), cutoff, max_neighbors)
    assert as_set(*ours) == fairchem_edges(positions, TRICLINIC, pbc, cutoff, max_neighbors)


def test_real_oxide_equals_fairchem(shared_data):
    from piwsl_ocp.datasets.sources import SOURCES

    archive = shared_data / "tio2" / "tio2_subset1000_xsf.tar.gz"
    seen = 0
    for number, atoms in enumerate(SOURCES["tio2"].read([archive])):
        if number % 20:
            continue
        cell = np.asarray(atoms.cell).astype(np.float32).astype(np.float64)
        positions = inside(atoms.positions, cell)
        edge_index, offsets = edges(positions, cell, atoms.pbc, 5.0)
        lengths = np.linalg.norm(edge_vectors(positions, cell, edge_index, offsets), axis=1)
        if np.min(np.abs(lengths - 5.0)) < 1e-5:
            continue  # an edge on the cutoff itself is a tie of rounding
        theirs = fairchem_edges(positions, cell, atoms.pbc, 5.0, 10_000)
        assert as_set(edge_index, offsets) == theirs
        seen += 1
        if seen == 5:
            break
    assert seen == 5


@given(seed=st.integers(0, 10_000), atoms=st.integers(1, 9), limit=st.integers(1, 12))
def test_edges_are_sorted_limited_and_nearest(seed, atoms, limit):
    positions = random_structure(seed, atoms)
    pbc = np.ones(3, dtype=bool)
    every = edges(positions, TRICLINIC, pbc, 6.0)
    kept = edges(positions, TRICLINIC, pbc, 6.0, limit)
    assert as_set(*kept) <= as_set(*every)
    all_lengths = np.linalg.norm(edge_vectors(positions, TRICLINIC, *every), axis=1)
    lengths = np.linalg.norm(edge_vectors(positions, TRICLINIC, *kept), axis=1)
    assert np.all(np.diff(kept[0][1]) >= 0)
    for atom in range(atoms):
        near = lengths[kept[0][1] == atom]
        expected = np.sort(all_lengths[every[0][1] == atom])[:limit]
        np.testing.assert_allclose(near, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [3, 9, 21])
def test_rounding_does_not_choose_among_equal_distances(limit):
    crystal = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    expected = edges(crystal.positions, crystal.cell.array, crystal.pbc, 5.0, limit)
    for seed in range(5):
        turn = Rotation.random(random_state=seed).as_matrix()
        noise = 1e-9 * random_structure(seed, len(crystal), 1.0)
        positions = (crystal.positions + noise) @ turn.T + [0.7, -1.3, 2.9]
        found = edges(positions, crystal.cell.array @ turn.T, crystal.pbc, 5.0, limit)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_graphs_made_on_the_fly_rank_alike():
    ring = [[np.cos(angle), np.sin(angle), 0] for angle in np.arange(12) * np.pi / 6]
    for seed in range(5):
        turn = Rotation.random(random_state=seed).as_matrix()
        points = (1.7 * np.array([[0, 0, 0], *ring]) @ turn.T).astype(np.float32)
        stored, _ = edges(points, MOLECULE_CELL, MOLECULE_PBC, 3.0, 7)
        found = radius_graph(torch.as_tensor(points), 3.0, max_num_neighbors=7)
        np.testing.assert_array_equal(found.numpy(), stored)


def test_a_direction_without_a_cell_vector_is_not_periodic():
    positions = molecule("H2O").positions
    found = edges(positions, MOLECULE_CELL, np.ones(3, dtype=bool), 4.0)
    np.testing.assert_array_equal(found[0], edges(positions, MOLECULE_CELL, MOLECULE_PBC, 4.0)[0])
    assert not found[1].any()


@given(seed=st.integers(0, 10_000))
def test_moving_an_atom_by_a_cell_vector_changes_no_edge_vector(seed):
    positions = random_structure(seed, 5)
    moved = positions + np.eye(5)[:, [seed % 5]] * TRICLINIC[seed % 3]
    pbc = np.ones(3, dtype=bool)
    first = edge_vectors(positions, TRICLINIC, *edges(positions, TRICLINIC, pbc, 5.0))
    second = edge_vectors(moved, TRICLINIC, *edges(moved, TRICLINIC, pbc, 5.0))
    order = [np.lexsort(np.round(vectors, 6).T) for vectors in (first, second)]
    np.testing.assert_allclose(first[order[0]], second[order[1]], rtol=0, atol=1e-9)


def test_one_atom_has_its_images_only():
    one = np.array([[9.0, -3.0, 0.5]])
    none = edges(one, MOLECULE_CELL, MOLECULE_PBC, 5.0)
    assert none[0].shape == (2, 0)
    assert none[1].shape == (0, 3)
    images = edges(one, 4.0 * np.eye(3), np.ones(3, dtype=bool), 4.1)
    assert images[0].shape == (2, 6)
    assert np.all(images[0] == 0)


def test_types_are_those_a_model_reads():
    edge_index, offsets = edges(random_structure(3, 4), TRICLINIC, np.ones(3, dtype=bool), 4.0)
    assert edge_index.dtype == np.int64
    assert offsets.dtype == np.float32


def test_atoms_on_one_point_are_no_edge():
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.001], [0.0, 0.0, 1.0]])
    edge_index, _ = edges(positions, MOLECULE_CELL, MOLECULE_PBC, 2.0)
    assert sorted(map(tuple, edge_index.T.tolist())) == [(0, 2), (1, 2), (2, 0), (2, 1)]
