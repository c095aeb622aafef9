"""The validation metrics that choose the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping

from piwsl_ocp.ocp.labels import LabelStatistics

#: Both errors relative to the constant predictor: sees energy and forces, lower is better.
PRIMARY_METRIC = "relative_rmse"

#: fairchem's metrics for which more is better; every other one is an error.
HIGHER_IS_BETTER = (
    "cosine_similarity",
    "within_threshold",
)


def require_squared_errors(evaluation_metrics: dict) -> None:
    """Add the mean square errors that the scores need, and the default primary metric."""
    metrics = evaluation_metrics.setdefault("metrics", {})
    for target in ("energy", "forces"):
        names = metrics.setdefault(target, ["mae"])
        if "mse" not in names:
            names.append("mse")
    evaluation_metrics.setdefault("primary_metric", PRIMARY_METRIC)


def scores(
    metrics: Mapping[str, Mapping[str, float]], statistics: LabelStatistics, split: str
) -> dict[str, float]:
    """Return root mean square errors over all structures and components of a split.

    `relative_rmse` = E_RMSE / E_RMSE0 + F_RMSE / F_RMSE0, where 0 is the constant predictor: the
    mean training energy and zero forces. Energies and forces in label units.

    Args:
        metrics: fairchem's aggregated metrics, with `energy_mse` and `forces_mse`.
        statistics: of the labels.
        split: `val` or `test`.
    """
    energy = math.sqrt(metrics["energy_mse"]["metric"])
    force = math.sqrt(metrics["forces_mse"]["metric"])
    energy_0, force_0 = statistics.constant_predictor(split)
    result = {
        "energy_rmse": energy,
        "force_rmse": force,
        PRIMARY_METRIC: energy / max(energy_0, 1e-12) + force / max(force_0, 1e-12),
    }
    if "consistency_mse" in metrics:
        result["consistency_error"] = math.sqrt(metrics["consistency_mse"]["metric"])
    return result


def is_better(name: str, value: float, best: float | None) -> bool:
    """Return whether a value of a metric beats the best so far.

    fairchem starts with 1e9 or -1: both mean that there is none yet for an error.
    """
    if not math.isfinite(value):
        return False
    if name.endswith(HIGHER_IS_BETTER):
        return best is None or value > best
    return best is None or best < 0 or value < best
