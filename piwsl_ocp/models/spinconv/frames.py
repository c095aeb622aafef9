"""Frames of SpinConv: one for every edge from its surroundings, and random ones for the forces.

A frame is a matrix whose rows are the axes x, y, z; local coordinates of w are R w.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from piwsl_ocp.datasets.neighbours import RANK_RESOLUTION_ANGSTROM
from piwsl_ocp.models import noise
from piwsl_ocp.models.spinconv.graph import pairs_by_centre

#: Component of the constant vector that is added to the surroundings of every atom, in Angstrom.
LAB_COMPONENT = 1e-4
#: Added to the length of a cross product before dividing by it.
CROSS_PRODUCT_FLOOR = 1e-7
#: A cross product of unit vectors up to this many times their rounding error is 0.
ROUNDING_ERRORS = 8
#: Directions whose cross product is shorter count as parallel in the rule "neighbour".
PARALLEL = 1e-3
#: Surroundings shorter than this have no direction in the rule "neighbour", in Angstrom.
VANISHING_ANGSTROM = 1e-3

#: What fixes the roll of a frame whose surroundings are parallel to the edge; see `edge_frames`.
FRAME_RULES = ("published", "neighbour")


def guarded_norm(
    vectors: Float[Tensor, "*shape 3"], square_floor: float = 0.0
) -> Float[Tensor, "*shape"]:
    """Return lengths whose derivatives are zero, not infinite, at and below a floor.

    Args:
        vectors: of any leading shape.
        square_floor: squared length up to which the length counts as constant.
    """
    squares = vectors.square().sum(dim=-1)
    constant = squares <= square_floor
    lengths = torch.where(constant, 1.0, squares).sqrt()
    return torch.where(constant, squares.detach().sqrt(), lengths)


def surroundings(
    vectors: Float[Tensor, "edges 3"],
    distances: Float[Tensor, " edges"],
    target: Int[Tensor, " edges"],
    atoms: int,
    cutoff: float,
) -> Float[Tensor, "atoms 3"]:
    """Return A_n = sum over edges e with target n of (1 + cos(pi d_e / r_c)) / 2 v_e.

    Args:
        vectors: v, Angstrom.
        distances: d, Angstrom.
        target: of every edge.
        atoms: N.
        cutoff: r_c, Angstrom.
    """
    weight = 0.5 * (1 + torch.cos(torch.pi * distances / cutoff))
    return vectors.new_zeros(atoms, 3).index_add(0, target, weight[:, None] * vectors)


def edge_frames(
    directions: Float[Tensor, "edges 3"],
    distances: Float[Tensor, " edges"],
    target: Int[Tensor, " edges"],
    atom_vectors: Float[Tensor, "atoms 3"],
    rule: str = "published",
    lab_component: float = LAB_COMPONENT,
) -> Float[Tensor, "edges 3 3"]:
    """Return a left-handed frame for every edge: x along it, y and z from its target's neighbours.

    x = u_e, z = x × a / (|x × a| + 1e-7), y = x × z / (|x × z| + 1e-7), where a is the unit vector
    along A_t + lab_component (1, 1, 1); y = z = 0 where x × a is lost in rounding. With the rule
    "neighbour", a is the direction from t to its nearest neighbour off the axis where
    |x × A_t / |A_t|| < 1e-3 or |A_t| < 1e-3 Angstrom, if there is one; among neighbours at one
    distance it is the first in the list of edges.

    Args:
        directions: u, unit vectors from target to source.
        distances: d, Angstrom.
        target: t of every edge.
        atom_vectors: A of every atom.
        rule: "published" or "neighbour".
        lab_component: of the constant vector; it keeps a defined where A vanishes.
    """
    second = _unit(atom_vectors + lab_component)[target]
    if rule == "neighbour":
        second = _off_axis(directions, distances, target, atom_vectors, second)
    z = _over_floored_length(torch.linalg.cross(directions, second))
    y = _over_floored_length(torch.linalg.cross(directions, z))
    return torch.stack([directions, y, z], dim=1)


def random_rotations(
    keys: Int[Tensor, "*shape"], dtype: torch.dtype
) -> Float[Tensor, "*shape 3 3"]:
    """Return a rotation for every key, uniform over all rotations (normalised Gaussian quaternion).

    Args:
        keys: of any shape; see `piwsl_ocp.models.noise`.
        dtype: of the matrices.
    """
    quaternion = noise.normal(keys, 4, torch.float64)
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(dim=-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2).to(dtype)


def polar_frames(rotations: Float[Tensor, "*shape 3 3"]) -> Float[Tensor, "*shape 3 3 3"]:
    """Return three frames P_a Q for every rotation Q; row a of Q is the polar axis of frame a."""
    first, second, third = rotations.unbind(dim=-2)
    frames = [(first, second, third), (second, -first, third), (third, second, -first)]
    return torch.stack([torch.stack(frame, dim=-2) for frame in frames], dim=-3)


def _off_axis(
    directions: Tensor, distances: Tensor, target: Tensor, atom_vectors: Tensor, second: Tensor
) -> Float[Tensor, "edges 3"]:
    """Replace second axes that say nothing about the roll by the nearest neighbour off the axis."""
    across = torch.linalg.cross(directions, _unit(atom_vectors)[target]).norm(dim=1)
    vanishing = (atom_vectors.norm(dim=1) < VANISHING_ANGSTROM)[target]
    replaced = torch.nonzero((across < PARALLEL) | vanishing).squeeze(1)
    owner, member = pairs_by_centre(target[replaced], target, len(atom_vectors))
    edge = replaced[owner]
    off_axis = torch.linalg.cross(directions[edge], directions[member]).norm(dim=1) > PARALLEL
    steps = torch.round(distances[member].double() / RANK_RESOLUTION_ANGSTROM).long()
    order = steps * len(target) + member
    none = torch.iinfo(torch.int64).max
    nearest = torch.full_like(target, none)
    nearest = nearest.scatter_reduce(0, edge[off_axis], order[off_axis], "amin")
    found = nearest != none
    chosen = torch.where(found, nearest % max(len(target), 1), 0)
    return torch.where(found[:, None], directions[chosen], second)


def _unit(vectors: Tensor) -> Tensor:
    length = guarded_norm(vectors)
    return vectors / torch.where(length == 0, 1.0, length)[..., None]


def _over_floored_length(vectors: Tensor) -> Tensor:
    length = guarded_norm(vectors)[..., None]
    lost = length <= ROUNDING_ERRORS * torch.finfo(vectors.dtype).eps
    return torch.where(lost, 0.0, vectors / (length + CROSS_PRODUCT_FLOOR))
