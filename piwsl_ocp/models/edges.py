"""The edges of a batch as a model sees them, in the floating-point type of the positions."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from typing import Any

from fairchem.core.models.base import GraphData
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.errors import UserError

#: Atoms closer than this are on the same spot: the edge has no direction.
SAME_SPOT_ANGSTROM = 1e-4

#: Batch attribute with the positions (N, 3) that choose among edges where `pos` is displaced.
CLEAN_POSITIONS = "clean_pos"


def edge_vectors(
    data: Batch, edge_index: Int[Tensor, "2 edges"], cell_offsets: Float[Tensor, "edges 3"] | None
) -> Float[Tensor, "edges 3"]:
    """Return r_j + o C - r_i of every edge from atom j to atom i, in the type of the positions.

    Args:
        data: the structures, with positions (N, 3) and cells C (B, 3, 3), Angstrom.
        edge_index: sources j and targets i.
        cell_offsets: periodic image o of the source, or None for molecules.

    Returns:
        (E, 3) Angstrom, differentiable with respect to the positions.
    """
    source, target = edge_index
    vectors = data.pos[source] - data.pos[target]
    if cell_offsets is None:
        return vectors
    cells = data.cell.to(vectors).reshape(-1, 3, 3)[data.batch[target]]
    return vectors + (cell_offsets.to(vectors)[:, :, None] * cells).sum(dim=1)


class EdgeGraph:
    """Gives a fairchem model edge vectors that are as exact as the positions.

    fairchem rounds the offsets of periodic images to single precision, and drops edges without a
    length but not their offsets.
    """

    def generate_graph(self, data: Batch, **options: Any) -> GraphData:
        """Return fairchem's graph of a batch with vectors and lengths computed anew.

        Raises:
            UserError: if the two atoms of an edge are on the same spot, or stored edges are
                periodic and the model is not.
        """
        if not self.otf_graph:
            check_images(data, self.use_pbc)
        graph = super().generate_graph(data, **options)
        edge_index = graph.edge_index if self.otf_graph else data.edge_index
        offsets = graph.cell_offsets if self.use_pbc else None
        if offsets is not None and len(offsets) != edge_index.shape[1]:
            raise UserError("two atoms of a structure are on the same spot: check the positions")
        vectors = edge_vectors(data, edge_index, offsets)
        lengths = vectors.norm(dim=1)
        _check_lengths(data, edge_index, lengths)
        graph.edge_index, graph.edge_distance = edge_index, lengths
        graph.edge_distance_vec = vectors
        return graph


def check_images(data: Batch, use_pbc: bool) -> None:
    """Refuse stored edges to periodic images in a model without periodic boundaries.

    Raises:
        UserError: names the first structure with such an edge.
    """
    if use_pbc or "cell_offsets" not in data:
        return
    across = (data.cell_offsets != 0).any(dim=1)
    if across.any():
        structure = int(data.batch[data.edge_index[1, across][0]])
        raise UserError(
            f"{structure_name(data, structure)}: its stored edges reach periodic images, but "
            "model.use_pbc is false: set it to true, or store the structure without periodicity"
        )


def structure_name(data: Batch, structure: int) -> str:
    """Return how to call a structure of a batch in an error: its sid, or else its place."""
    if "sid" in data:
        return f"structure sid {_plain(data.sid[structure])}"
    return f"structure {structure} of the batch"


def _plain(value: object) -> object:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _check_lengths(data: Batch, edge_index: Tensor, lengths: Tensor) -> None:
    short = lengths.detach() < SAME_SPOT_ANGSTROM
    if not short.any():
        return
    source, target = edge_index[:, short][:, 0].tolist()
    structure = int(data.batch[target])
    first = int((data.batch < structure).sum())
    raise UserError(
        f"{structure_name(data, structure)}: atoms {source - first} and {target - first} are on "
        "the same spot: check its positions and cell"
    )
