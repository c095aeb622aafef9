"""Structures of ASE as records of fairchem."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.predictor import Predictor, graph_data

PAINN = {"hidden_channels": 16, "num_layers": 2, "num_rbf": 16, "otf_graph": False}

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


def test_fairchems_painn_refuses_a_structure_without_edges_and_ours_predicts_it() -> None:
    structures = [molecule("H2O"), Atoms("O")]
    stock = Predictor.untrained({"name": "painn", **PAINN})
    with pytest.raises(UserError, match=r"^structure 1 has no two atoms within the cutoff of 12 "):
        stock.predict_atoms(structures)
    with pytest.raises(UserError, match=r"^the structure has no two atoms within the cutoff"):
        stock.predict_atoms(structures[1:])
    ours = Predictor.untrained({"name": "piwsl_ocp.models.painn.PaiNN", **PAINN})
    assert ours.predict_atoms(structures)[1].energy.isfinite().all()


def test_a_cell_of_one_atom_is_predicted() -> None:
    copper = bulk("Cu", a=3.61)
    for name in ("painn", "piwsl_ocp.models.painn.PaiNN"):
        predictor = Predictor.untrained({"name": name, **PAINN})
        (one,) = predictor.predict_atoms([copper])
        assert one.forces.shape == (1, 3)
        assert one.forces.abs().max() < 1e-4  # float32: fairchem's PaiNN takes no other


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (Atoms(), "the structure has no atoms"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "positions or cell are not finite numbers"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.inf]]), "positions or cell are not finite numbers"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], pbc=True), "periodic, but its cell has no volume"),
    ],
)
def test_what_is_no_structure_is_refused(atoms: Atoms, said: str) -> None:
    predictor = Predictor.untrained({"name": "painn", **PAINN})
    with pytest.raises(UserError, match=said):
        predictor.predict_atoms([atoms])
