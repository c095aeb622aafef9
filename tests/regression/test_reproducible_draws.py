"""Numbers that published runs depend on: random draws and splits must never change silently."""

from __future__ import annotations

import torch

from piwsl_ocp.consistency.displacement import DisplacementOptions, displace, generators
from piwsl_ocp.consistency.objective import Objective, ObjectiveOptions
from piwsl_ocp.consistency.potential import Structures


def two_atoms() -> Structures:
    return Structures(
        positions=torch.zeros(2, 3, dtype=torch.float64),
        structure_index=torch.zeros(2, dtype=torch.long),
        num_structures=1,
    )


def test_the_displacement_of_seed_0_step_1_record_7_copy_0() -> None:
    options = DisplacementOptions(epsilon_max_angstrom=0.1)
    found = displace(two_atoms(), options, generators(0, 1, [7], 0))
    expected = torch.tensor(EXPECTED_DISPLACEMENT, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_the_steps_that_a_quarter_of_the_steps_falls_on() -> None:
    objective = Objective(ObjectiveOptions(terms={"pitc": 1.0}, every_probability=0.25), seed=0)
    assert [step for step in range(40) if objective.applies(step)] == EXPECTED_STEPS


EXPECTED_DISPLACEMENT = [
    [-0.02566386474628742, 0.00830475096010105, 0.019894588981642473],
    [-0.034339745826387186, -0.0185922655995333, 0.018826557549176448],
]
EXPECTED_STEPS = [1, 4, 13, 17, 20, 21, 22, 36, 38]
