"""Displaced copies of a batch that keep the clean structures' graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.models.edges import CLEAN_POSITIONS
from piwsl_ocp.models.noise import KEY_ATTRIBUTE

#: Attributes whose values number something that is counted through the whole batch.
_ATOM_NUMBERED = ("edge_index",)
_STRUCTURE_NUMBERED = ("batch",)


def concatenate_copies(batch: Batch, displacements: Sequence[Float[Tensor, "atoms 3"]]) -> Batch:
    """Return one batch that holds the clean structures and then every displaced copy of them.

    Edges and cell offsets are those of the clean structures in every copy, so that only distances
    change and no edge comes or goes; a model that chooses among them does so by the clean
    positions. The given batch is not changed.

    Args:
        batch: B structures with N atoms.
        displacements: the displacement of each copy, (N, 3) in Angstrom.

    Returns:
        A batch of (1 + copies) B structures.
    """
    copies = 1 + len(displacements)
    atoms, structures = batch.pos.shape[0], batch.natoms.numel()
    fields = {
        key: _repeat(key, value, copies, atoms, structures)
        for key, value in batch
        if key not in ("pos", "ptr")
    }
    positions = batch.pos.detach()
    moved = [positions + displacement.to(positions) for displacement in displacements]
    fields["pos"] = torch.cat([positions, *moved])
    fields.setdefault(CLEAN_POSITIONS, positions.repeat(copies, 1))
    return Batch(**fields)


def with_noise_keys(batch: Batch, keys: Int[Tensor, " structures"]) -> Batch:
    """Return the same batch with the keys of its models' random draws; see `models.noise`."""
    keyed = copy.copy(batch)
    keyed[KEY_ATTRIBUTE] = keys
    return keyed


def with_positions(batch: Batch, positions: Float[Tensor, "atoms 3"]) -> Batch:
    """Return the same structures and edges at other positions; the given batch is not changed."""
    moved = copy.copy(batch)
    if CLEAN_POSITIONS not in batch:
        moved[CLEAN_POSITIONS] = batch.pos.detach()
    moved.pos = positions.to(batch.pos).clone()
    return moved


def _repeat(key: str, value: object, copies: int, atoms: int, structures: int) -> object:
    if isinstance(value, list):
        return value * copies
    if not isinstance(value, Tensor):
        return value
    if key in _ATOM_NUMBERED:
        return torch.cat([value + copy * atoms for copy in range(copies)], dim=1)
    if key in _STRUCTURE_NUMBERED:
        return torch.cat([value + copy * structures for copy in range(copies)])
    return torch.cat([value] * copies)
