"""Metrics: a residual per structure becomes a loss per structure.

All share one signature, (residual (B,), tolerance (B,)) -> loss (B,), where the tolerance is
E(S_d) |d|^2: the energy of the displaced copy times the squared norm of the displacement over
all 3N components of the structure, with the number taken per square Angstrom. Those that know
no tolerance leave it aside. Nothing is reduced over structures.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]


def mse(
    residual: Float[Tensor, " structures"], tolerance: Float[Tensor, " structures"]
) -> Float[Tensor, " structures"]:
    """Squared error: residual^2.

    Args:
        residual: (B,) in the energy unit.
        tolerance: (B,), without effect.

    Returns:
        (B,) in the square of the energy unit.
    """
    return residual.square()


def mae(
    residual: Float[Tensor, " structures"], tolerance: Float[Tensor, " structures"]
) -> Float[Tensor, " structures"]:
    """Absolute error: |residual|.

    Args:
        residual: (B,) in the energy unit.
        tolerance: (B,), without effect.

    Returns:
        (B,) in the energy unit.
    """
    return residual.abs()


def relu(
    residual: Float[Tensor, " structures"], tolerance: Float[Tensor, " structures"]
) -> Float[Tensor, " structures"]:
    """Absolute error beyond the size of the tolerance: ReLU(|residual| - |E(S_d)| |d|^2).

    Variant of arXiv 2408.05215, A10, whose tolerance carries the sign of the energy.

    Args:
        residual: (B,) in the energy unit.
        tolerance: (B,) E(S_d) |d|^2 in the energy unit.

    Returns:
        (B,) in the energy unit.
    """
    return (residual.abs() - tolerance.abs()).relu()


def relu_literal(
    residual: Float[Tensor, " structures"], tolerance: Float[Tensor, " structures"]
) -> Float[Tensor, " structures"]:
    """Absolute error beyond the signed tolerance: ReLU(|residual| - E(S_d) |d|^2).

    Source: arXiv 2408.05215, A10 as printed. A negative energy turns the tolerance into an
    addition, and the zero of the energy changes the loss.

    Args:
        residual: (B,) in the energy unit.
        tolerance: (B,) E(S_d) |d|^2 in the energy unit.

    Returns:
        (B,) in the energy unit.
    """
    return (residual.abs() - tolerance).relu()


#: Metrics by the name used in a configuration.
METRICS: dict[str, Metric] = {
    "mse": mse,
    "mae": mae,
    "relu": relu,
    "relu_literal": relu_literal,
}
