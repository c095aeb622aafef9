"""SchNet with the gradient of its energy or with direct forces, on the edges of the batch."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import math
from typing import Any

import torch
from fairchem.core.models.base import GraphData
from fairchem.core.models.schnet import SchNetWrap
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn.models.schnet import ShiftedSoftplus

from piwsl_ocp.models.edges import EdgeGraph
from piwsl_ocp.models.gradient_forces import EnergyModel, checked_choice, options_of


class PairForces(nn.Module):
    """Direct forces on atoms whose features are scalars: sums of central forces of their pairs.

    F_i = sum_j f(x_i, x_j, d_ij) (r_i - r_j) / d_ij, with f = f(x_j, x_i, d_ij) a small network of
    (A x_i) * (A x_j) * W(d_ij), brought to 0 at the cutoff by the cosine envelope of SchNet. A
    positive f repels. Where every edge has its reverse, no net force and no torque is left; the
    forces turn with the structure. They are not the gradient of the energy.

    Args:
        hidden_channels: size of the features x.
        num_filters: size of the products.
        num_gaussians: size of the radial basis.
        cutoff: in Angstrom.
    """

    def __init__(
        self, hidden_channels: int, num_filters: int, num_gaussians: int, cutoff: float
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.atoms = nn.Linear(hidden_channels, num_filters, bias=False)
        self.filters = nn.Sequential(
            nn.Linear(num_gaussians, num_filters),
            ShiftedSoftplus(),
            nn.Linear(num_filters, num_filters),
        )
        self.strength = nn.Sequential(
            nn.Linear(num_filters, num_filters // 2),
            ShiftedSoftplus(),
            nn.Linear(num_filters // 2, 1),
        )

    def forward(
        self,
        features: Float[Tensor, "atoms hidden"],
        graph: GraphData,
        basis: Float[Tensor, "edges gaussians"],
    ) -> Float[Tensor, "atoms 3"]:
        """Return the forces (N, 3), in the model's energy unit per Angstrom."""
        source, target = graph.edge_index
        lengths = graph.edge_distance
        ends = self.atoms(features)
        pairs = self.strength(ends[source] * ends[target] * self.filters(basis))
        envelope = 0.5 * (torch.cos(lengths * (math.pi / self.cutoff)) + 1)
        away = -graph.edge_distance_vec / lengths[:, None]
        on_target = pairs * envelope[:, None] * away
        return on_target.new_zeros(len(features), 3).index_add(0, target, on_target)


class SchNet(EnergyModel, EdgeGraph, SchNetWrap):
    """fairchem's SchNet (arXiv 1706.08566) with the forces F = -dE/dr, or with direct forces.

    fairchem marks the positions of the batch as differentiable in place; and without periodic
    boundaries it builds edges of its own, so that displaced copies may get other edges. Direct
    forces are an addition of this package (see `PairForces`); SchNet as published has none.

    Args:
        forces: `gradient` or `direct`.
        regress_forces: False: energies alone.
        options: of fairchem's model.
    """

    FORCE_HEAD = "out_forces"

    @options_of(SchNetWrap)
    def __init__(
        self, *, forces: str = "gradient", regress_forces: bool = True, **options: Any
    ) -> None:
        checked_choice("forces", forces, self.FORCES)
        super().__init__(regress_forces=regress_forces, **options)
        self.forces = forces if regress_forces else "none"
        if self.forces == "direct":
            self.out_forces = PairForces(
                self.hidden_channels, self.num_filters, self.num_gaussians, self.cutoff
            )

    def predict(self, data: Batch) -> dict[str, Tensor]:
        """Return `energy` (B, 1), and `forces` (N, 3) where they are direct."""
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
        outputs = {"energy": energy[:, None]}
        if self.forces == "direct":
            outputs["forces"] = self.out_forces(features, graph, basis)
        return outputs
