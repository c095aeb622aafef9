"""The options under `optim.piwsl` of a configuration, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from piwsl_ocp.consistency.displacement import DisplacementOptions
from piwsl_ocp.consistency.objective import ObjectiveOptions
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.sections.section import Section, nearest, parse
from piwsl_ocp.units import ENERGY_IN_EV

WHERE = "optim.piwsl"


class DisplacementSection(Section):
    """How the displaced copies are drawn; see `piwsl_ocp.consistency.displacement`."""

    name: str = "uniform"
    epsilon_max_angstrom: float = 0.01
    atom_fraction: float = 1.0


class PIWSLOptions(Section):
    """What PIWSL adds to a fairchem training.

    Args:
        terms: C of each weak loss by name, for residuals in kcal/mol; empty = supervised.
        displacement: how the displaced copies are drawn.
        metric: turns a residual into a loss: `mse`, `mae`, `relu`, `relu_literal`.
        noisy_nodes: weight of the supervised loss at the displaced structure against the labels
            of the original (NoisyNodes), relative to the supervised loss.
        every_probability: share of the steps that carry the weak losses, drawn at random; the
            weights are divided by it.
        energy_unit: unit of the labels; needed only where the data set has no `dataset.json`.
        target_scale: `none` trains on the labels as they are, `force_rms` divides energies and
            forces by the root mean square force of the training split.
        copies: `concatenated` evaluates clean and displaced copies in one forward pass,
            `separate` one after the other (less memory, more time, one process only).
        consistency_epsilon_angstrom: largest displacement of the consistency error on validation.
        allow_amp: train with weak losses in mixed precision, which rounds energies by as much as
            their residuals.
    """

    terms: dict[str, float] = Field(default_factory=dict)
    displacement: DisplacementSection = Field(default_factory=DisplacementSection)
    metric: str = "mse"
    noisy_nodes: float = 0.0
    every_probability: float = 1.0
    energy_unit: str | None = None
    target_scale: Literal["none", "force_rms"] = "none"
    copies: Literal["concatenated", "separate"] = "concatenated"
    consistency_epsilon_angstrom: float = Field(default=0.025, gt=0)
    allow_amp: bool = False

    @classmethod
    def parse(cls, section: Mapping[str, Any] | None, outputs: Mapping[str, Any]) -> PIWSLOptions:
        """Read `optim.piwsl` and check it, with the model outputs of the same configuration.

        Raises:
            UserError: one line that names the key, what was found and what was expected.
        """
        options = parse(cls, {} if section is None else section, WHERE)
        options.objective  # noqa: B018  (checks names and ranges)
        if options.energy_unit is not None and options.energy_unit not in ENERGY_IN_EV:
            raise UserError(
                f"{WHERE}.energy_unit: found '{options.energy_unit}'"
                f"{nearest(options.energy_unit, ENERGY_IN_EV)}"
            )
        if options.terms and "forces" not in outputs:
            raise UserError(
                f"{WHERE}.terms needs predicted forces, but 'outputs' holds only "
                f"{', '.join(outputs) or 'nothing'}: add 'forces: {{level: atom, "
                "train_on_free_atoms: true, eval_on_free_atoms: true}' to outputs"
            )
        return options

    @property
    def weak_terms(self) -> tuple[str, ...]:
        """Names of the weak losses that count."""
        return tuple(name for name, weight in self.terms.items() if weight)

    @property
    def objective(self) -> ObjectiveOptions:
        """The same options in the terms of the `consistency` room."""
        try:
            displacement = DisplacementOptions(**self.displacement.model_dump())
            return ObjectiveOptions(
                terms=dict(self.terms),
                displacement=displacement,
                metric=self.metric,
                noisy_nodes=self.noisy_nodes,
                every_probability=self.every_probability,
            )
        except UserError as error:
            raise UserError(f"{WHERE}: {error}") from None
