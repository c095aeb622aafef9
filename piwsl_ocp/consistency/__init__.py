"""The method: a displaced potential gives residuals, residuals give a loss."""

from __future__ import annotations

from piwsl_ocp.consistency.displacement import (
    DISPLACEMENTS,
    DisplacementOptions,
    adversarial,
    displace,
)
from piwsl_ocp.consistency.finite import NonFiniteError, check_finite
from piwsl_ocp.consistency.metrics import METRICS
from piwsl_ocp.consistency.objective import Objective, ObjectiveOptions
from piwsl_ocp.consistency.potential import Labels, Potential, Prediction, Structures
from piwsl_ocp.consistency.randomness import generators
from piwsl_ocp.consistency.terms import TERMS, Evaluations, Term

__all__ = [
    "DISPLACEMENTS",
    "METRICS",
    "TERMS",
    "DisplacementOptions",
    "Evaluations",
    "Labels",
    "NonFiniteError",
    "Objective",
    "ObjectiveOptions",
    "Potential",
    "Prediction",
    "Structures",
    "Term",
    "adversarial",
    "check_finite",
    "displace",
    "generators",
]
