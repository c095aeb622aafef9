"""What eSCN and EquiformerV2 share: frames on edges, and draws that can be repeated."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fairchem.core.common import gp_utils
from fairchem.core.models.base import GraphData
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.errors import UserError
from piwsl_ocp.models.draws import Draws
from piwsl_ocp.models.edge_frames import edge_frames
from piwsl_ocp.models.edges import EdgeGraph, structure_name
from piwsl_ocp.models.gradient_forces import EnergyModel


class RotatedEdges(EnergyModel, EdgeGraph):
    """Puts frames and draws that follow the structures before a fairchem model."""

    FORCES = ("direct", "gradient", "gradient_detached")
    FORCE_HEAD = "force_block"

    def choose(self, forces: str, frames: str) -> None:
        """Set the kind of forces and frames; call it after the model is built."""
        self.forces, self.frames = forces, frames
        # fairchem keeps the graph of direct forces even in evaluation without this.
        self.direct_forces = forces == "direct"
        self.draws = Draws()

    @contextmanager
    def one_pass(self, data: Batch) -> Iterator[GraphData]:
        """Give the graph of a batch, and keep the draws of its structures for the moment.

        Raises:
            UserError: if no structure has an edge, or the graph is split over processes.
        """
        if gp_utils.initialized():
            raise UserError(f"{type(self).__name__} cannot split one graph: leave gp_gpus unset")
        graph = self.generate_graph(data)
        if graph.edge_index.shape[1] == 0:
            raise UserError(
                f"{structure_name(data, 0)}: no atom has a neighbour within {self.cutoff} Angstrom "
                f"and the batch has no other edge: {type(self).__name__} needs one; "
                "raise the cutoff or leave the structure out"
            )
        self.draws.begin(data, graph, self.training)
        try:
            yield graph
        finally:
            self.draws.finish()

    def drop_tables(self) -> None:
        """Let go of constants that the next pass makes again, on the device of its batch."""
        raise NotImplementedError

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> RotatedEdges:
        """Drop what is neither a parameter nor a buffer when those move; PyTorch calls it then."""
        self.drop_tables()
        return super()._apply(function, recurse)

    def _init_edge_rot_mat(
        self, data: Batch, edge_index: Tensor, edge_distance_vec: Float[Tensor, "edges 3"]
    ) -> Float[Tensor, "edges 3 3"]:
        """Return the frames of the edges; fairchem calls it by this name."""
        random = self.frames == "random" and self.training
        frames = edge_frames(edge_distance_vec, self.draws.roll() if random else None)
        return frames if self.forces == "gradient" else frames.detach()
