"""Pure-PyTorch scatter and segment reductions with the interface of torch_scatter.

Every function can be differentiated twice and called from TorchScript. A minimum or maximum
passes its gradient to the first element that attains it; an empty group gives zero.
"""

from __future__ import annotations

from typing import Optional, Tuple  # noqa: UP035  (TorchScript reads these names)

import torch
from torch import Tensor

# ruff: noqa: UP006, UP045  (TorchScript on Python 3.10 needs the typing names)


def broadcast(src: Tensor, other: Tensor, dim: int) -> Tensor:
    """Expand `src`, laid out along dimension `dim`, to the shape of `other`."""
    if dim < 0:
        dim = other.dim() + dim
    if src.dim() == 1:
        for _ in range(dim):
            src = src.unsqueeze(0)
    while src.dim() < other.dim():
        src = src.unsqueeze(-1)
    return src.expand(other.size())


def _group_count(index: Tensor, dim_size: Optional[int]) -> int:
    if dim_size is not None:
        return dim_size
    if index.numel() == 0:
        return 0
    return int(index.max()) + 1


def _start(src: Tensor, index: Tensor, dim: int, dim_size: Optional[int], value: float) -> Tensor:
    shape = list(src.size())
    shape[dim] = _group_count(index, dim_size)
    return torch.full(shape, value, dtype=src.dtype, device=src.device)


def scatter_sum(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
) -> Tensor:
    """Sum of the elements of `src` that share an index; added to `out` when it is given."""
    index = broadcast(index, src, dim)
    if out is not None:
        return out.scatter_add_(dim, index, src)
    return _start(src, index, dim, dim_size, 0.0).scatter_add(dim, index, src)


def scatter_add(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
) -> Tensor:
    """The same as `scatter_sum`."""
    return scatter_sum(src, index, dim, out, dim_size)


def scatter_mul(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
) -> Tensor:
    """Product of the elements of `src` that share an index; one for an empty group."""
    index = broadcast(index, src, dim)
    start = _start(src, index, dim, dim_size, 1.0) if out is None else out
    product = start.scatter_reduce(dim, index, src, "prod", include_self=True)
    return product if out is None else out.copy_(product)


def scatter_mean(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
) -> Tensor:
    """Mean of the elements of `src` that share an index; rounded down for whole numbers."""
    total = scatter_sum(src, index, dim, out, dim_size)
    index = broadcast(index, src, dim)
    count = torch.zeros_like(total).scatter_add(dim, index, torch.ones_like(src)).clamp(min=1)
    if total.is_floating_point():
        return total.div_(count) if out is not None else total / count
    mean = torch.div(total, count, rounding_mode="floor")
    return mean if out is None else out.copy_(mean)


def _extreme(
    src: Tensor, index: Tensor, dim: int, dim_size: Optional[int], reduce: str
) -> Tuple[Tensor, Tensor]:
    """Value and position of the extreme of each group; position `size` where there is none."""
    if dim < 0:
        dim = src.dim() + dim
    index = broadcast(index, src, dim)
    size = src.size(dim)
    start = _start(src, index, dim, dim_size, 0.0)
    best = start.scatter_reduce(dim, index, src.detach(), reduce, include_self=False)
    position = broadcast(torch.arange(size, device=src.device), src, dim)
    position = torch.where(src.detach() == best.gather(dim, index), position, size)
    first = torch.full_like(start, size, dtype=torch.long)
    first = first.scatter_reduce(dim, index, position, "amin", include_self=True)
    if size == 0:
        return start, first
    value = src.gather(dim, first.clamp(max=size - 1))
    return torch.where(first < size, value, best), first


def _into(out: Tensor, value: Tensor, keep_larger: bool) -> Tensor:
    """Combine `value` with what `out` holds and write it to `out`."""
    combined = torch.maximum(out, value) if keep_larger else torch.minimum(out, value)
    return out.copy_(combined)


def scatter_min(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
) -> Tuple[Tensor, Tensor]:
    """Smallest element of each group, and where it was (`src.size(dim)` for an empty group)."""
    value, position = _extreme(src, index, dim, dim_size if out is None else out.size(dim), "amin")
    if out is not None:
        value = _into(out, torch.where(position < src.size(dim), value, out), False)
    return value, position


