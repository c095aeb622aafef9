"""Rotations that take an edge onto the polar axis, and their Wigner matrices, differentiable.

No continuous choice of frames exists for all directions, so the charts are arranged such that
every derivative is finite: a smooth frame everywhere but in a small cap around one direction,
which has a frame of its own. Axes and real spherical harmonics are those of e3nn (polar axis y).
"""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem, whose models need e3nn)

from functools import lru_cache

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

#: The options of `frames`.
FRAMES = ("fixed", "random")

#: Direction n whose opposite -n is the centre of the cap. The cap touches no plane of two axes,
#: and its border is 2 degrees away from all lattice directions with indices up to 4.
_GENERIC = (-0.8974, -0.3101, 0.3139)
#: Cosine of the angle between an edge and n at the border of the cap (11 degrees wide).
_CAP_COSINE = -0.98
_POLE = (0.0, 1.0, 0.0)
#: Half a turn about z: takes the opposite of the pole onto the pole.
_HALF_TURN = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def edge_frames(
    vectors: Float[Tensor, "edges 3"], roll: Float[Tensor, " edges"] | None = None
) -> Float[Tensor, "edges 3 3"]:
    """Return rotations R with R u = (0, 1, 0), u the direction of the edge.

    R = Y(roll) P M(u, n): the smallest rotation M takes u to a fixed direction n, P takes n to the
    pole, Y turns about the pole. In the cap around -n the target is -n and P a half turn more.

    Args:
        vectors: of the edges, none of length 0.
        roll: angle about each edge, rad; None: 0.

    Returns:
        (E, 3, 3), smooth but for a step of the roll at the border of the cap; in the type of the
        vectors, also under autocast.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        directions = vectors / vectors.norm(dim=1, keepdim=True)
        generic = torch.nn.functional.normalize(directions.new_tensor(_GENERIC), dim=0)
        capped = (directions.detach() @ generic < _CAP_COSINE)[:, None]
        targets = torch.where(capped, -generic, generic)
        to_pole = smallest_rotation(generic[None], directions.new_tensor(_POLE)[None])[0]
        half_turn = directions.new_tensor(_HALF_TURN)
        fixed = torch.where(capped[:, :, None], half_turn @ to_pole, to_pole)
        frames = fixed @ smallest_rotation(directions, targets)
        return frames if roll is None else _about_pole(roll.to(vectors)) @ frames


def smallest_rotation(
    start: Float[Tensor, "edges 3"], end: Float[Tensor, "edges 3"]
) -> Float[Tensor, "edges 3 3"]:
    """Return the rotation by the smallest angle that takes one direction to another.

    M = c + [v] + v v^T / (1 + c) with v = start x end, c = start . end (Rodrigues' formula).

    Args:
        start, end: unit vectors, nowhere opposite.
    """
    start, end = torch.broadcast_tensors(start, end)
    axis = torch.linalg.cross(start, end)
    cosine = (start * end).sum(dim=1)[:, None, None]
    x, y, z = axis.unbind(dim=1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(-1, 3, 3)
    outer = axis[:, :, None] * axis[:, None, :]
    return cosine * torch.eye(3).to(axis) + skew + outer / (1 + cosine)


def wigner_matrices(
    rotations: Float[Tensor, "edges 3 3"], lmax: int
) -> Float[Tensor, "edges coefficients coefficients"]:
    """Return the Wigner matrices of all degrees to `lmax`, block by block on the diagonal.

    D^0 = 1, D^1 = R, D^l = (2l + 1) C (D^(l-1) x R) C^T, with C the Clebsch-Gordan coefficients
    (3j symbols) that couple l-1 and 1 to l: polynomials of the rotation's elements, without
    angles and so without poles. D acts on e3nn's real spherical harmonics: Y(R x) = D Y(x).

    Args:
        rotations: R.
        lmax: largest degree.

    Returns:
        (E, K, K) with K = (lmax + 1)^2.
    """
    edges, size = len(rotations), (lmax + 1) ** 2
    matrices = rotations.new_zeros(edges, size, size)
    block = rotations.new_ones(edges, 1, 1)
    with torch.autocast(rotations.device.type, enabled=False):
        for degree in range(lmax + 1):
            if degree > 0:
                block = _raised(block, rotations, degree)
            here = slice(degree**2, (degree + 1) ** 2)
            matrices[:, here, here] = block
    return matrices


def _raised(block: Tensor, rotations: Tensor, degree: int) -> Tensor:
    """Return D^l from D^(l-1) and R."""
    if degree == 1:
        return rotations
    coupling = _coupling(degree, rotations.dtype, rotations.device)
    lower = block.shape[1]
    # C_m(ai) D_ab R_ij C_n(bj), one factor after the other.
    half = coupling.permute(0, 2, 1).reshape(-1, lower) @ block  # (m i) b
    half = half.reshape(len(block), -1, 3, lower).transpose(2, 3)  # m b i
    half = half.reshape(len(block), -1, 3) @ rotations  # (m b) j
    return half.reshape(len(block), 2 * degree + 1, -1) @ coupling.reshape(len(coupling), -1).T


@lru_cache(maxsize=64)
def _coupling(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return orthonormal Clebsch-Gordan coefficients (2l + 1, 2l - 1, 3)."""
    symbols = o3.wigner_3j(degree, degree - 1, 1, dtype=torch.float64)
    return ((2 * degree + 1) ** 0.5 * symbols).to(dtype=dtype, device=device)


def _about_pole(angle: Float[Tensor, " edges"]) -> Float[Tensor, "edges 3 3"]:
    cosine, sine = torch.cos(angle), torch.sin(angle)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [cosine, zero, sine, zero, one, zero, -sine, zero, cosine]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)
