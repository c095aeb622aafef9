"""Frames, grids and spheres of SpinConv: known values, poles, derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from piwsl_ocp.models.spinconv import sphere
from piwsl_ocp.models.spinconv.frames import (
    edge_frames,
    guarded_norm,
    polar_frames,
    random_rotations,
    surroundings,
)
from piwsl_ocp.models.spinconv.graph import pairs_by_centre
from piwsl_ocp.models.spinconv.sphere import bilinear_cells, grid_coordinates, project

ROWS, COLUMNS = 16, 12
AXIS = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)


def coordinates(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    off_axis = torch.linalg.cross(AXIS.to(q).expand_as(q), q)
    return grid_coordinates(q, off_axis, ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("q", "column", "row"),
    [
        ((1, 0, 0), 6, 14.925),
        ((-1, 0, 0), 6, 0.075),
        ((0, 1, 0), 9, 7.5),
        ((0, -1, 0), 3, 7.5),
        ((0, 0, 1), 6, 7.5),
        ((0, 0, -1), 12, 7.5),
        ((3**-0.5, 3**-0.5, 3**-0.5), 7.5, 10.409312),
        ((0.6, -0.48, 0.64), 4.771003, 10.541767),
    ],
)
def test_known_directions(q: tuple[float, ...], column: float, row: float) -> None:
    found = coordinates(torch.tensor([q], dtype=torch.float64))
    assert found[0].item() == pytest.approx(column, abs=1e-6)
    assert found[1].item() == pytest.approx(row, abs=1e-6)


def test_weights_are_bilinear_and_columns_circular() -> None:
    column = torch.tensor([11.25, 12.0, 0.0, 4.5], dtype=torch.float64)
    row = torch.tensor([0.075, 7.5, 14.925, 3.0], dtype=torch.float64)
    cells, weights = bilinear_cells(column, row, ROWS, COLUMNS)
    assert cells.min() >= 0
    assert cells.max() < ROWS * COLUMNS
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert cells[0].tolist() == [11 * 16 + 0, 0, 11 * 16 + 1, 1]
    np.testing.assert_allclose(weights[0], [0.69375, 0.23125, 0.05625, 0.01875], rtol=1e-12)
    # One full turn is the first column.
    assert cells[1].tolist() == [7, 16 + 7, 8, 16 + 8]
    np.testing.assert_allclose(weights[1], [0.5, 0, 0.5, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latitude_is_exact_at_the_poles(dtype: torch.dtype) -> None:
    # 2e-4 rad beside the pole an arcsine in single precision is off by more than the distance.
    angle = 2e-4
    q = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=dtype)
    latitude = ((coordinates(q)[1] / (ROWS - 1) - 0.005) / 0.99 - 0.5) * math.pi
    assert latitude.item() == pytest.approx(math.pi / 2 - angle, abs=1e-6)


def test_longitude_at_a_pole_does_not_depend_on_rounding() -> None:
    torch.manual_seed(0)
    near = torch.cat([-torch.ones(50, 1), 7e-6 * (2 * torch.rand(50, 2) - 1)], dim=1).double()
    column, _ = coordinates(near)
    torch.testing.assert_close(column, torch.full_like(column, 6.0), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_longitude_at_a_pole_does_not_depend_on_the_frame(dtype: torch.dtype) -> None:
    """Axes y and z of a frame whose surroundings are parallel to the edge lean by rounding."""
    q = torch.tensor([[-1.0, 6e-4, 2e-4], [-1.0, -3e-4, 5e-4]], dtype=dtype)
    column, _ = grid_coordinates(q, torch.zeros_like(q), ROWS, COLUMNS)
    assert column.tolist() == [6.0, 6.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_frame_lost_in_rounding_has_no_roll(dtype: torch.dtype) -> None:
    along = torch.nn.functional.normalize(torch.ones(1, 3, dtype=torch.float64)).to(dtype)
    noise = torch.finfo(dtype).eps * torch.tensor([[1.0, -2.0, 1.0]], dtype=dtype)
    frame = edge_frames(along, torch.ones(1).to(along), torch.tensor([0]), along + noise)
    assert torch.equal(frame[:, 0], along)
    assert not frame[:, 1:].any()


def test_first_and_second_derivatives_are_finite_at_the_poles_and_zero() -> None:
    q = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [1, 1e-7, 0], [0, 0, 0]], dtype=torch.float64)
    q.requires_grad_()
    column, row = coordinates(q)
    (slope,) = torch.autograd.grad(column.sum() + row.sum(), q, create_graph=True)
    assert (slope[:3] == 0).all()
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.square().sum(), q)
        assert torch.isfinite(curvature).all()
    length = guarded_norm(q)
    (slope,) = torch.autograd.grad(length.sum(), q, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), q)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(curvature).all()


def test_coordinates_have_their_own_derivatives() -> None:
    torch.manual_seed(0)
    q = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(coordinates, q.requires_grad_())


POSITIONS = torch.tensor([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.10]], dtype=torch.float64)
EDGE_INDEX = torch.tensor([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]])


def three_atoms() -> tuple[torch.Tensor, ...]:
    source, target = EDGE_INDEX
    vectors = POSITIONS[source] - POSITIONS[target]
    distances = vectors.norm(dim=1)
    around = surroundings(vectors, distances, target, 3, 6.0)
    directions = vectors / distances[:, None]
    return directions, distances, around, edge_frames(directions, distances, target, around)


def test_known_surroundings_and_frames() -> None:
    directions, _, around, frames = three_atoms()
    expected = [
        [0.675642, 0.871817, 0.093744],
        [-1.920093, 0.790086, 0.084955],
        [1.244451, -1.661903, -0.178699],
    ]
    np.testing.assert_allclose(around, expected, atol=1e-6)
    known = {
        0: [[1, 0, 0], [0, -0.994258, -0.107011], [0, -0.107011, 0.994258]],
        1: [
            [-0.248535, 0.963071, 0.103556],
            [-0.968623, -0.247099, -0.026672],
            [0.000099, 0.106936, -0.994266],
        ],
        2: [[-1, 0, 0], [0, -0.994257, -0.107022], [0, 0.107022, -0.994256]],
    }
    for edge, axes in known.items():
        np.testing.assert_allclose(frames[edge], axes, atol=1e-6)
    # Left-handed, and shorter than 1 by the floor of the cross products.
    np.testing.assert_allclose(torch.linalg.det(frames), -1, atol=1e-6)
    assert directions.shape == (6, 3)


@pytest.mark.parametrize(
    ("edge", "in_edge", "q", "column", "row"),
    [
        (0, 2, (-1, 0, 0), 6, 0.075),
        (0, 3, (-0.788706, -0.614771, -0.000062), 2.999807, 3.204658),
        (1, 5, (-0.791502, -0.611167, 0.000062), 3.000194, 3.183099),
        (2, 1, (0.248535, -0.968623, 0.000108), 3.000213, 8.687242),
    ],
)
def test_known_places_of_in_edges(
    edge: int, in_edge: int, q: tuple[float, ...], column: float, row: float
) -> None:
    directions, _, _, frames = three_atoms()
    local = frames[edge] @ directions[in_edge]
    np.testing.assert_allclose(local, q, atol=1e-6)
    off_axis = torch.linalg.cross(frames[edge, 0], directions[in_edge])
    found = grid_coordinates(local[None], off_axis[None], ROWS, COLUMNS)
    assert found[0].item() == pytest.approx(column, abs=1e-6)
    assert found[1].item() == pytest.approx(row, abs=1e-6)


def test_each_row_of_a_rotation_is_a_polar_axis() -> None:
    rotation = random_rotations(torch.tensor([4]), torch.float64)
    frames = polar_frames(rotation)[0]
    torch.testing.assert_close(frames[:, 0], rotation[0])
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(3, dtype=torch.float64))


def turned_frames(rule: str, matrix: torch.Tensor) -> torch.Tensor:
    """The frames of a T-shaped molecule whose long edge is parallel to its surroundings."""
    positions = torch.tensor(
        [[0, 0, 0], [0, 0, 1.1], [0, 1.5, 0], [0, -1.5, 0]], dtype=torch.float64
    )
    centre, neighbour = torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3])
    vectors = (positions[neighbour] - positions[centre]) @ matrix.T
    # Nearest neighbour off the axis: the first of two at one distance.
    distances = vectors.norm(dim=1)
    around = surroundings(vectors, distances, centre, 4, 6.0)
    directions = vectors / distances[:, None]
    return edge_frames(directions, distances, centre, around, rule) @ matrix


def test_neighbour_rule_turns_with_the_structure_where_the_lab_vector_does_not() -> None:
    matrix = torch.as_tensor(Rotation.random(random_state=1).as_matrix())
    still = torch.eye(3, dtype=torch.float64)
    first, turned = turned_frames("neighbour", still), turned_frames("neighbour", matrix)
    torch.testing.assert_close(turned[0], first[0], rtol=0, atol=1e-6)
    # The roll is that of the neighbour at +y.
    expected = torch.tensor([[0, 0, 1.0], [0, -1, 0], [-1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(first[0], expected, rtol=0, atol=1e-6)
    published = turned_frames("published", matrix)[0] - turned_frames("published", still)[0]
    assert published.abs().max() > 0.1


def test_pairs_are_all_owners_with_all_members_of_their_centre() -> None:
    centre, membership = torch.tensor([2, 0, 2, 3]), torch.tensor([2, 1, 0, 2, 2])
    owner, member = pairs_by_centre(centre, membership, 4)
    assert list(zip(owner.tolist(), member.tolist(), strict=True)) == [
        (0, 0), (0, 3), (0, 4), (1, 2), (2, 0), (2, 3), (2, 4),
    ]  # fmt: skip


def test_spheres_in_chunks_are_the_same_spheres(monkeypatch: pytest.MonkeyPatch) -> None:
    directions, _, _, frames = three_atoms()
    values = torch.randn(6, 5, dtype=torch.float64)

    def grids() -> torch.Tensor:
        projection = project(frames, EDGE_INDEX[0], directions, EDGE_INDEX[1], 3, (ROWS, COLUMNS))
        return torch.cat([projection.grids(chunk, values) for chunk in projection.chunks])

    whole = grids()
    monkeypatch.setattr(sphere, "SPHERES_AT_ONCE", 4)
    torch.testing.assert_close(grids(), whole, rtol=0, atol=0)
    assert whole.shape == (6, COLUMNS, ROWS, 5)
    torch.testing.assert_close(whole[0].sum(dim=(0, 1)), values[2] + values[3])
