"""Frames of edges and Wigner matrices: the conventions of e3nn and fairchem, finite derivatives."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from e3nn import o3
from fairchem.core.models.escn.so3 import SO3_Rotation

from piwsl_ocp.models.edge_frames import (
    _CAP_COSINE,
    _GENERIC,
    edge_frames,
    smallest_rotation,
    wigner_matrices,
)

POLE = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
AXES = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
GENERIC = torch.nn.functional.normalize(torch.tensor(_GENERIC, dtype=torch.float64), dim=0)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """fairchem and e3nn compute Wigner matrices in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def directions(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1)


def random_rotations(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    orthogonal = torch.linalg.qr(
        torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    )[0]
    return orthogonal * torch.linalg.det(orthogonal)[:, None, None]


def hard_directions() -> torch.Tensor:
    """Return the axes, the centre of the cap, its opposite, and both sides of its border."""
    side = torch.nn.functional.normalize(torch.linalg.cross(GENERIC, POLE), dim=0)
    angles = [math.acos(_CAP_COSINE) + shift for shift in (-1e-9, 1e-9)]
    border = torch.stack([math.cos(a) * GENERIC + math.sin(a) * side for a in angles])
    return torch.cat([AXES, GENERIC[None], -GENERIC[None], border])


@pytest.mark.parametrize("lmax", [1, 2, 6, 10])
def test_wigner_matrices_are_fairchems(lmax: int, double_by_default: None) -> None:
    rotations = random_rotations(20)
    expected = SO3_Rotation(rotations, lmax).wigner
    assert (wigner_matrices(rotations, lmax) - expected).abs().max() < 1e-10


def test_wigner_matrices_turn_spherical_harmonics(double_by_default: None) -> None:
    rotations, points = random_rotations(20), directions(7)
    degrees = list(range(7))
    harmonics = o3.spherical_harmonics(degrees, points, normalize=True)
    turned = o3.spherical_harmonics(degrees, points @ rotations.transpose(1, 2), normalize=True)
    expected = turned - harmonics @ wigner_matrices(rotations, 6).transpose(1, 2)
    assert expected.abs().max() < 1e-10


def test_wigner_matrices_of_products_and_half_turns() -> None:
    rotations = random_rotations(4)
    first, second = wigner_matrices(rotations[:2], 6), wigner_matrices(rotations[2:], 6)
    product = wigner_matrices(rotations[:2] @ rotations[2:], 6)
    assert (first @ second - product).abs().max() < 1e-10
    half_turns = torch.diag_embed(2 * torch.eye(3, dtype=torch.float64) - 1)
    square = torch.linalg.matrix_power(wigner_matrices(half_turns, 6), 2)
    assert (square - torch.eye(49)).abs().max() < 1e-10


def test_frames_are_rotations_onto_the_pole() -> None:
    vectors = torch.cat([directions(1000), hard_directions()])
    roll = torch.linspace(0, 7, len(vectors))
    for frames in (edge_frames(3.0 * vectors), edge_frames(vectors, roll)):
        assert ((frames @ vectors[:, :, None])[:, :, 0] - POLE).abs().max() < 1e-12
        assert (frames @ frames.transpose(1, 2) - torch.eye(3)).abs().max() < 1e-12
        assert (torch.linalg.det(frames) - 1).abs().max() < 1e-12


def test_roll_turns_about_the_edge() -> None:
    vectors = directions(5)
    roll = torch.linspace(0.5, 2.5, 5, dtype=torch.float64)
    turn = edge_frames(vectors, roll) @ edge_frames(vectors).transpose(1, 2)
    assert (turn[:, 0, 0] - torch.cos(roll)).abs().max() < 1e-12
    assert (turn[:, 0, 2] - torch.sin(roll)).abs().max() < 1e-12


@pytest.mark.parametrize("lmax", [2, 6])
def test_derivatives_are_finite_and_right_everywhere(lmax: int) -> None:
    vectors = hard_directions().requires_grad_(True)
    weights = torch.randn(len(vectors), (lmax + 1) ** 2, (lmax + 1) ** 2, dtype=torch.float64)

    def value(at: torch.Tensor) -> torch.Tensor:
        return (weights * wigner_matrices(edge_frames(at), lmax)).sum(dim=(1, 2))

    (gradient,) = torch.autograd.grad(value(vectors).sum(), vectors)
    assert gradient.isfinite().all()
    step = 1e-5
    inside = slice(0, 8)
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        slope = (value(vectors + shift) - value(vectors - shift)) / (2 * step)
        error = (slope - gradient[:, axis])[inside].abs().max()
        assert error < 1e-6 * gradient.abs().max()


def test_second_derivatives_are_right() -> None:
    vectors = directions(3)[:, :].requires_grad_(True)
    assert torch.autograd.gradgradcheck(
        lambda v: wigner_matrices(edge_frames(v), 2), vectors, eps=1e-6, atol=1e-5
    )


def test_frames_change_slowly() -> None:
    vectors = torch.cat([directions(5000), hard_directions()])
    worst = 0.0
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = 1e-6
        change = (edge_frames(vectors + shift) - edge_frames(vectors)).norm(dim=(1, 2)) / 1e-6
        same_chart = change < 1e3
        assert int((~same_chart).sum()) <= 2
        worst = max(worst, float(change[same_chart].max()))
    assert worst < 4 / math.sin(math.acos(_CAP_COSINE))


def test_common_directions_are_off_the_border_of_the_cap() -> None:
    indices = [i for i in itertools.product(range(-4, 5), repeat=3) if any(i)]
    lattice = torch.nn.functional.normalize(torch.tensor(indices, dtype=torch.float64), dim=1)
    away = torch.acos(lattice @ GENERIC) - math.acos(_CAP_COSINE)
    assert torch.rad2deg(away.abs().min()) > 2
    # no plane of two axes meets the cap
    assert GENERIC.abs().min() > math.sin(math.acos(-_CAP_COSINE))


def test_smallest_rotation_has_the_angle_between_the_directions(
    assert_close: Callable[..., None],
) -> None:
    start, end = directions(10), directions(20)[10:]
    rotation = smallest_rotation(start, end)
    trace = rotation.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert_close((rotation @ start[:, :, None])[:, :, 0], end)
    assert_close((trace - 1) / 2, (start * end).sum(dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_no_frame(dtype: torch.dtype) -> None:
    vectors, roll = directions(20).float(), torch.linspace(0, 6, 20)
    frames = edge_frames(vectors, roll)
    matrices = wigner_matrices(frames, 3)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(edge_frames(vectors, roll), frames)
        assert torch.equal(wigner_matrices(frames, 3), matrices)
