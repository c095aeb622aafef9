"""What a training step of a model costs: time, and memory kept for the backward pass."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from ase import Atoms
from torch import Tensor

from piwsl_ocp.consistency.objective import ObjectiveOptions
from piwsl_ocp.ocp.evaluations import CopyEvaluator
from piwsl_ocp.ocp.predictor import Predictor

CONSISTENCY_EPSILON_ANGSTROM = 0.025


@dataclass(frozen=True)
class StepCost:
    """Cost of one training step.

    Attributes:
        seconds: median time of a step: forward, backward, optimiser.
        kept_bytes: size of all tensors that the forward pass keeps for the backward pass.
    """

    seconds: float
    kept_bytes: int


class TrainingSteps:
    """Repeated training steps of a model on one batch, to be timed.

    Args:
        predictor: model in the mode it is trained in.
        structures: the batch; labels are zero, which costs the same as any.
        terms: weak terms and their weights; empty: supervised.
    """

    def __init__(
        self, predictor: Predictor, structures: Sequence[Atoms], terms: Mapping[str, float]
    ) -> None:
        self.model = predictor.model
        self.batch = predictor.batch(structures)
        self.copies = CopyEvaluator(
            ObjectiveOptions(terms), 0, "kcal/mol", {}, CONSISTENCY_EPSILON_ANGSTROM
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.done = 0

    def _loss(self) -> Tensor:
        evaluation = self.copies.training(self.model, self.batch, self.done)
        outputs = evaluation.outputs
        loss = outputs["energy"].abs().mean() + 100 * outputs["forces"].norm(dim=1).mean()
        return loss + sum(value.mean() for value in evaluation.losses.values())

    def step(self) -> float:
        """Do one step and return its seconds."""
        self.model.train()
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self._loss().backward()
        self.optimizer.step()
        self.done += 1
        return time.perf_counter() - start

    def kept_bytes(self) -> int:
        """Return the size of the distinct tensors that a forward pass keeps."""
        kept: dict[int, tuple[Tensor, int]] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
            return tensor

        self.model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self._loss()
        return sum(size for _, size in kept.values())


def step_costs(variants: Mapping[str, TrainingSteps], repetitions: int = 5) -> dict[str, StepCost]:
    """Return the cost of each variant; they take turns, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for steps in variants.values():
        steps.step()
    for _ in range(repetitions):
        for name, steps in variants.items():
            seconds[name].append(steps.step())
    return {
        name: StepCost(statistics.median(seconds[name]), steps.kept_bytes())
        for name, steps in variants.items()
    }
