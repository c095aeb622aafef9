"""Shapes of predictions and structures, and the stop at a value that is not finite."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

import piwsl_ocp.consistency
from piwsl_ocp.consistency.finite import NonFiniteError, check_finite
from piwsl_ocp.consistency.potential import Labels, Prediction, Structures
from piwsl_ocp.errors import UserError
from tests.analytic import (
    Harmonic,
    LennardJones,
    PairNetwork,
    random_matrix,
    random_structures,
)


@pytest.mark.parametrize("kind", [Prediction, Labels])
def test_an_energy_with_a_second_axis_is_refused(kind) -> None:
    """(B, 1) minus (B,) would be a (B, B) table of differences."""
    with pytest.raises(ValueError, match=r"energy has shape \(2, 1\): expected \(B,\)"):
        kind(torch.zeros(2, 1), torch.zeros(5, 3))


@pytest.mark.parametrize("kind", [Prediction, Labels])
@pytest.mark.parametrize("shape", [(15,), (5, 2), (5, 1, 3)])
def test_forces_that_are_not_vectors_are_refused(kind, shape) -> None:
    with pytest.raises(ValueError, match="forces has shape"):
        kind(torch.zeros(2), torch.zeros(shape))


def test_labels_may_lack_forces() -> None:
    assert Labels(torch.zeros(2)).forces is None


@pytest.mark.parametrize("name", ["structure_index", "atomic_numbers", "fixed"])
def test_one_value_for_each_atom(name) -> None:
    values = {"structure_index": torch.zeros(5, dtype=torch.long), name: torch.zeros(4).bool()}
    with pytest.raises(ValueError, match=rf"{name} has shape .*: expected one value for each of 5"):
        Structures(torch.zeros(5, 3), num_structures=1, **values)


def test_a_fixed_mask_is_boolean() -> None:
    """OC20's 0 and 1 inverted bitwise would mark every atom."""
    index = torch.zeros(5, dtype=torch.long)
    with pytest.raises(ValueError, match=r"fixed has dtype torch\.int64: expected a bool mask"):
        Structures(torch.zeros(5, 3), index, 1, fixed=torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_value_that_is_not_finite_stops(value) -> None:
    values = {"pitc": torch.ones(3), "pisc": torch.tensor([1.0, 2.0, value])}
    with pytest.raises(NonFiniteError, match=f"pisc is {value} for record 41: ") as caught:
        check_finite(values, torch.tensor([40, 7, 41]))
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_finite_values_pass() -> None:
    values = {"pitc": torch.tensor([1.0, 2.0], requires_grad=True)}
    assert check_finite(values, [40, 41]) is None
    assert check_finite({}, []) is None


@pytest.mark.parametrize("kind", ["springs", "lennard_jones", "network"])
def test_forces_of_the_conservative_references_are_minus_the_gradient(kind) -> None:
    structures = random_structures([3, 2], seed=1)
    potential = {
        "springs": Harmonic(structures, random_matrix(structures, 0, symmetry=1)),
        "lennard_jones": LennardJones(structures),
        "network": PairNetwork(conservative=True).at(structures),
    }[kind]
    forces = potential(structures.positions).forces
    step = 1e-5
    for atom, axis in [(0, 0), (2, 1), (4, 2)]:
        move = torch.zeros_like(structures.positions)
        move[atom, axis] = step
        above = potential(structures.positions + move).energy.sum()
        below = potential(structures.positions - move).energy.sum()
        slope = -(above - below) / (2 * step)
        torch.testing.assert_close(forces[atom, axis], slope, rtol=1e-6, atol=1e-6)


def test_direct_forces_of_the_network_are_not_the_gradient() -> None:
    structures = random_structures([3, 2], seed=1)
    direct = PairNetwork(conservative=False).at(structures)(structures.positions)
    conservative = PairNetwork(conservative=True).at(structures)(structures.positions)
    assert torch.equal(direct.energy, conservative.energy)
    assert (direct.forces - conservative.forces).abs().max() > 0.1


def test_the_room_imports_nothing_of_ours_but_units_and_errors() -> None:
    folder = Path(piwsl_ocp.consistency.__file__).parent
    allowed = ("piwsl_ocp.consistency", "piwsl_ocp.units", "piwsl_ocp.errors")
    third_party = ("torch", "jaxtyping")
    found = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
    foreign = {
        name
        for name in found
        if not name.startswith(allowed)
        and name.split(".")[0] not in third_party
        and name.split(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == set()
    assert "torch" in found
