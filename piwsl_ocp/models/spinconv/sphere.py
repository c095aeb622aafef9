"""Spheres of SpinConv: directions around a centre, spread over a grid of latitude and longitude."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from piwsl_ocp.models.spinconv.frames import guarded_norm
from piwsl_ocp.models.spinconv.graph import pairs_by_centre

#: Squared distance from the axis below which the longitude is 0 and nothing depends on it.
POLE = 1e-10
#: Spheres whose grids are in memory at a time.
SPHERES_AT_ONCE = 512


def grid_coordinates(
    local: Float[Tensor, "pairs 3"], off_axis: Float[Tensor, "pairs 3"], rows: int, columns: int
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Return the column and row coordinates of directions on the sphere.

    X = O (phi + pi) / 2 pi with phi = atan2(q_y, q_z), and 0 where |x × u| is up to 1e-5;
    Y = (L - 1) (0.99 (theta / pi + 1/2) + 0.005) with theta = asin(q_x), computed as
    atan2(q_x, |x × u|), which is as exact at the poles as elsewhere. At a pole X and Y have zero
    derivatives.

    Args:
        local: q, the direction u in the frame of the sphere.
        off_axis: x × u, whose length is sqrt(1 - q_x^2).
        rows: L, from pole to pole.
        columns: O, around the axis.
    """
    along, y, z = local.unbind(dim=1)
    at_pole = off_axis.square().sum(dim=1) <= POLE
    along = torch.where(at_pole, along.detach(), along)
    # A frame without y and z has no longitude at all.
    pinned = at_pole | (y.square() + z.square() < POLE)
    longitude = torch.atan2(torch.where(pinned, 0.0, y), torch.where(pinned, 1.0, z))
    latitude = torch.atan2(along, guarded_norm(off_axis, POLE))
    column = columns * (longitude + torch.pi) / (2 * torch.pi)
    row = (rows - 1) * (0.99 * (latitude / torch.pi + 0.5) + 0.005)
    return column, row


def bilinear_cells(
    column: Float[Tensor, " pairs"], row: Float[Tensor, " pairs"], rows: int, columns: int
) -> tuple[Int[Tensor, "pairs 4"], Float[Tensor, "pairs 4"]]:
    """Return the four grid cells around each point and their bilinear weights, which sum to 1.

    A cell's number is column * rows + row; columns are circular.
    """
    left, below = column.detach().floor(), row.detach().floor()
    f, g = column - left, row - below
    left, below = left.long() % columns, below.long()
    right = (left + 1) % columns
    corners = [(left, below), (right, below), (left, below + 1), (right, below + 1)]
    cells = torch.stack([i * rows + j for i, j in corners], dim=1)
    weights = torch.stack([(1 - f) * (1 - g), f * (1 - g), (1 - f) * g, f * g], dim=1)
    return cells, weights


@dataclass(frozen=True)
class Chunk:
    """Spheres whose grids are made together.

    Args:
        spheres: how many.
        edge: the edge that each pair puts on a sphere, (P,).
        cells: numbers of four cells for each pair, counted through all grids of the chunk, (P, 4).
        weights: of the four cells, (P, 4).
    """

    spheres: int
    edge: Int[Tensor, " pairs"]
    cells: Int[Tensor, "pairs 4"]
    weights: Float[Tensor, "pairs 4"]


@dataclass(frozen=True)
class Projection:
    """Which edges go where on which spheres.

    Args:
        rows: L, from pole to pole.
        columns: O, around the axis.
        chunks: the spheres in order.
    """

    rows: int
    columns: int
    chunks: list[Chunk]

    def grids(
        self, chunk: Chunk, values: Float[Tensor, "edges channels"]
    ) -> Float[Tensor, "spheres columns rows channels"]:
        """Return the sums of the edges' values on the grids of a chunk."""
        channels = values.shape[1]
        spread = chunk.weights[:, :, None] * values.to(chunk.weights.dtype)[chunk.edge][:, None]
        grid = spread.new_zeros(chunk.spheres * self.columns * self.rows, channels)
        grid = grid.index_add(0, chunk.cells.flatten(), spread.flatten(0, 1))
        return grid.view(chunk.spheres, self.columns, self.rows, channels)


def project(
    frames: Float[Tensor, "spheres 3 3"],
    centre: Int[Tensor, " spheres"],
    directions: Float[Tensor, "edges 3"],
    target: Int[Tensor, " edges"],
    atoms: int,
    shape: tuple[int, int],
) -> Projection:
    """Put all edges that end at a sphere's centre on that sphere.

    Args:
        frames: of every sphere, axes in rows.
        centre: atom in the middle of every sphere.
        directions: unit vectors of the edges.
        target: of every edge.
        atoms: N.
        shape: rows L and columns O of the grid.
    """
    rows, columns = shape
    sphere, edge = pairs_by_centre(centre, target, atoms)
    around = directions[edge]
    # Products and sums, not a matrix product: those may be rounded to 10 bits on a GPU.
    local = (frames[sphere] * around[:, None]).sum(dim=2)
    off_axis = torch.linalg.cross(frames[:, 0][sphere], around)
    cells, weights = bilinear_cells(
        *grid_coordinates(local, off_axis, rows, columns), rows, columns
    )
    chunks = []
    for first, last, pairs in _cuts(sphere, len(frames)):
        numbers = (sphere[pairs] - first)[:, None] * (rows * columns) + cells[pairs]
        chunks.append(Chunk(last - first, edge[pairs], numbers, weights[pairs]))
    return Projection(rows, columns, chunks)


def _cuts(sphere: Tensor, spheres: int) -> list[tuple[int, int, slice]]:
    """Return first and last sphere and the pairs of every chunk; pairs are ordered by sphere."""
    if spheres <= SPHERES_AT_ONCE:
        return [(0, spheres, slice(None))]
    bounds = [*range(0, spheres, SPHERES_AT_ONCE), spheres]
    pairs = torch.searchsorted(sphere, torch.tensor(bounds, device=sphere.device)).tolist()
    return [
        (bounds[i], bounds[i + 1], slice(pairs[i], pairs[i + 1])) for i in range(len(bounds) - 1)
    ]
