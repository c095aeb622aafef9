"""Structures of ASE as records of fairchem."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import numpy as np
from ase.build import bulk
from scipy.spatial.transform import Rotation

from piwsl_ocp.ocp.predictor import graph_data

#: Cuts through the shell of twelve neighbours of the same element in rock salt.
MAX_NEIGHBORS = 9


def test_a_graph_is_that_of_the_rounded_positions_of_a_record() -> None:
    for seed in range(10):
        crystal = bulk("MgO", "rocksalt", a=4.21, cubic=True)
        turn = Rotation.random(random_state=seed).as_matrix()
        crystal.set_cell(crystal.cell.array @ turn.T, scale_atoms=True)
        graph = graph_data(crystal, 0, 5.0, MAX_NEIGHBORS)

        stored = crystal.copy()
        stored.set_cell(graph.cell[0].double().numpy())
        stored.set_positions(graph.pos.double().numpy())
        again = graph_data(stored, 0, 5.0, MAX_NEIGHBORS)
        np.testing.assert_array_equal(graph.edge_index, again.edge_index)
        np.testing.assert_array_equal(graph.cell_offsets, again.cell_offsets)