def scatter_max(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
) -> Tuple[Tensor, Tensor]:
    """Largest element of each group, and where it was (`src.size(dim)` for an empty group)."""
    value, position = _extreme(src, index, dim, dim_size if out is None else out.size(dim), "amax")
    if out is not None:
        value = _into(out, torch.where(position < src.size(dim), value, out), True)
    return value, position


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
    reduce: str = "sum",
) -> Tensor:
    """Reduce the elements of `src` that share an index along dimension `dim`.

    Args:
        src: values.
        index: group of each value: one number per element of dimension `dim`, or as `src`.
        dim: the dimension that is reduced.
        out: tensor to reduce into; a new one when None.
        dim_size: number of groups; the largest index plus one when None.
        reduce: "sum", "add", "mul", "mean", "min" or "max".

    Returns:
        `src` with dimension `dim` replaced by one of `dim_size` groups.

    Raises:
        ValueError: `reduce` is none of these.
    """
    # TorchScript can compile these comparisons but no table of functions.
    if reduce == "sum" or reduce == "add":
        return scatter_sum(src, index, dim, out, dim_size)
    if reduce == "mean":
        return scatter_mean(src, index, dim, out, dim_size)
    if reduce == "min":
        return scatter_min(src, index, dim, out, dim_size)[0]
    if reduce == "max":
        return scatter_max(src, index, dim, out, dim_size)[0]
    if reduce == "mul":
        return scatter_mul(src, index, dim, out, dim_size)
    raise ValueError("reduce is '" + reduce + "': use sum, add, mul, mean, min or max")


def segment_coo(
    src: Tensor,
    index: Tensor,
    out: Optional[Tensor] = None,
    dim_size: Optional[int] = None,
    reduce: str = "sum",
) -> Tensor:
    """`scatter` along the last dimension of a sorted `index`."""
    return scatter(src, index, index.dim() - 1, out, dim_size, reduce)


def _csr_index(indptr: Tensor) -> Tensor:
    """Group number of every element that the boundaries `indptr` (groups + 1,) enclose."""
    group = torch.arange(indptr.numel() - 1, device=indptr.device)
    return torch.repeat_interleave(group, indptr[1:] - indptr[:-1])


def _one_dimensional(indptr: Tensor) -> Tensor:
    for _ in range(indptr.dim() - 1):
        if not bool((indptr == indptr[:1]).all()):
            raise ValueError("boundaries that differ between rows need the real torch_scatter")
        indptr = indptr[0]
    return indptr


def segment_csr(
    src: Tensor, indptr: Tensor, out: Optional[Tensor] = None, reduce: str = "sum"
) -> Tensor:
    """Reduce `src[indptr[i]:indptr[i + 1]]` along the last dimension of `indptr`.

    Raises:
        ValueError: `indptr` has several rows that differ.
    """
    dim = indptr.dim() - 1
    boundaries = _one_dimensional(indptr)
    index = _csr_index(boundaries)
    inside = src.narrow(dim, int(boundaries[0]), index.numel())
    return scatter(inside, index, dim, out, boundaries.numel() - 1, reduce)


def gather_coo(src: Tensor, index: Tensor, out: Optional[Tensor] = None) -> Tensor:
    """The element of `src` that belongs to each entry of `index`, along its last dimension."""
    dim = index.dim() - 1
    shape = list(src.size())
    shape[dim] = index.size(dim)
    while index.dim() < src.dim():
        index = index.unsqueeze(-1)
    gathered = src.gather(dim, index.expand(shape))
    return gathered if out is None else out.copy_(gathered)


def gather_csr(src: Tensor, indptr: Tensor, out: Optional[Tensor] = None) -> Tensor:
    """Repeat `src[i]` as often as segment i of the boundaries `indptr` is long."""
    index = _csr_index(_one_dimensional(indptr))
    gathered = src.index_select(indptr.dim() - 1, index)
    return gathered if out is None else out.copy_(gathered)
