"""The weak part of a training objective: which terms, how heavy, how displaced, how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from piwsl_ocp.consistency.choices import expect_choice, expect_number
from piwsl_ocp.consistency.displacement import (
    ADVERSARIAL,
    DisplacementOptions,
    displace,
)
from piwsl_ocp.consistency.metrics import METRICS
from piwsl_ocp.consistency.potential import Labels, Prediction, Structures
from piwsl_ocp.consistency.randomness import generators, step_generator
from piwsl_ocp.consistency.terms import TERMS, Evaluations, Term
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

#: Weights are meant for residuals in this unit.
WEIGHT_UNIT = "kcal/mol"

#: Stands for the step of displacements that stay the same through a run; no step is negative.
_FIXED_STEP = -1


@dataclass(frozen=True)
class ObjectiveOptions:
    """The weak terms of a method.

    Attributes:
        terms: weight of each term by its name in `TERMS`, for residuals in kcal/mol; a term of
            weight 0 is left out altogether.
        displacement: how displaced copies are drawn.
        metric: a key of `METRICS`, for all terms.
        every_probability: probability of using displaced copies in a step, in (0, 1]; the
            weights are divided by it, which keeps the mean of the gradient.
        noisy_nodes: weight of the supervised loss at S_d against the labels of S (B.2; Godwin
            et al. 2022), relative to that at S; the trainer adds it, 0 leaves it out.

    Raises:
        UserError: if a name is unknown, or a value has another type or is out of its range.
    """

    terms: Mapping[str, float] = field(default_factory=dict)
    displacement: DisplacementOptions = field(default_factory=DisplacementOptions)
    metric: str = "mse"
    every_probability: float = 1.0
    noisy_nodes: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.terms, Mapping):
            raise UserError(
                f"terms is {self.terms!r}, a {type(self.terms).__name__}: "
                "expected a weight for each name, for example {pitc: 1.2, pisc: 0.01}"
            )
        for name, weight in self.terms.items():
            expect_choice("term", name, TERMS)
            if expect_number(f"weight of term '{name}'", weight) < 0:
                raise UserError(f"weight of term '{name}' is {weight}: expected at least 0")
        if not isinstance(self.displacement, DisplacementOptions):
            raise UserError(
                f"displacement is {self.displacement!r}: expected options such as "
                "{name: uniform, epsilon_max_angstrom: 0.01}"
            )
        expect_choice("metric", self.metric, METRICS)
        if expect_number("noisy_nodes", self.noisy_nodes) < 0:
            raise UserError(f"noisy_nodes is {self.noisy_nodes}: expected a weight of at least 0")
        if not 0 < expect_number("every_probability", self.every_probability) <= 1:
            raise UserError(
                f"every_probability is {self.every_probability}: "
                "expected a probability above 0 and up to 1 (1 applies the terms in every step)"
            )
        object.__setattr__(self, "terms", dict(self.terms))


class Objective:
    """Weak terms of one method, to be evaluated step by step.

    A step asks for the displacements, lets the model predict the clean structures and all
    displaced copies, and turns the predictions into a loss per structure and term. Reducing
    over structures and multiplying by `weights` is left to the caller, once.

    Args:
        options: terms, weights, displacement, metric, rare application.
        seed: seed of the run.
        energy_unit: unit of the energies that will be handed in, a key of
            `piwsl_ocp.units.ENERGY_IN_EV`; forces are in that unit per Angstrom.

    Raises:
        UserError: if the energy unit is unknown.
    """

    def __init__(
        self, options: ObjectiveOptions, seed: int, energy_unit: str = WEIGHT_UNIT
    ) -> None:
        self.options = options
        self.seed = seed
        self.to_kcal_per_mol = energy_factor(energy_unit, WEIGHT_UNIT)
        self.terms: tuple[Term, ...] = tuple(
            TERMS[name] for name, weight in options.terms.items() if weight > 0
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms with a weight above 0."""
        return tuple(term.name for term in self.terms)

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each term's mean loss in a step that applies it: weight / probability."""
        return {
            name: self.options.terms[name] / self.options.every_probability for name in self.names
        }

    @property
    def noisy_nodes_weight(self) -> float:
        """Factor of the supervised loss at S_d in a step that applies it."""
        return self.options.noisy_nodes / self.options.every_probability

    @property
    def number_of_copies(self) -> int:
        """Displaced copies of each structure that the method needs: 0, 1 or 2."""
        needed = [term.copies for term in self.terms]
        return max([*needed, int(self.options.noisy_nodes > 0)])

    @property
    def needs_labels(self) -> bool:
        """Whether a term needs reference energies."""
        return any(term.needs_labels for term in self.terms)

    @property
    def needs_label_forces(self) -> bool:
        """Whether a term needs reference forces."""
        return any(term.needs_label_forces for term in self.terms)

    @property
    def needs_clean_prediction(self) -> bool:
        """Whether displacements follow from a prediction and labels of the clean structures."""
        return self.number_of_copies > 0 and self.options.displacement.name in ADVERSARIAL

    def applies(self, step: int) -> bool:
        """Return whether displaced copies are used in this step, from (seed, step) alone.

        Args:
            step: optimiser step, the same on all ranks.
        """
        if self.number_of_copies == 0:
            return False
        draw = torch.rand((), dtype=torch.float64, generator=step_generator(self.seed, step))
        return bool(draw < self.options.every_probability)

    def displacements(
        self,
        structures: Structures,
        records: Iterable[int],
        step: int,
        clean: Prediction | None = None,
        labels: Labels | None = None,
    ) -> list[Float[Tensor, "atoms 3"]]:
        """Draw the displacements of one training step.

        With an adversarial displacement d' is drawn from `uniform`: an adversarial d' would lie on
        the line of d.

        Args:
            structures: B structures of N atoms.
            records: (B,) record index of each structure in its data set.
            step: optimiser step, from 0.
            clean: prediction at the structures, if `needs_clean_prediction`.
            labels: reference values at the structures, if `needs_clean_prediction`.

        Returns:
            `number_of_copies` tensors (N, 3) in Angstrom, d and then d'; an empty list if this
            step is left out. Each depends on (seed, step, record, copy) alone.
        """
        return self._draw(structures, records, step, clean, labels) if self.applies(step) else []

    def fixed_displacements(
        self,
        structures: Structures,
        records: Iterable[int],
        clean: Prediction | None = None,
        labels: Labels | None = None,
    ) -> list[Float[Tensor, "atoms 3"]]:
        """Draw displacements that stay the same through a run, for validation.

        Args:
            structures: B structures of N atoms.
            records: (B,) record index of each structure in its data set.
            clean: prediction at the structures, if `needs_clean_prediction`.
            labels: reference values at the structures, if `needs_clean_prediction`.

        Returns:
            `number_of_copies` tensors (N, 3) in Angstrom, always; other draws than those of
            any training step. Each depends on (seed, record, copy) alone.
        """
        return self._draw(structures, records, _FIXED_STEP, clean, labels)

    def residuals(
        self,
        clean: Prediction,
        displaced: Sequence[Prediction],
        displacements: Sequence[Float[Tensor, "atoms 3"]],
        structure_index: Int[Tensor, " atoms"],
        labels: Labels | None = None,
    ) -> dict[str, Float[Tensor, " structures"]]:
        """Return the residual of each term, in the unit of the predictions.

        Args:
            clean: prediction at the structures.
            displaced: predictions at the displaced copies, in the order of `displacements`.
            displacements: (N, 3) Angstrom each, as `displacements` returned them.
            structure_index: (N,) structure of each atom.
            labels: reference values at the structures, for terms that need them.

        Returns:
            A (B,) residual for each term's name; empty if there are no displacements.

        Raises:
            UserError: if a term needs reference values that are not there.
            ValueError: if the number of displaced copies is not the one that was asked for.
        """
        evaluations = Evaluations(
            clean, tuple(displaced), tuple(displacements), structure_index, labels
        )
        return {term.name: term.residual(evaluations) for term in self._ready(evaluations)}

    def losses(
        self,
        clean: Prediction,
        displaced: Sequence[Prediction],
        displacements: Sequence[Float[Tensor, "atoms 3"]],
        structure_index: Int[Tensor, " atoms"],
        labels: Labels | None = None,
    ) -> dict[str, Float[Tensor, " structures"]]:
        """Return the loss of each term and structure, neither weighted nor reduced.

        The residuals are converted to kcal/mol before the metric, so that a weight means the
        same whatever unit the energies are stored in.

        Args:
            clean: prediction at the structures.
            displaced: predictions at the displaced copies, in the order of `displacements`.
            displacements: (N, 3) Angstrom each, as `displacements` returned them.
            structure_index: (N,) structure of each atom.
            labels: reference values at the structures, for terms that need them.

        Returns:
            A (B,) loss for each term's name, in (kcal/mol)^2 for the metric "mse" and in
            kcal/mol for the others; empty if there are no displacements.

        Raises:
            UserError: if a term needs reference values that are not there.
            ValueError: if the number of displaced copies is not the one that was asked for.
        """
        evaluations = Evaluations(
            clean, tuple(displaced), tuple(displacements), structure_index, labels
        )
        metric, factor = METRICS[self.options.metric], self.to_kcal_per_mol
        return {
            term.name: metric(
                factor * term.residual(evaluations), factor * term.tolerance(evaluations)
            )
            for term in self._ready(evaluations)
        }

    def _draw(
        self,
        structures: Structures,
        records: Iterable[int],
        step: int,
        clean: Prediction | None,
        labels: Labels | None,
    ) -> list[Tensor]:
        records = [int(record) for record in records]
        first = self.options.displacement
        later = replace(first, name="uniform") if first.name in ADVERSARIAL else first
        return [
            displace(
                structures,
                first if copy == 0 else later,
                generators(self.seed, step, records, copy),
                clean,
                labels,
            )
            for copy in range(self.number_of_copies)
        ]

    def _ready(self, evaluations: Evaluations) -> tuple[Term, ...]:
        """Return the terms to evaluate after checking that all they need is there."""
        found = len(evaluations.displacements)
        if len(evaluations.displaced) != found:
            raise ValueError(
                f"{len(evaluations.displaced)} displaced predictions for {found} displacements"
            )
        if found == 0:
            return ()
        if found != self.number_of_copies:
            raise ValueError(f"{found} displaced copies: expected {self.number_of_copies}")
        labels = evaluations.labels
        for term in self.terms:
            if term.needs_labels and labels is None:
                raise UserError(f"term '{term.name}' needs reference energies, none are there")
            if term.needs_label_forces and labels.forces is None:
                raise UserError(
                    f"term '{term.name}' needs reference forces, the data set holds none: "
                    "leave the term out or use weak_label_predicted_forces"
                )
        return self.terms
