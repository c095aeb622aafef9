"""Random streams that belong to a structure, whatever batch or process it is met in."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

import torch

_DISPLACEMENT_STREAM = 0
_STEP_STREAM = 1


def generators(seed: int, step: int, records: Iterable[int], copy: int) -> list[torch.Generator]:
    """Return one CPU generator per structure, a function of (seed, step, record, copy) alone.

    The four numbers are hashed (BLAKE2b), so streams of neighbouring numbers are unrelated.
    torch's CPU generator keeps 32 bits of its seed: among the draws of a whole run a few pairs
    coincide by chance, as independent draws of 32-bit seeds do.

    Args:
        seed: seed of the run.
        step: optimiser step.
        records: record index of each structure in its data set; a (B,) tensor is welcome.
        copy: number of the displaced copy, from 0.

    Returns:
        B generators in the order of `records`.
    """
    return [_generator(_DISPLACEMENT_STREAM, seed, step, int(record), copy) for record in records]


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a CPU generator that is a function of (seed, step) alone, the same on all ranks."""
    return _generator(_STEP_STREAM, seed, step)


def _generator(*key: int) -> torch.Generator:
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
