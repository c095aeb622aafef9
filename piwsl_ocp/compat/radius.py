"""Pure-PyTorch neighbour search with the interface of torch_cluster.

Where more neighbours are in range than are asked for, the nearest are kept, so the graph does not
depend on rounding. Edges come sorted by target, then by distance in steps of 1e-6, then by source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

#: Pairs of points looked at in one piece: bounds the memory to a few hundred megabytes.
MAX_PAIRS = 4_000_000
#: Distances are ranked in steps of this size, so that rounding does not choose among neighbours.
RANK_RESOLUTION = 1e-6


def _boundaries(batch: Tensor | None, points: Tensor, groups: int) -> Tensor:
    """First point of every group, and the end of the last one (groups + 1,)."""
    if batch is None:
        return torch.tensor([0, points.size(0)], device=points.device)
    return torch.searchsorted(
        batch.contiguous(), torch.arange(groups + 1, device=points.device, dtype=batch.dtype)
    )


def _group_count(*batches: Tensor | None) -> int:
    return max((int(b[-1]) + 1 for b in batches if b is not None and b.numel()), default=1)


def _pieces(candidates: Tensor) -> list[tuple[int, int]]:
    """Ranges of targets whose candidate pairs stay below `MAX_PAIRS`."""
    ends = candidates.cumsum(0)
    ranges, first, done = [], 0, 0
    while first < candidates.numel():
        last = int(torch.searchsorted(ends, done + MAX_PAIRS, right=True))
        last = max(last, first + 1)
        ranges.append((first, last))
        done, first = int(ends[last - 1]), last
    return ranges


def _nearest_in_range(
    x: Tensor, y: Tensor, target: Tensor, source: Tensor, r: float, limit: int | None
) -> Tensor:
    """Pairs (2, E) of `target`, `source` within `r`, at most `limit` nearest per target."""
    distance = (x[source] - y[target]).square().sum(-1)
    near = distance <= r * r
    target, source, distance = target[near], source[near], distance[near]
    steps = torch.round(distance.sqrt() / RANK_RESOLUTION)
    order = torch.argsort(steps, stable=True)
    order = order[torch.argsort(target[order], stable=True)]
    target, source = target[order], source[order]
    if limit is not None and target.numel():
        rank = torch.arange(target.numel(), device=target.device)
        rank = rank - torch.searchsorted(target, target)
        target, source = target[rank < limit], source[rank < limit]
    return torch.stack([target, source])


def _search(
    x: Tensor, y: Tensor, pointer_x: Tensor, pointer_y: Tensor, r: float, limit: int | None,
    ignore_same_index: bool,
) -> Tensor:  # fmt: skip
    x, y = x.detach().double(), y.detach().double()
    x, y = (p.unsqueeze(-1) if p.dim() == 1 else p for p in (x, y))
    sizes_x, sizes_y = (p[1:] - p[:-1] for p in (pointer_x, pointer_y))
    group = torch.repeat_interleave(torch.arange(sizes_y.numel(), device=x.device), sizes_y)
    # A structure of `y` beyond the last one of `x` has no candidates.
    missing = max(sizes_y.numel() - sizes_x.numel(), 0)
    sizes_x = torch.nn.functional.pad(sizes_x, (0, missing))
    pointer_x = torch.nn.functional.pad(pointer_x, (0, missing))
    candidates, first_source = sizes_x[group], pointer_x[:-1][group]
    found = [torch.empty(2, 0, dtype=torch.long, device=x.device)]
    for begin, end in _pieces(candidates):
        count = candidates[begin:end]
        target = torch.repeat_interleave(torch.arange(begin, end, device=x.device), count)
        position = torch.arange(target.numel(), device=x.device)
        position = position - torch.repeat_interleave(count.cumsum(0) - count, count)
        source = first_source[target] + position
        if ignore_same_index:
            other = source != target
            target, source = target[other], source[other]
        found.append(_nearest_in_range(x, y, target, source, r, limit))
    return torch.cat(found, dim=1)


def radius(
    x: Tensor,
    y: Tensor,
    r: float,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    max_num_neighbors: int | None = 32,
    num_workers: int = 1,
    batch_size: int | None = None,
    ignore_same_index: bool = False,
) -> Tensor:
    """For every point of `y` the points of `x` within `r`, nearest first.

    Args:
        x: points (N, D) that are found.
        y: points (M, D) around which is searched.
        r: the radius, in the unit of the points.
        batch_x: structure of each point of `x` (N,), ascending; one structure when None.
        batch_y: structure of each point of `y` (M,), ascending.
        max_num_neighbors: most neighbours per point of `y`; no limit when None.
        num_workers: accepted and not used.
        batch_size: number of structures; the largest number plus one when None.
        ignore_same_index: leave out pairs of the same row of `x` and `y`.

    Returns:
        Pairs (2, E): row of `y`, row of `x`; sorted by row of `y`, then by distance.
    """
    groups = batch_size or _group_count(batch_x, batch_y)
    if batch_x is None and batch_y is not None:
        batch_x = batch_y.new_zeros(x.size(0))
    if batch_y is None and batch_x is not None:
        batch_y = batch_x.new_zeros(y.size(0))
    pointer_x, pointer_y = _boundaries(batch_x, x, groups), _boundaries(batch_y, y, groups)
    return _search(x, y, pointer_x, pointer_y, float(r), max_num_neighbors, ignore_same_index)


def radius_graph(
    x: Tensor,
    r: float,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_neighbors: int | None = 32,
    flow: str = "source_to_target",
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Edges between the points of each structure that are within `r` of each other.

    Args:
        x: points (N, D).
        r: the radius, in the unit of the points.
        batch: structure of each point (N,), ascending; one structure when None.
        loop: include the pair of a point with itself.
        max_num_neighbors: most neighbours per point; no limit when None.
        flow: "source_to_target" puts the neighbour in row 0, "target_to_source" in row 1.
        num_workers: accepted and not used.
        batch_size: number of structures; the largest number plus one when None.

    Returns:
        Edges (2, E), sorted by centre, then by distance.
    """
    edges = radius(x, x, r, batch, batch, max_num_neighbors, num_workers, batch_size, not loop)
    return edges.flip(0) if flow == "source_to_target" else edges


def radius_of_pointers(
    x: Tensor,
    y: Tensor,
    ptr_x: Tensor | None,
    ptr_y: Tensor | None,
    r: float,
    max_num_neighbors: int | None,
    num_workers: int,
    ignore_same_index: bool,
) -> Tensor:
    """`radius` for structures given by their boundaries: the operator `pyg::radius`."""
    whole_x, whole_y = (_boundaries(None, p, 1) for p in (x, y))
    pointer_x = whole_x if ptr_x is None else ptr_x
    pointer_y = whole_y if ptr_y is None else ptr_y
    return _search(x, y, pointer_x, pointer_y, r, max_num_neighbors, ignore_same_index)


def absent(name: str, package: str) -> Callable[..., NoReturn]:
    """Return a function that says, when it is called, which package it needs."""

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise ImportError(f"'{name}' needs the real {package}: the stand-in of piwsl_ocp lacks it")

    return refuse


knn = absent("knn", "torch_cluster")
knn.__doc__ = "Refuse; PyG looks for the word batch_size in this line."
neighbor_sample = absent("neighbor_sample", "pyg_lib")
