"""Learned parts of SpinConv: distance layer, mixture over element pairs, spin filter, blocks.

Act is SiLU everywhere. M is the width inside a block, H the width of a message.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from piwsl_ocp.models.spinconv.sphere import Projection

#: Experts of a mixture.
EXPERTS = 8
#: Channels of a message that one group of the spin filter sees, if H is a multiple of it.
CHANNELS_PER_GROUP = 8
#: Largest absolute value of a fresh element table.
TABLE_RANGE = 1e-4
#: Added to the variance in the group normalisation.
NORM_EPSILON = 1e-5


class ElementPairs(NamedTuple):
    """The element pair of every edge or atom, each distinct pair once.

    Args:
        first: element, (pairs,).
        second: element, (pairs,).
        which: number of the pair for every edge or atom, (n,).
    """

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    which: Int[Tensor, " items"]


def element_pairs(
    first: Int[Tensor, " items"], second: Int[Tensor, " items"], elements: int
) -> ElementPairs:
    """Return the distinct pairs of two lists of atomic numbers below `elements`."""
    pairs, which = torch.unique(first * elements + second, return_inverse=True)
    return ElementPairs(pairs // elements, pairs % elements, which)


class GaussianBasis(nn.Module):
    """g_i(d) = exp(-(d - mu_i)^2 / 2 sigma^2) with mu_i = i r_c / (K - 1), i = 0 ... K - 1.

    Args:
        functions: K.
        cutoff: r_c, Angstrom.
        width: sigma in units of the distance between two centres.
    """

    def __init__(self, functions: int, cutoff: float, width: float) -> None:
        super().__init__()
        self.functions = functions
        self.spacing = cutoff / (functions - 1)
        self.width = width * self.spacing

    def forward(self, distances: Float[Tensor, " edges"]) -> Float[Tensor, "edges functions"]:
        """Return the K values for every distance, in the dtype of the distances."""
        numbers = torch.arange(self.functions, device=distances.device, dtype=distances.dtype)
        return torch.exp(-0.5 * ((distances[:, None] - numbers * self.spacing) / self.width) ** 2)


class DistanceLayer(nn.Module):
    """x_dist = dense(g(d')), with d' = d c^(2 sigmoid(p) - 1) + b.

    p and b are learned for each ordered pair of elements (source, target).

    Args:
        basis: g.
        width: M.
        elements: how many atomic numbers there are, from 0.
        scale_bound: c; None leaves distances as they are.
    """

    def __init__(
        self, basis: GaussianBasis, width: int, elements: int, scale_bound: float | None
    ) -> None:
        super().__init__()
        self.basis = basis
        self.scale_bound = scale_bound
        self.elements = elements
        self.dense = nn.Linear(basis.functions, width)
        if scale_bound is not None:
            self.scale_embedding = _element_table(elements**2, 1)
            self.offset_embedding = _element_table(elements**2, 1)

    def forward(
        self, distances: Float[Tensor, " edges"], pairs: ElementPairs
    ) -> Float[Tensor, "edges width"]:
        """Return x_dist; `distances` in Angstrom, `pairs` are (source, target)."""
        if self.scale_bound is not None:
            row = (pairs.first * self.elements + pairs.second)[pairs.which]
            exponent = 2 * torch.sigmoid(self.scale_embedding(row)) - 1
            scale = self.scale_bound ** exponent.squeeze(1)
            distances = distances * scale + self.offset_embedding(row).squeeze(1)
        return self.dense(self.basis(distances).to(self.dense.weight.dtype))


class PairMixture(nn.Module):
    """Mixture of experts whose gates depend on a pair of elements alone.

    gate = softmax(dense([table_1(first), table_2(second)])); h = Act(dense(x));
    h_b = Act(dense(h))_b; out = dense(sum over experts b of gate_b h_b).

    Args:
        channels: of the input.
        width: M.
        outputs: channels of the result.
        elements: how many atomic numbers there are, from 0.
        embedding: entries of a table's row.
    """

    def __init__(
        self, channels: int, width: int, outputs: int, elements: int, embedding: int
    ) -> None:
        super().__init__()
        self.first_embedding = _element_table(elements, embedding)
        self.second_embedding = _element_table(elements, embedding)
        self.gate = nn.Linear(2 * embedding, EXPERTS)
        self.inward = nn.Linear(channels, width)
        self.experts = nn.Linear(width, EXPERTS * width)
        self.outward = nn.Linear(width, outputs)

    def forward(
        self, x: Float[Tensor, "items channels"], pairs: ElementPairs
    ) -> Float[Tensor, "items outputs"]:
        """Return the mixture for every item and its pair of elements."""
        tables = self.first_embedding(pairs.first), self.second_embedding(pairs.second)
        gate = torch.softmax(self.gate(torch.cat(tables, dim=1)), dim=1)[pairs.which]
        hidden = silu(self.inward(x))
        hidden = silu(self.experts(hidden)).unflatten(1, (EXPERTS, -1))
        return self.outward(torch.bmm(gate[:, None], hidden).squeeze(1))


class SpinFilter(nn.Module):
    """Grouped circular filter around the axis of a sphere, mean over all turns, group norm.

    o_m(r) = Act(beta_m + sum over inputs i and columns c of W[m, i, c] S_g[i, (c + r) mod O]),
    f_m = mean over r of o_m(r). The sum over c is a product of Fourier coefficients around the
    axis, which costs O / 2 times less than the sum itself.

    Args:
        channels: H of the sphere.
        width: M.
        rows: L of the grid.
        columns: O of the grid.
    """

    def __init__(self, channels: int, width: int, rows: int, columns: int) -> None:
        super().__init__()
        self.groups = channels // CHANNELS_PER_GROUP
        self.rows, self.columns = rows, columns
        inputs = channels // self.groups * rows
        bound = 1 / math.sqrt(inputs * columns)
        self.weight = nn.Parameter(torch.empty(width, inputs, columns).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.norm = nn.GroupNorm(self.groups, width, eps=NORM_EPSILON)

    def forward(
        self, projection: Projection, x: Float[Tensor, "edges channels"]
    ) -> Float[Tensor, "spheres width"]:
        """Return the features of every sphere of a projection of the messages x."""
        forward, backward = _fourier_matrices(self.columns, self.weight)
        kernel = self._kernel(forward)
        features = [
            self._turns(projection.grids(chunk, x), forward, kernel, backward)
            for chunk in projection.chunks
        ]
        return self.norm(torch.cat(features))

    def _kernel(self, forward: Tensor) -> Float[Tensor, "batch inputs outputs"]:
        """Return real matrices that multiply the coefficients with conjugate(W), per frequency.

        Inputs are ordered (real and imaginary, row, channel), outputs (real and imaginary, m).
        """
        shape = (self.groups, -1, self.weight.shape[1] // self.rows, self.rows, 2, forward.shape[1])
        coefficients = (self.weight @ forward.flatten(0, 1).T).view(shape)
        real, imaginary = coefficients.permute(4, 5, 0, 3, 2, 1).flatten(3, 4)
        upper = torch.cat([real, -imaginary], dim=-1)
        lower = torch.cat([imaginary, real], dim=-1)
        return torch.cat([upper, lower], dim=-2).flatten(0, 1)

    def _turns(
        self, grids: Tensor, forward: Tensor, kernel: Tensor, backward: Tensor
    ) -> Float[Tensor, "spheres width"]:
        """Return the mean over all turns r of Act(o(r))."""
        frequencies = forward.shape[1]
        grids = grids.to(self.weight.dtype).flatten(2)
        coefficients = torch.matmul(forward.flatten(0, 1), grids)
        coefficients = coefficients.unflatten(2, (self.rows, self.groups, -1))
        coefficients = coefficients.unflatten(1, (2, frequencies))
        inputs = coefficients.permute(2, 4, 0, 1, 3, 5).flatten(3).flatten(0, 1)
        outputs = torch.bmm(inputs, kernel)
        outputs = outputs.unflatten(2, (2, -1)).unflatten(0, (frequencies, self.groups))
        outputs = outputs.permute(2, 1, 4, 3, 0).flatten(3).flatten(1, 2)
        turned = outputs @ backward.flatten(0, 1)
        return silu(turned + self.bias[:, None]).mean(dim=2)


class Interaction(nn.Module):
    """Update of the messages: h = Mix(Spin(S)); h = Act(h + dense(Act(dense(x_dist)))); Mix(h).

    Args:
        channels: H.
        width: M.
        shape: rows L and columns O of the grid.
        elements: how many atomic numbers there are, from 0.
        embedding: entries of an element table's row.
    """

    def __init__(
        self, channels: int, width: int, shape: tuple[int, int], elements: int, embedding: int
    ) -> None:
        super().__init__()
        self.spin = SpinFilter(channels, width, *shape)
        self.mixture = PairMixture(width, width, width, elements, embedding)
        self.distance = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.outward = PairMixture(width, width, channels, elements, embedding)

    def forward(
        self,
        projection: Projection,
        x: Float[Tensor, "edges channels"],
        x_dist: Float[Tensor, "edges width"],
        pairs: ElementPairs,
    ) -> Float[Tensor, "edges channels"]:
        """Return the update of every edge; sphere e is centred on the source of edge e."""
        hidden = self.mixture(self.spin(projection, x), pairs)
        hidden = silu(hidden + self.distance(x_dist))
        return self.outward(hidden, pairs)


class ForceHead(nn.Module):
    """Component of the force along the polar axis of a sphere: Mix(Act(Mix(Spin(S)))).

    The last mixture has two outputs, of which only the first is used; the second keeps the number
    of parameters that published weights have.

    Args:
        channels: H.
        width: M.
        shape: rows L and columns O of the grid.
        elements: how many atomic numbers there are, from 0.
        embedding: entries of an element table's row.
    """

    def __init__(
        self, channels: int, width: int, shape: tuple[int, int], elements: int, embedding: int
    ) -> None:
        super().__init__()
        self.spin = SpinFilter(channels, width, *shape)
        self.mixture = PairMixture(width, width, width, elements, embedding)
        self.outward = PairMixture(width, width, 2, elements, embedding)

    def forward(
        self, projection: Projection, x: Float[Tensor, "edges channels"], pairs: ElementPairs
    ) -> Float[Tensor, " spheres"]:
        """Return one number a sphere; `pairs` belong to the spheres."""
        hidden = silu(self.mixture(self.spin(projection, x), pairs))
        return self.outward(hidden, pairs)[:, 0]


def _element_table(rows: int, entries: int) -> nn.Embedding:
    table = nn.Embedding(rows, entries)
    nn.init.uniform_(table.weight, -TABLE_RANGE, TABLE_RANGE)
    return table


def _fourier_matrices(columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real Fourier transform around the axis and its inverse.

    Returns:
        forward (2, F, O): cosines and negative sines of the frequencies 0 ... O / 2;
        backward (2, F, O): the same, times 2 / O or, where a frequency is its own mirror, 1 / O.
    """
    frequency = torch.arange(columns // 2 + 1, device=like.device)
    column = torch.arange(columns, device=like.device)
    # Reduced to one turn as whole numbers, so that the angles are exact to the last digit.
    turn = frequency[:, None] * column % columns
    angle = (turn.double() * (2 * torch.pi / columns)).unsqueeze(0)
    forward = torch.cat([torch.cos(angle), -torch.sin(angle)])
    own_mirror = 2 * frequency % columns == 0
    factor = (2 - own_mirror.double()) / columns
    backward = forward * factor[:, None]
    return forward.to(like.dtype), backward.to(like.dtype)
