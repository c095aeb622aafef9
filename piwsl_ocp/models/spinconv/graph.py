"""Edges of SpinConv: candidates within the cutoff, selection of the nearest, in-edges of atoms.

Edge e joins source s = `edge_index[0, e]` to target t = `edge_index[1, e]` along
v_e = r_s + shift_e . cell - r_t. Every function works for a batch of structures at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from piwsl_ocp.datasets.neighbours import RANK_RESOLUTION_ANGSTROM
from piwsl_ocp.datasets.neighbours import edges as neighbour_list

#: Which edges outlive the cap on neighbours; see `select_edges`.
EDGE_SELECTIONS = ("published", "mutual")


class Edges(NamedTuple):
    """Directed edges of a batch.

    Args:
        index: source and target atom, (2, E).
        shift: periodic image of the source, (E, 3) whole numbers.
        vectors: from target to source, (E, 3) in Angstrom.
    """

    index: Int[Tensor, "2 edges"]
    shift: Int[Tensor, "edges 3"]
    vectors: Float[Tensor, "edges 3"]

    def __getitem__(self, keep: Tensor) -> Edges:
        return Edges(self.index[:, keep], self.shift[keep], self.vectors[keep])


def edge_vectors(
    positions: Float[Tensor, "atoms 3"],
    edge_index: Int[Tensor, "2 edges"],
    shift: Tensor | None = None,
    cells: Float[Tensor, "atoms 3 3"] | None = None,
) -> Float[Tensor, "edges 3"]:
    """Return v_e = r_s + shift_e . cell - r_t in the dtype of the positions.

    Args:
        positions: r, Angstrom.
        edge_index: s and t of every edge.
        shift: image of the source, (E, 3); None without periodicity.
        cells: cell of every atom's structure, one vector a row.
    """
    source, target = edge_index
    vectors = positions[source] - positions[target]
    if shift is None or cells is None:
        return vectors
    lattice = cells[target].to(vectors.dtype) * shift.to(vectors.dtype)[:, :, None]
    return vectors + lattice.sum(dim=1)


def all_edges(
    positions: Float[Tensor, "atoms 3"],
    atoms_per_structure: Int[Tensor, " structures"],
    cells: Float[Tensor, "structures 3 3"] | None,
    periodic: Bool[Tensor, "structures 3"] | None,
    cutoff: float,
) -> Edges:
    """Return every edge with 0.01 <= d_e <= cutoff, ordered by target, then distance.

    The search runs structure after structure on the CPU, in time and memory of the order of the
    edges; atoms may lie outside the cell.

    Args:
        positions: (N, 3) Angstrom.
        atoms_per_structure: (B,).
        cells: Angstrom, one vector a row; rows of zeros are not periodic. None: no periodicity.
        periodic: directions in which a structure repeats; None: all with a cell vector.
        cutoff: largest distance, Angstrom.
    """
    structures = atoms_per_structure.numel()
    if cells is None:
        cells = positions.new_zeros(structures, 3, 3)
    if periodic is None:
        periodic = torch.ones(structures, 3, dtype=torch.bool)
    first = atoms_per_structure.cumsum(0) - atoms_per_structure
    found = [
        neighbour_list(points.numpy(), cell.numpy(), pbc.numpy(), cutoff)
        for points, cell, pbc in zip(
            positions.detach().cpu().split(atoms_per_structure.tolist()),
            cells.detach().cpu(),
            periodic.cpu(),
            strict=True,
        )
    ]
    index = [torch.as_tensor(i) + n for (i, _), n in zip(found, first.tolist(), strict=True)]
    shift = [torch.as_tensor(offsets).long() for _, offsets in found]
    index = torch.cat([torch.empty(2, 0).long(), *index], dim=1).to(positions.device)
    shift = torch.cat([torch.empty(0, 3).long(), *shift]).to(positions.device)
    structure = torch.repeat_interleave(atoms_per_structure)
    return Edges(index, shift, edge_vectors(positions, index, shift, cells[structure]))


def select_edges(edges: Edges, atoms: int, nearest: int, rule: str, capped: bool) -> Edges:
    """Keep the edges that are among the `nearest` of one of their two ends.

    For each target the k nearest candidates are noted; ranks are by distance in steps of 1e-6
    Angstrom, then source, then image. "published" keeps every candidate that joins the same two
    atoms as a noted one, whatever its image. "mutual" keeps a candidate if it or its reverse, in
    the same image, is noted.

    Args:
        edges: the candidates.
        atoms: N.
        nearest: k.
        rule: "published" or "mutual".
        capped: candidates of the published rule are first cut to the k nearest of each target, as
            graphs made on the fly are; reverse edges can then be missing.
    """
    counts = torch.bincount(edges.index[1], minlength=atoms)
    if not bool((counts > nearest).any()):
        return edges
    near = _rank(edges, counts) < nearest
    if rule == "published" and capped:
        return edges[near]
    joined = _undirected(edges, with_image=rule == "mutual")
    _, label = torch.unique(joined, dim=0, return_inverse=True)
    noted = torch.zeros(label.numel(), dtype=torch.bool, device=label.device)
    noted[label[near]] = True
    return edges[noted[label]]


def pairs_by_centre(
    centre: Int[Tensor, " owners"], membership: Int[Tensor, " members"], centres: int
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Return every (owner, member) with centre[owner] == membership[member], ordered by owner.

    Args:
        centre: a number below `centres` for every owner.
        membership: a number below `centres` for every member.
        centres: how many numbers there are.
    """
    order = torch.argsort(membership, stable=True)
    counts = torch.bincount(membership, minlength=centres)
    first = counts.cumsum(0) - counts
    members = counts[centre]
    owner = torch.repeat_interleave(members)
    place = torch.arange(owner.numel(), device=owner.device)
    place = place - (members.cumsum(0) - members)[owner]
    return owner, order[first[centre[owner]] + place]


def _rank(edges: Edges, counts: Tensor) -> Int[Tensor, " edges"]:
    """Return the place of every edge among the edges of its target, nearest first."""
    source, target = edges.index
    distance = torch.round(edges.vectors.norm(dim=1).double() / RANK_RESOLUTION_ANGSTROM).long()
    order = torch.arange(target.numel(), device=target.device)
    for key in (*edges.shift.flip(1).unbind(dim=1), source, distance, target):
        order = order[torch.argsort(key[order], stable=True)]
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel(), device=order.device) - first[target[order]]
    return rank


def _undirected(edges: Edges, with_image: bool) -> Int[Tensor, "edges columns"]:
    """Return whole numbers that are equal for the two directions of an edge."""
    source, target = edges.index
    joined = torch.stack([torch.minimum(source, target), torch.maximum(source, target)], dim=1)
    if not with_image:
        return joined
    x, y, z = edges.shift.sign().unbind(dim=1)
    # Seen from its first atom; an atom's own images are seen in the positive half of space.
    own = torch.where(x != 0, x, torch.where(y != 0, y, z))
    sign = torch.where(source == target, own, (target - source).sign())
    return torch.cat([joined, edges.shift * sign[:, None]], dim=1)
