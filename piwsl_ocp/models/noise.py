"""Random numbers that belong to a structure, an atom or an edge, not to a place in the batch.

A model with dropout, random frames or random rotations gives E(S_d) - E(S) a noise of the size of
the work |F d| unless the clean and the displaced copy of a structure meet the same draws. Here a
draw is a hash of integer counters: the same for the same (key, atom or edge, stream), in every
copy, batch, process and on every device.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Batch attribute with one int64 key per structure, equal in all copies of a structure.
KEY_ATTRIBUTE = "noise_key"

# Constants of the SplitMix64 generator (Steele, Lea, Flood 2014) as signed 64-bit integers.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64
_MANTISSA_BITS = 24


def structure_keys(data: object, structures: int, training: bool) -> Int[Tensor, " structures"]:
    """Return the key of every structure of a batch.

    Args:
        data: the batch; its `noise_key` (B,) is used in training when it has one.
        structures: B.
        training: in evaluation every structure has the key 0, so a prediction can be repeated.
            In training without `noise_key`, keys are drawn from torch's default generator.
    """
    device = data.pos.device
    if not training:
        return torch.zeros(structures, dtype=torch.int64, device=device)
    if KEY_ATTRIBUTE in data:
        return getattr(data, KEY_ATTRIBUTE).to(device)
    return torch.randint(2**62, (structures,)).to(device)


def atom_keys(
    keys: Int[Tensor, " structures"], structure_index: Int[Tensor, " atoms"]
) -> Int[Tensor, " atoms"]:
    """Return a key per atom, from its structure's key and its number within the structure.

    Args:
        keys: of the structures, (B,).
        structure_index: structure of each atom, (N,), ascending.
    """
    return combine(keys[structure_index], _numbers_within(structure_index, keys.numel()))


def edge_keys(
    keys: Int[Tensor, " structures"],
    structure_index: Int[Tensor, " atoms"],
    edge_index: Int[Tensor, "2 edges"],
    cell_offsets: Tensor,
) -> Int[Tensor, " edges"]:
    """Return a key per edge, from its structure's key, its two atoms and the periodic image.

    Args:
        keys: of the structures, (B,).
        structure_index: structure of each atom, (N,), ascending.
        edge_index: source and target of every edge.
        cell_offsets: image of the source, (E, 3) whole numbers.
    """
    number = _numbers_within(structure_index, keys.numel())
    source, target = edge_index
    mixed = combine(keys[structure_index[target]], number[source], number[target])
    return combine(mixed, *cell_offsets.to(torch.int64).unbind(dim=1))


def combine(first: Int[Tensor, "*shape"], *others: Tensor | int) -> Int[Tensor, "*shape"]:
    """Return one key from several integers; the order counts."""
    mixed = _mix(first)
    for other in others:
        mixed = _mix(mixed + _INCREMENT ^ torch.as_tensor(other, device=first.device))
    return mixed


def uniform(
    keys: Int[Tensor, "*shape"], count: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape count"]:
    """Return `count` numbers in [0, 1) for every key, on a grid of 2^-24.

    Args:
        keys: of any shape.
        count: numbers for each key.
        dtype: of the result; what has fewer digits than the grid is given in float32.
    """
    counters = torch.arange(count, device=keys.device)
    bits = combine(keys[..., None].expand(*keys.shape, count), counters)
    mantissa = (bits >> (64 - _MANTISSA_BITS)) & (2**_MANTISSA_BITS - 1)
    return mantissa.to(torch.promote_types(dtype, torch.float32)) * 2.0**-_MANTISSA_BITS


def normal(
    keys: Int[Tensor, "*shape"], count: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape count"]:
    """Return `count` standard normal numbers for every key (Box and Muller 1958)."""
    radius, angle = uniform(keys, 2 * count, torch.float64).split(count, dim=-1)
    draws = torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * torch.pi * angle)
    return draws.to(dtype)


def _numbers_within(
    structure_index: Int[Tensor, " atoms"], structures: int
) -> Int[Tensor, " atoms"]:
    counts = torch.bincount(structure_index, minlength=structures)
    first = counts.cumsum(0) - counts
    positions = torch.arange(structure_index.numel(), device=structure_index.device)
    return positions - first[structure_index]


def _mix(value: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return the output function of SplitMix64; integer products wrap."""
    value = value + _INCREMENT
    value = (value ^ _shifted(value, 30)) * _FIRST_FACTOR
    value = (value ^ _shifted(value, 27)) * _SECOND_FACTOR
    return value ^ _shifted(value, 31)


def _shifted(value: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shift right and fill with zeros, as unsigned integers do."""
    return (value >> bits) & (2 ** (64 - bits) - 1)
