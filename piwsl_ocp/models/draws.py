"""The random draws of one forward pass, which follow structures, atoms and edges."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import math

import torch
from fairchem.core.models.base import GraphData
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.models import noise


class Draws:
    """Keys of one forward pass, and a count of the draws made with them.

    The n-th draw of a pass is the same for the same structure, atom or edge, whatever else the
    batch holds. Outside of a pass there are no keys.
    """

    def __init__(self) -> None:
        self.finish()

    def begin(self, data: Batch, graph: GraphData, training: bool) -> None:
        """Take the keys of a batch; see `noise.structure_keys`."""
        structures = noise.structure_keys(data, data.natoms.numel(), training)
        self._keys = {
            "structure": structures,
            "atom": noise.atom_keys(structures, data.batch),
            "edge": noise.edge_keys(structures, data.batch, graph.edge_index, graph.cell_offsets),
        }
        self._made = 0

    def finish(self) -> None:
        """Forget the keys."""
        self._keys: dict[str, Tensor] = {}
        self._made = 0

    def next_keys(self, kind: str) -> Int[Tensor, " rows"]:
        """Return keys that no other draw of this pass has, one for each thing of a kind."""
        self._made += 1
        return noise.combine(self._keys[kind], self._made)

    def roll(self) -> Float[Tensor, " edges"]:
        """Return an angle for every edge, uniform in [0, 2 pi)."""
        return 2 * math.pi * noise.uniform(self.next_keys("edge"), 1, torch.float64)[:, 0]


class KeyedDropout(torch.nn.Module):
    """Dropout (Srivastava et al. 2014) whose draws follow things, not places in the batch.

    Args:
        rate: probability that an element is set to 0; others are divided by 1 - rate.
        kind: `structure`, `atom` or `edge`: what a draw belongs to.
        draws: keys of the pass.
        shared: dimensions of the input that share one draw.
    """

    def __init__(self, rate: float, kind: str, draws: Draws, shared: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.rate, self.kind, self.draws, self.shared = rate, kind, draws, shared

    def forward(
        self, values: Float[Tensor, "rows ..."], structure_index: Tensor | None = None
    ) -> Float[Tensor, "rows ..."]:
        """Return the values with some of them dropped in training.

        Args:
            values: one row for each edge or atom.
            structure_index: structure of each row, for draws that belong to structures.
        """
        if not self.training or self.rate == 0:
            return values
        keys = self.draws.next_keys(self.kind)
        keys = keys[structure_index] if self.kind == "structure" else keys
        shape = [1 if n in self.shared else size for n, size in enumerate(values.shape)]
        kept = noise.uniform(keys, math.prod(shape[1:]), values.dtype) >= self.rate
        return values * kept.reshape(shape) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Return what tells this dropout from others."""
        return f"rate={self.rate}, kind={self.kind}"
