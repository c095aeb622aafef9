"""SpinConv against the same equations written as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

from piwsl_ocp.models import noise
from piwsl_ocp.models.spinconv.frames import random_rotations
from tests import spinconv_loops
from tests.spinconv_cases import TINY, TINY_ODD, batch, model, oxide, water_dimer

#: A small network that still has two groups of an uneven width.
SMALL = TINY | {
    "hidden_channels": 20,
    "mid_hidden_channels": 8,
    "sphere_size_lat": 3,
    "max_num_neighbors": 5,
    "cutoff": 3.0,
}
CASES = {
    "molecules": (SMALL, water_dimer()),
    "odd grid": (TINY_ODD | {"sphere_size_long": 3, "cutoff": 3.0}, water_dimer()),
    "one column": (SMALL | {"sphere_size_long": 1}, water_dimer()),
    "crystal": (SMALL | {"cutoff": 2.3, "num_interactions": 1}, oxide()),
    "bound of the scale": (SMALL | {"distance_block_scalar_max": 3.0}, molecule("CH3OH")),
    "linear": (SMALL, molecule("CO2")),
    "along the lab vector": (SMALL, molecule("HCl")),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_equations_written_as_loops(name: str) -> None:
    options, atoms = CASES[name]
    if name == "along the lab vector":
        atoms.rotate((0, 0, 1), (1, 1, 1))
    network, data = model(options, position_gradient=True), batch([atoms])
    torch.manual_seed(4)
    for parameter in network.parameters():
        # No parameter may stay at a value that hides it, as a shift of 0 does.
        parameter.data += 0.05 * torch.randn_like(parameter)
    edge_index, vectors = network.edges(data)
    rotations = random_rotations(torch.arange(2 * len(atoms)).view(-1, 2), torch.float64)

    found = network.evaluate(data.atomic_numbers, data.batch, edge_index, vectors, rotations)
    energy, forces = spinconv_loops.evaluate(
        {key: value.numpy() for key, value in network.state_dict().items()},
        options,
        atoms.numbers,
        edge_index.numpy(),
        vectors.numpy(),
        rotations.numpy(),
    )
    np.testing.assert_allclose(found["energy"].detach(), [energy], rtol=1e-12)
    largest = np.abs(forces).max()
    np.testing.assert_allclose(found["forces"].detach(), forces, rtol=0, atol=1e-12 * largest)


def test_rotations_of_a_training_step_have_no_preferred_axis() -> None:
    rotations = random_rotations(noise.combine(torch.arange(20_000), 5), torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    product = rotations @ rotations.mT
    torch.testing.assert_close(product, identity.expand_as(product), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(20_000).double())
    # Entries of Haar rotations: mean 0, mean square 1/3 with a deviation of sqrt(4/45) each.
    assert rotations.mean(dim=0).abs().max() < 4 * (1 / 3 / 20_000) ** 0.5
    assert (rotations.square().mean(dim=0) - 1 / 3).abs().max() < 4 * (4 / 45 / 20_000) ** 0.5
