"""Noise between the copies of a structure, with draws of their own and with common draws."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ase import Atoms
from torch import Tensor, nn
from torch_geometric.data import Batch

from piwsl_ocp.consistency.displacement import DisplacementOptions, displace, generators
from piwsl_ocp.models.noise import combine
from piwsl_ocp.ocp.copies import concatenate_copies, with_noise_keys, with_positions
from piwsl_ocp.ocp.potential import physical_prediction, structures_of
from piwsl_ocp.ocp.predictor import Predictor

REPETITIONS = 20
EPSILON_ANGSTROM = 0.025

#: What fairchem's models multiply their energy by and ours leave to an option.
STOCK_SCALES = {"escn": 0.001}


@dataclass(frozen=True)
class NoiseOfCopies:
    """What random numbers in a forward pass in training mode do to a weak loss.

    Attributes:
        energy: standard deviation of E(S) over passes with draws of their own.
        independent: standard deviation of E(S_d) - E(S) with own draws for each copy.
        shared: largest |E(S_d) - E(S)| at d = 0 with common draws, over passes.
        work: root mean square of F d, the size of what the loss sees.
    """

    energy: float
    independent: float
    shared: float
    work: float


@torch.no_grad()
def noise_of_copies(
    predictor: Predictor, structures: Sequence[Atoms], stock: str | None = None
) -> NoiseOfCopies:
    """Measure the noise of a model in training mode, in the unit of its energies.

    Args:
        predictor: the model.
        structures: B structures.
        stock: name of fairchem's own model that takes the same weights; the passes with own draws
            are taken with it. None: with this model, without common keys.
    """
    batch = predictor.batch(structures)
    options = DisplacementOptions(epsilon_max_angstrom=EPSILON_ANGSTROM)
    moves = displace(structures_of(batch), options, generators(0, 0, range(len(structures)), 0))
    stock_model, scale = (predictor.model, 1.0) if stock is None else _stock(predictor, stock)
    dtype = next(stock_model.parameters()).dtype
    clean, moved = [], []
    for _ in range(REPETITIONS):
        for energies, positions in ((clean, batch.pos), (moved, batch.pos + moves)):
            energies.append(_energies(predictor, stock_model, _as(batch, positions, dtype)))
    clean_energies = scale * torch.stack(clean)
    differences = scale * torch.stack(moved) - clean_energies
    predictor.model.eval()
    forces = physical_prediction(predictor.model(batch), predictor.normalizers).forces
    work = (forces * moves).sum() / len(structures) ** 0.5
    return NoiseOfCopies(
        energy=float(clean_energies.std(dim=0).square().mean().sqrt()),
        independent=float(differences.std(dim=0).square().mean().sqrt()),
        shared=_shared(predictor, batch, torch.zeros_like(moves)),
        work=float(work.abs()),
    )


def _energies(predictor: Predictor, model: nn.Module, batch: Batch) -> Tensor:
    model.train()
    outputs = {name: value.detach() for name, value in model(batch).items()}
    model.eval()
    return physical_prediction(outputs, predictor.normalizers).energy.double()


def _as(batch: Batch, positions: Tensor, dtype: torch.dtype) -> Batch:
    moved = with_positions(batch, positions)
    moved.pos, moved.cell = moved.pos.to(dtype), moved.cell.to(dtype)
    return moved


def _shared(predictor: Predictor, batch: Batch, nothing: Tensor) -> float:
    numbers = torch.arange(batch.natoms.numel())
    largest = 0.0
    for repetition in range(REPETITIONS):
        keyed = with_noise_keys(batch, combine(numbers, repetition))
        energies = _energies(predictor, predictor.model, concatenate_copies(keyed, [nothing]))
        first, second = energies.chunk(2)
        largest = max(largest, float((first - second).abs().max()))
    return largest


def _stock(predictor: Predictor, name: str) -> tuple[nn.Module, float]:
    """Return fairchem's own model with the same weights, in single precision as it needs, and the
    factor that gives its energies the scale of ours."""
    own = ("name", "forces", "frames", "energy_scale")
    options = {key: value for key, value in predictor.config["model"].items() if key not in own}
    stock = Predictor.untrained({**options, "name": name})
    weights = {key: value.float() for key, value in predictor.model.state_dict().items()}
    stock.model.load_state_dict(weights)
    return stock.model, getattr(predictor.model, "energy_scale", 1.0) / STOCK_SCALES.get(name, 1.0)
