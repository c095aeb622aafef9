"""PaiNN with direct forces or with the gradient of its energy, for structures of any kind."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from typing import Any

import torch
from fairchem.core.models import painn as fairchem
from fairchem.core.models.base import GraphData
from jaxtyping import Bool
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.models.edges import EdgeGraph
from piwsl_ocp.models.gradient_forces import EnergyModel, checked_choice, options_of


class PaiNN(EnergyModel, EdgeGraph, fairchem.PaiNN):
    """fairchem's PaiNN (arXiv 2102.03150) whose gradient forces are F = -dE/dr.

    fairchem's own `direct_forces: false` differentiates the sum of the last node features, not
    the energy. Structures without an edge are allowed here.

    Args:
        forces: `direct` or `gradient`; None: as `direct_forces` says.
        direct_forces: fairchem's word for the same choice.
        regress_forces: False: energies alone.
        options: of fairchem's model.
    """

    FORCE_HEAD = "out_forces"

    @options_of(fairchem.PaiNN)
    def __init__(
        self,
        *,
        forces: str | None = None,
        direct_forces: bool = True,
        regress_forces: bool = True,
        **options: Any,
    ) -> None:
        if forces is None:
            forces = "direct" if direct_forces else "gradient"
        forces = checked_choice("forces", forces, self.FORCES)
        super().__init__(regress_forces=regress_forces, direct_forces=forces == "direct", **options)
        self.forces = forces if regress_forces else "none"

    def predict(self, data: Batch) -> dict[str, Tensor]:
        """Return `energy` (B,), and `forces` (N, 3) where they are direct."""
        edge_index, lengths, directions = _both_ways(self.generate_graph(data))
        basis = self.radial_basis(lengths)
        scalars = self.atom_emb(data.atomic_numbers.long())
        vectors = scalars.new_zeros(len(scalars), 3, scalars.shape[1])
        layers = zip(self.message_layers, self.update_layers, strict=True)
        for number, (message, update) in enumerate(layers):
            change, turn = message(scalars, vectors, edge_index, basis, directions)
            scalars, vectors = (scalars + change) * self.inv_sqrt_2, vectors + turn
            change, turn = update(scalars, vectors)
            scalars, vectors = scalars + change, vectors + turn
            scalars = getattr(self, f"upd_out_scalar_scale_{number}")(scalars)
        of_atoms = self.out_energy(scalars)[:, 0]
        energy = of_atoms.new_zeros(data.natoms.numel()).index_add(0, data.batch, of_atoms)
        outputs = {"energy": energy}
        if self.forces == "direct":
            outputs["forces"] = self.out_forces(scalars, vectors).reshape(-1, 3)
        return outputs


def _both_ways(graph: GraphData) -> tuple[Tensor, Tensor, Tensor]:
    """Return edges, lengths and directions of one edge of every pair and its reverse.

    A limit on the number of neighbours leaves edges without their reverse; as in fairchem, the
    edges from the atom with the smaller number count.
    """
    source, target = graph.edge_index
    kept = (source < target) | ((source == target) & _to_an_earlier_cell(graph.cell_offsets))
    forth, length = graph.edge_index[:, kept], graph.edge_distance[kept]
    direction = graph.edge_distance_vec[kept] / length[:, None]
    return (
        torch.cat([forth, forth.flip(0)], dim=1),
        torch.cat([length, length]),
        torch.cat([direction, -direction]),
    )


def _to_an_earlier_cell(offsets: Tensor) -> Bool[Tensor, " edges"]:
    """Tell one of two opposite offsets from the other: the first that is not 0 is negative."""
    a, b, c = offsets.unbind(dim=1)
    return (a < 0) | ((a == 0) & ((b < 0) | ((b == 0) & (c < 0))))
