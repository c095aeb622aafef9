"""What a potential is to this room: positions go in, energies and forces come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Energies and forces of a batch in physical units.

    Attributes:
        energy: (B,) total energy of each structure, in one energy unit.
        forces: (N, 3) force on each atom, in the same energy unit per Angstrom.

    Raises:
        ValueError: if a tensor has another shape; an energy of shape (B, 1) would turn a
            difference of energies into a (B, B) table without a word.
    """

    energy: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"]

    def __post_init__(self) -> None:
        _expect_energy(self.energy)
        _expect_vectors("forces", self.forces)


@dataclass(frozen=True)
class Labels:
    """Reference energies and, where there are any, reference forces, in physical units.

    Attributes:
        energy: (B,) energy of each structure, in the unit and with the zero of the prediction.
        forces: (N, 3) forces in the unit of the prediction, or None.

    Raises:
        ValueError: if a tensor has another shape.
    """

    energy: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"] | None = None

    def __post_init__(self) -> None:
        _expect_energy(self.energy)
        if self.forces is not None:
            _expect_vectors("forces", self.forces)


@dataclass(frozen=True)
class Structures:
    """The atoms of a batch of structures.

    Attributes:
        positions: (N, 3) Angstrom.
        structure_index: (N,) int64, the structure of each atom, 0 to num_structures - 1.
        num_structures: B.
        atomic_numbers: (N,) int64, or None where no one asks.
        fixed: (N,) bool, True for atoms that are never displaced; None if all may move.

    Raises:
        ValueError: if a tensor has another shape or `fixed` is not boolean.
    """

    positions: Float[Tensor, "atoms 3"]
    structure_index: Int[Tensor, " atoms"]
    num_structures: int
    atomic_numbers: Int[Tensor, " atoms"] | None = None
    fixed: Bool[Tensor, " atoms"] | None = None

    def __post_init__(self) -> None:
        _expect_vectors("positions", self.positions)
        for name in ("structure_index", "atomic_numbers", "fixed"):
            values = getattr(self, name)
            if values is not None and values.shape != self.positions.shape[:1]:
                raise ValueError(
                    f"{name} has shape {tuple(values.shape)}: "
                    f"expected one value for each of {len(self.positions)} atoms"
                )
        if self.fixed is not None and self.fixed.dtype is not torch.bool:
            raise ValueError(f"fixed has dtype {self.fixed.dtype}: expected a bool mask")


class Potential(Protocol):
    """A model with everything but the positions settled: composition, cell, edges, weights."""

    def __call__(self, positions: Float[Tensor, "atoms 3"]) -> Prediction:
        """Return the prediction, in physical units, at `positions` (N, 3) in Angstrom."""
        ...


def _expect_energy(energy: Tensor) -> None:
    if energy.ndim != 1:
        raise ValueError(
            f"energy has shape {tuple(energy.shape)}: expected (B,), one for each structure"
        )


def _expect_vectors(name: str, vectors: Tensor) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != 3:
        raise ValueError(f"{name} has shape {tuple(vectors.shape)}: expected (N, 3)")
