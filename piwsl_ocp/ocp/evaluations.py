"""Clean and displaced copies of one batch through the model, and the weak losses between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.consistency.displacement import DisplacementOptions, displace, generators
from piwsl_ocp.consistency.finite import check_finite
from piwsl_ocp.consistency.objective import Objective, ObjectiveOptions
from piwsl_ocp.consistency.potential import Labels, Prediction
from piwsl_ocp.consistency.residuals import consistency_residual
from piwsl_ocp.models.noise import combine
from piwsl_ocp.ocp.copies import concatenate_copies, with_noise_keys
from piwsl_ocp.ocp.labels import reference_labels
from piwsl_ocp.ocp.potential import (
    physical_prediction,
    records_of,
    split_copies,
    structures_of,
)
from piwsl_ocp.ocp.state import random_state_untouched

#: Seed of the displacements on validation data: the same in every run and at every step.
VALIDATION_SEED = 0
#: Copy number of the consistency error's draw; the terms use the numbers below it.
CONSISTENCY_COPY = 2

Forward = Callable[[Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """One batch through the model.

    Args:
        outputs: the model's outputs for the clean structures, as fairchem expects them.
        displaced_outputs: the same for the first displaced copy, or None.
        noisy_nodes: the supervised loss of the first displaced copy, (1,), or None.
        losses: the weak losses by term, (B,), in (kcal/mol)^2 for squared residuals.
        consistency: squared consistency residual per structure, (B,), or None.
    """

    outputs: dict[str, Tensor]
    losses: dict[str, Tensor] = field(default_factory=dict)
    consistency: Tensor | None = None
    displaced_outputs: dict[str, Tensor] | None = None
    noisy_nodes: Tensor | None = None

    @property
    def logged(self) -> dict[str, Tensor]:
        """Every per-structure value that belongs into the log, by name."""
        values = {name: loss.detach() for name, loss in self.losses.items()}
        if self.consistency is not None:
            values["consistency_mse"] = self.consistency.detach()
        if self.noisy_nodes is not None:
            values["noisy_nodes"] = self.noisy_nodes
        return values


class CopyEvaluator:
    """Evaluates a batch together with the displaced copies that a phase of training needs.

    Args:
        options: the weak terms.
        seed: seed of the run.
        energy_unit: unit of the labels.
        normalizers: fairchem's normaliser of each target that has one.
        consistency_epsilon_angstrom: largest displacement of the consistency error.
        separate: evaluate copy after copy instead of all in one forward pass.
        element_references: fairchem's own references of each target that has them.
    """

    def __init__(
        self,
        options: ObjectiveOptions,
        seed: int,
        energy_unit: str,
        normalizers: Mapping[str, torch.nn.Module],
        consistency_epsilon_angstrom: float,
        separate: bool = False,
        element_references: Mapping[str, torch.nn.Module] | None = None,
    ) -> None:
        self.objective = Objective(options, seed, energy_unit)
        self.validation_objective = Objective(options, VALIDATION_SEED, energy_unit)
        self.normalizers = normalizers
        self.element_references = {} if element_references is None else element_references
        self.probe = DisplacementOptions(epsilon_max_angstrom=consistency_epsilon_angstrom)
        self.separate = separate

    def training(self, forward: Forward, batch: Batch, step: int) -> Evaluation:
        """Evaluate the clean structures and the displaced copies of one training step.

        All copies of a structure meet the same draws of a model with dropout or random frames.
        """
        records = records_of(batch)
        keyed = with_noise_keys(batch, combine(torch.tensor(records), step, self.objective.seed))
        displacements = self.objective.displacements(
            structures_of(batch), records, step, *self._clean(forward, keyed)
        )
        outputs, predictions = self._predict(forward, keyed, displacements)
        return Evaluation(
            outputs[0],
            self._losses(self.objective, batch, predictions, displacements),
            displaced_outputs=outputs[1] if displacements else None,
        )

    def validation(self, forward: Forward, batch: Batch) -> Evaluation:
        """Evaluate with displacements fixed by the record alone, and the consistency error."""
        structures, records = structures_of(batch), records_of(batch)
        displacements = self.validation_objective.fixed_displacements(
            structures, records, *self._clean(forward, batch)
        )
        probe = displace(
            structures, self.probe, generators(VALIDATION_SEED, 0, records, CONSISTENCY_COPY)
        )
        outputs, predictions = self._predict(forward, batch, [*displacements, probe, -probe])
        *predictions, plus, minus = predictions
        residual = consistency_residual(
            plus.energy, minus.energy, predictions[0].forces, probe, structures.structure_index
        )
        losses = self._losses(self.validation_objective, batch, predictions, displacements)
        check_finite({"consistency residual": residual}, records)
        return Evaluation(outputs[0], losses, residual.square())

    @torch.no_grad()
    def _clean(self, forward: Forward, batch: Batch) -> tuple[Prediction, Labels] | tuple[()]:
        """Return the prediction and labels that adversarial displacements follow from.

        It costs a forward pass more; the model's random numbers stay those of the pass after it.
        """
        if not self.objective.needs_clean_prediction:
            return ()
        with random_state_untouched(batch.pos.device):
            outputs = forward(concatenate_copies(batch, []))
        clean = physical_prediction(outputs, self.normalizers)
        return clean, reference_labels(batch, self.element_references)

    def _predict(
        self, forward: Forward, batch: Batch, displacements: Sequence[Tensor]
    ) -> tuple[list[dict[str, Tensor]], list[Prediction]]:
        """Return the outputs and the prediction in label units of every copy, clean first."""
        if self.separate:
            outputs = [dict(forward(concatenate_copies(batch, [])))]
            outputs += [forward(_moved(batch, d)) for d in displacements]
            return outputs, [physical_prediction(o, self.normalizers) for o in outputs]
        outputs = forward(concatenate_copies(batch, displacements))
        copies = 1 + len(displacements)
        chunks = {name: value.chunk(copies) for name, value in outputs.items()}
        split = [{name: chunks[name][copy] for name in chunks} for copy in range(copies)]
        return split, split_copies(physical_prediction(outputs, self.normalizers), copies)

    def _losses(
        self,
        objective: Objective,
        batch: Batch,
        predictions: Sequence[Prediction],
        displacements: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return the weak losses per structure; stop at the first value that is not finite."""
        records = records_of(batch)
        index = structures_of(batch).structure_index
        names = ["predicted energy", "predicted energy of copy 1", "predicted energy of copy 2"]
        check_finite({n: p.energy for n, p in zip(names, predictions, strict=False)}, records)
        losses = objective.losses(
            predictions[0],
            predictions[1:],
            displacements,
            index,
            reference_labels(batch, self.element_references) if objective.needs_labels else None,
        )
        check_finite(losses, records)
        return losses


def _moved(batch: Batch, displacement: Tensor) -> Batch:
    moved = concatenate_copies(batch, [])
    moved.pos = moved.pos + displacement.to(moved.pos)
    return moved
