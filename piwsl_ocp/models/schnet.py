"""SchNet whose forces leave the batch as it was and whose edges are those of the batch."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from typing import Any

from fairchem.core.models.schnet import SchNetWrap
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.models.edges import EdgeGraph
from piwsl_ocp.models.gradient_forces import EnergyModel, checked_choice, options_of


class SchNet(EnergyModel, EdgeGraph, SchNetWrap):
    """fairchem's SchNet (arXiv 1706.08566) with the forces F = -dE/dr.

    fairchem marks the positions of the batch as differentiable in place; and without periodic
    boundaries it builds edges of its own, so that displaced copies may get other edges.

    Args:
        forces: `gradient`; SchNet has no other.
        regress_forces: False: energies alone.
        options: of fairchem's model.
    """

    FORCES = ("gradient",)

    @options_of(SchNetWrap)
    def __init__(
        self, *, forces: str = "gradient", regress_forces: bool = True, **options: Any
    ) -> None:
        checked_choice("forces", forces, self.FORCES)
        super().__init__(regress_forces=regress_forces, **options)
        self.forces = forces if regress_forces else "none"

    def predict(self, data: Batch) -> dict[str, Tensor]:
        """Return `energy` (B, 1)."""
        graph = self.generate_graph(data)
        basis = self.distance_expansion(graph.edge_distance)
        features = self.embedding(data.atomic_numbers.long())
        for interaction in self.interactions:
            features = features + interaction(
                features, graph.edge_index, graph.edge_distance, basis
            )
        of_atoms = self.lin2(self.act(self.lin1(features)))[:, 0]
        energy = of_atoms.new_zeros(data.natoms.numel()).scatter_reduce(
            0, data.batch, of_atoms, reduce=self.reduce, include_self=False
        )
        return {"energy": energy[:, None]}
