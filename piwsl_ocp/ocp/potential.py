"""A fairchem model, its normalisers and one batch, seen as a potential in physical units."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.consistency.potential import Prediction, Structures
from piwsl_ocp.ocp.copies import with_positions


def structures_of(batch: Batch) -> Structures:
    """Return the positions and the structure of each atom of a fairchem batch.

    Atoms with `fixed == 1` (the OC20 convention) are marked as fixed.
    """
    fixed = batch.fixed == 1 if "fixed" in batch else None
    return Structures(
        positions=batch.pos,
        structure_index=batch.batch,
        num_structures=batch.natoms.numel(),
        atomic_numbers=batch.atomic_numbers.long(),
        fixed=fixed,
    )


def records_of(batch: Batch) -> list[int]:
    """Return the record number of each structure of a batch, or of one: `record`, or else `sid`."""
    records = batch.record if "record" in batch else batch.sid
    if isinstance(records, Tensor):
        records = records.reshape(-1).tolist()
    return [int(record) for record in (records if isinstance(records, list) else [records])]


def physical_prediction(
    outputs: Mapping[str, Tensor], normalizers: Mapping[str, torch.nn.Module]
) -> Prediction:
    """Turn the normalised outputs of a fairchem model into energies and forces in the label unit.

    Each target is multiplied by its own scale and shifted by its mean, in float32 at least.
    Element references are left out: they cancel between copies of one structure, and total
    energies of 10^5 kcal/mol would round away the differences in single precision.

    Args:
        outputs: `energy` (B,) or (B, 1) and `forces` (N, 3) as the model gives them.
        normalizers: fairchem's normaliser of each target that has one.
    """
    physical = {}
    for name in ("energy", "forces"):
        value = outputs[name].to(torch.promote_types(outputs[name].dtype, torch.float32))
        physical[name] = normalizers[name](value) if name in normalizers else value
    # fairchem's PaiNN gives the forces of a single atom without its axis.
    return Prediction(
        energy=physical["energy"].reshape(-1), forces=physical["forces"].reshape(-1, 3)
    )


def split_copies(prediction: Prediction, copies: int) -> list[Prediction]:
    """Cut the prediction for a batch of `concatenate_copies` into one prediction a copy."""
    energies, forces = prediction.energy.chunk(copies), prediction.forces.chunk(copies)
    return [Prediction(energy=e, forces=f) for e, f in zip(energies, forces, strict=True)]


class FairchemPotential:
    """A `Potential` over one batch: positions in, energies and forces in the label unit out.

    The graph is that of the batch it was made from, whatever the positions.

    Args:
        forward: a batch -> the model's outputs by target name.
        normalizers: fairchem's normaliser of each target that has one.
        batch: the structures, with their edges.
    """

    def __init__(
        self,
        forward: Callable[[Batch], Mapping[str, Tensor]],
        normalizers: Mapping[str, torch.nn.Module],
        batch: Batch,
    ) -> None:
        self._forward = forward
        self._normalizers = normalizers
        self._batch = batch

    def __call__(self, positions: Float[Tensor, "atoms 3"]) -> Prediction:
        batch = with_positions(self._batch, positions)
        return physical_prediction(self._forward(batch), self._normalizers)
