"""eSCN with direct forces or with the gradient of its energy, and with repeatable edge frames."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairchem.core.models.base import GraphData
from fairchem.core.models.escn import eSCN
from fairchem.core.models.escn.so3 import CoefficientMapping, SO3_Embedding
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import Batch

from piwsl_ocp.models.edge_frames import FRAMES, wigner_matrices
from piwsl_ocp.models.gradient_forces import checked_choice, options_of
from piwsl_ocp.models.rotated_edges import RotatedEdges


class ESCN(RotatedEdges, eSCN):
    """fairchem's eSCN (arXiv 2302.03655) with repeatable energies and forces F = -dE/dr.

    fairchem turns every edge frame by an angle that is drawn anew in every pass, and keeps the
    frames out of the gradient.

    Args:
        forces: `direct`, `gradient`, or `gradient_detached`: the gradient with frames held fast,
            as fairchem's own frames give it, which is not that of the energy.
        frames: `fixed`, or `random` in training (drawn once for all copies of a structure).
        energy_scale: what the sum of the atoms' outputs is multiplied by; fairchem's is 0.001,
            from which a short training cannot reach energies of the size of its unit.
        regress_forces: False: energies alone.
        options: of fairchem's model.
    """

    @options_of(eSCN)
    def __init__(
        self,
        *,
        forces: str = "direct",
        frames: str = "fixed",
        energy_scale: float = 0.001,
        regress_forces: bool = True,
        **options: Any,
    ) -> None:
        forces = checked_choice("forces", forces, self.FORCES)
        frames = checked_choice("frames", frames, FRAMES)
        super().__init__(regress_forces=regress_forces and forces == "direct", **options)
        self.choose(forces if regress_forces else "none", frames)
        self.energy_scale = energy_scale
        self.drop_tables()

    def predict(self, data: Batch) -> dict[str, Tensor]:
        """Return `energy` (B,), and `forces` (N, 3) where they are direct."""
        self._prepare_tables(data.pos.dtype, data.pos.device)
        with self.one_pass(data) as graph:
            features = self._features(data, graph)
        values = self._on_sphere(features)
        of_atoms = self.energy_block(values)[:, 0]
        energy = of_atoms.new_zeros(data.natoms.numel()).index_add(0, data.batch, of_atoms)
        outputs = {"energy": self.energy_scale * energy}
        if self.forces == "direct":
            outputs["forces"] = self.force_block(values, self.sphere_points)
        return outputs

    def _features(self, data: Batch, graph: GraphData) -> SO3_Embedding:
        """Return the spherical-harmonic coefficients of every atom after the last layer."""
        frames = self._init_edge_rot_mat(data, graph.edge_index, graph.edge_distance_vec)
        resolutions = zip(self.lmax_list, self.mmax_list, strict=True)
        rotations = [EdgeRotation(frames, lmax, mmax) for lmax, mmax in resolutions]
        numbers = data.atomic_numbers.long()
        features = self._of_elements(numbers, data.pos)
        for layer, block in enumerate(self.layer_blocks):
            inputs = (numbers, graph.edge_distance, graph.edge_index, rotations, self._mapping)
            if self.activation_checkpoint:
                message = checkpoint(block, features, *inputs, use_reentrant=False)
            else:
                message = block(features, *inputs)
            if layer > 0:
                message.set_embedding(features.embedding + message.embedding)
            features = message
        return features

    def _of_elements(self, numbers: Tensor, like: Tensor) -> SO3_Embedding:
        """Return coefficients that hold the embedding of each element at degree 0."""
        features = SO3_Embedding(
            len(numbers), self.lmax_list, self.sphere_channels, like.device, like.dtype
        )
        embedded = self.sphere_embedding(numbers).split(self.sphere_channels, dim=1)
        first = 0
        for lmax, scalars in zip(self.lmax_list, embedded, strict=True):
            features.embedding[:, first] = scalars
            first += (lmax + 1) ** 2
        return features

    def _on_sphere(self, features: SO3_Embedding) -> Float[Tensor, "samples channels"]:
        """Return the features of every atom at the sample points, atom after atom."""
        sizes = [(lmax + 1) ** 2 for lmax in self.lmax_list]
        values = [
            torch.einsum("nkc,pk->npc", coefficients, weights)
            for coefficients, weights in zip(
                features.embedding.split(sizes, dim=1), self.sphharm_weights, strict=True
            )
        ]
        return torch.cat(values, dim=2).reshape(-1, self.sphere_channels_all)

    def drop_tables(self) -> None:
        """Forget the constants of the transforms."""
        self._tables_for: tuple[torch.dtype, torch.device] | None = None
        self._mapping: CoefficientMapping | None = None
        for grid in (grid for row in self.SO3_grid for grid in row):
            grid.initialized = False
            grid.mapping = grid.to_grid_mat = grid.from_grid_mat = None

    def _prepare_tables(self, dtype: torch.dtype, device: torch.device) -> None:
        """Build the constants of the transforms in the type of the positions.

        fairchem builds them at their first use in the default type, for ever.
        """
        if self._tables_for == (dtype, device):
            return
        self.drop_tables()
        with _default_dtype(dtype):
            self._mapping = CoefficientMapping(self.lmax_list, self.mmax_list, device)
            used = {*zip(self.lmax_list, self.mmax_list, strict=True), (max(self.lmax_list),) * 2}
            for lmax, mmax in used:
                self.SO3_grid[lmax][mmax]._initialize(device)
        self._tables_for = (dtype, device)


class EdgeRotation:
    """Rotates coefficients into the frames of the edges and back, as fairchem's layers ask for.

    Args:
        rotations: frames R.
        lmax: largest degree.
        mmax: largest order that is kept in the frame of an edge.
    """

    def __init__(self, rotations: Float[Tensor, "edges 3 3"], lmax: int, mmax: int) -> None:
        kept = torch.tensor(_orders_to(lmax, mmax), device=rotations.device)
        self._wigner = wigner_matrices(rotations, lmax)[:, kept]

    def rotate(self, coefficients: Tensor, lmax: int, mmax: int) -> Tensor:
        """Return coefficients (E, K, C) in the frames of the edges, orders to mmax alone."""
        return self._wigner @ coefficients

    def rotate_inv(self, coefficients: Tensor, lmax: int, mmax: int) -> Tensor:
        """Return coefficients (E, K', C) of the frames in the common frame."""
        return self._wigner.transpose(1, 2) @ coefficients


def _orders_to(lmax: int, mmax: int) -> list[int]:
    """Return the places of the coefficients with |m| <= mmax among all with l <= lmax."""
    return [
        degree * (degree + 1) + order
        for degree in range(lmax + 1)
        for order in range(-min(degree, mmax), min(degree, mmax) + 1)
    ]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
