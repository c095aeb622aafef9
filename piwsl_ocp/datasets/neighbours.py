"""Neighbour lists of one structure, molecule or periodic cell, nearest neighbours first."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from vesin import NeighborList

#: Two points closer than this are one atom: such a pair is no edge (fairchem does the same).
SAME_POINT_ANGSTROM = 0.01
#: Distances are ranked in steps of this size, so that rounding does not choose among neighbours.
RANK_RESOLUTION_ANGSTROM = 1e-6


def lacks_cell(atoms: Atoms) -> bool:
    """Return whether a periodic structure has no vector, or no volume, in periodic directions."""
    periodic = atoms.cell[atoms.pbc]
    return len(periodic) > 0 and bool(np.linalg.matrix_rank(periodic) < len(periodic))


def edges(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    cutoff_angstrom: float,
    max_neighbors: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return every pair of atoms within the cutoff, at most `max_neighbors` nearest per atom.

    Edge e points from atom j = `edge_index[0, e]` to atom i = `edge_index[1, e]` along
    `positions[j] + cell_offsets[e] @ cell - positions[i]`. Edges are sorted by i, then distance
    in steps of 1e-6 Angstrom, then j and offset. An atom may lie outside the cell, and may be its
    own neighbour through the cell's images.

    Args:
        positions: (N, 3) Angstrom.
        cell: (3, 3) Angstrom, one vector a row; a direction with zeros is not periodic.
        pbc: (3,) bool, the periodic directions.
        cutoff_angstrom: largest distance of an edge.
        max_neighbors: largest number of edges that end at one atom; None or 0: no limit.

    Returns:
        edge_index (2, E) int64 and cell_offsets (E, 3) float32.
    """
    points = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    box = np.asarray(cell, dtype=np.float64).reshape(3, 3)
    periodic = np.asarray(pbc, dtype=bool).reshape(3) & box.any(axis=1)
    search = NeighborList(cutoff=float(cutoff_angstrom), full_list=True, n_threads=1)
    centre, neighbour, shift, distance = search.compute(
        points, complete_cell(box), periodic, "ijSd"
    )

    real = distance > SAME_POINT_ANGSTROM
    centre, neighbour, distance = centre[real], neighbour[real], distance[real]
    shift = shift[real].astype(np.int64)
    steps = np.rint(distance / RANK_RESOLUTION_ANGSTROM).astype(np.int64)
    order = np.lexsort((*shift.T[::-1], neighbour, steps, centre))
    centre, neighbour, shift = centre[order], neighbour[order], shift[order]
    if max_neighbors is not None and max_neighbors > 0:
        first = np.searchsorted(centre, centre)
        near = np.arange(len(centre)) - first < max_neighbors
        centre, neighbour, shift = centre[near], neighbour[near], shift[near]
    edge_index = np.stack([neighbour, centre]).astype(np.int64)
    return edge_index, shift.astype(np.float32)
