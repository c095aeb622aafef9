"""SchNet's direct forces: central forces of pairs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from tests.small_models import (
    CUTOFF_ANGSTROM,
    SCHNET,
    batch_of,
    moved,
    small_model,
    stock_model,
)


def test_a_pair_pulls_or_pushes_along_its_axis(assert_close: Callable[..., None]) -> None:
    model = small_model(SCHNET, forces="direct")
    axis = torch.tensor([0.48, 0.6, 0.64], dtype=torch.float64)
    first, second = model(batch_of([Atoms("OC", [[0, 0, 0], (1.3 * axis).tolist()])]))["forces"]
    assert_close(first, (first @ axis) * axis)
    assert_close(first, -second)
    assert first.norm() > 1e-3


def test_no_net_force_and_no_torque(assert_close: Callable[..., None]) -> None:
    model = small_model(SCHNET, forces="direct")
    batch = batch_of([molecule("CH3CH2OH")])
    forces = model(batch)["forces"]
    zero = torch.zeros(3, dtype=torch.float64)
    assert forces.norm(dim=1).min() > 1e-3
    assert_close(forces.sum(dim=0), zero)
    assert_close(torch.linalg.cross(batch.pos, forces).sum(dim=0), zero)


def test_a_pair_stops_acting_at_the_cutoff() -> None:
    model = small_model(SCHNET, forces="direct")
    batch = batch_of([Atoms("OC", [[0, 0, 0], [2.0, 0, 0]])])
    apart = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)

    def force(distance_angstrom: float) -> float:
        forces = model(moved(batch, (distance_angstrom - 2) * apart))["forces"]
        return float(forces.detach().norm())

    near, nearer = force(CUTOFF_ANGSTROM - 1e-3), force(CUTOFF_ANGSTROM - 2e-3)
    assert force(2.0) > 1e-3
    assert nearer / near == pytest.approx(4.0, rel=1e-2)  # the envelope falls as a square


def test_the_other_weights_are_fairchems(assert_close: Callable[..., None]) -> None:
    direct = small_model(SCHNET, torch.float32, forces="direct")
    weights = direct.state_dict()
    shared = {key: value for key, value in weights.items() if not key.startswith("out_forces.")}
    stock, gradient = stock_model(SCHNET), small_model(SCHNET, torch.float32)
    stock.load_state_dict(shared, strict=True)
    gradient.load_state_dict(weights, strict=True)
    batch = batch_of([molecule("CH3CH2OH")], torch.float32)
    energy = direct(batch)["energy"]
    assert_close(energy, stock(copy.deepcopy(batch))["energy"].detach())
    assert_close(energy, gradient(batch)["energy"])
