"""EquiformerV2 with direct forces or with the gradient of its energy, and repeatable draws."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from typing import Any

from fairchem.core.models.base import GraphData
from fairchem.core.models.equiformer_v2 import equiformer_v2_deprecated as fairchem
from fairchem.core.models.equiformer_v2.so3 import CoefficientMappingModule, SO3_Rotation
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.models.draws import KeyedDropout
from piwsl_ocp.models.edge_frames import FRAMES, wigner_matrices
from piwsl_ocp.models.gradient_forces import checked_choice, options_of
from piwsl_ocp.models.rotated_edges import RotatedEdges


class EquiformerV2(RotatedEdges, fairchem.EquiformerV2):
    """fairchem's EquiformerV2 (arXiv 2306.12059), repeatable, with forces F = -dE/dr.

    fairchem turns every edge frame by an angle that is drawn anew in every pass, keeps the frames
    out of the gradient, and draws dropout by the place in the batch. Here all draws follow the
    structure, so that displaced copies meet the same.

    Args:
        forces: `direct`, `gradient`, or `gradient_detached`: the gradient with frames held fast,
            as fairchem's own frames give it, which is not that of the energy.
        frames: `fixed`, or `random` in training (drawn once for all copies of a structure).
        regress_forces: False: energies alone.
        options: of fairchem's model.
    """

    @options_of(fairchem.EquiformerV2)
    def __init__(
        self,
        *,
        forces: str = "direct",
        frames: str = "fixed",
        regress_forces: bool = True,
        **options: Any,
    ) -> None:
        forces = checked_choice("forces", forces, self.FORCES)
        frames = checked_choice("frames", frames, FRAMES)
        super().__init__(regress_forces=regress_forces and forces == "direct", **options)
        self.choose(forces if regress_forces else "none", frames)
        # The blocks share this list.
        for number, lmax in enumerate(self.lmax_list):
            self.SO3_rotation[number] = EdgeRotation(lmax)
        self._key_dropout()

    def predict(self, data: Batch) -> dict[str, Tensor]:
        """Return `energy` (B,), and `forces` (N, 3) where they are direct."""
        with self.one_pass(data) as graph:
            self._graph = graph
            try:
                return fairchem.EquiformerV2.forward(self, data)
            finally:
                self._graph = None
                for rotation in self.SO3_rotation:
                    rotation.clear()

    def generate_graph(self, data: Batch, **options: Any) -> GraphData:
        """Return the graph of the pass, which is built once."""
        return self._graph or super().generate_graph(data, **options)

    def drop_tables(self) -> None:
        """Empty the caches of fairchem's index tables."""
        for mapping in self.modules():
            if isinstance(mapping, CoefficientMappingModule):
                mapping.lmax_cache = mapping.mmax_cache = None
                mapping.mask_indices_cache = mapping.rotate_inv_rescale_cache = None

    #: Graph of the pass under way.
    _graph: GraphData | None = None

    def _key_dropout(self) -> None:
        """Replace fairchem's dropout by draws that follow edges, structures and atoms."""
        for block in self.blocks:
            if block.ga.alpha_dropout is not None:
                block.ga.alpha_dropout = KeyedDropout(self.alpha_drop, "edge", self.draws)
            if block.drop_path is not None:
                block.drop_path = KeyedDropout(
                    self.drop_path_rate, "structure", self.draws, shared=(1, 2)
                )
            if block.proj_drop is not None:
                block.proj_drop = KeyedDropout(self.proj_drop, "atom", self.draws, shared=(1,))


class EdgeRotation(SO3_Rotation):
    """fairchem's rotation into the frames of the edges, differentiable through the frames."""

    def set_wigner(self, rotations: Float[Tensor, "edges 3 3"]) -> None:
        """Take the frames of one pass."""
        self.wigner = wigner_matrices(rotations, self.lmax)
        self.wigner_inv = self.wigner.transpose(1, 2)

    def clear(self) -> None:
        """Let go of the matrices and the graph behind them."""
        self.wigner = self.wigner_inv = None
