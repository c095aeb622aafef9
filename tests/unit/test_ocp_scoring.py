"""The metric that chooses the best checkpoint, and its direction."""

from __future__ import annotations

import math

import pytest

from piwsl_ocp.ocp.labels import LabelStatistics, SplitStatistics
from piwsl_ocp.ocp.scoring import is_better, require_squared_errors, scores

STATISTICS = LabelStatistics(
    unit="kcal/mol",
    splits={
        "train": SplitStatistics(count=10, energy_mean=1.0, energy_std=5.0, force_rms=20.0),
        "val": SplitStatistics(count=10, energy_mean=4.0, energy_std=4.0, force_rms=10.0),
    },
    info={},
)


def test_relative_rmse_sees_energy_and_forces() -> None:
    metrics = {"energy_mse": {"metric": 4.0}, "forces_mse": {"metric": 9.0}}
    result = scores(metrics, STATISTICS, "val")
    assert result["energy_rmse"] == 2.0
    assert result["force_rmse"] == 3.0
    # The constant predictor errs by sqrt(4^2 + (4 - 1)^2) = 5 in energy and 10 in force.
    assert result["relative_rmse"] == pytest.approx(2.0 / 5.0 + 3.0 / 10.0, rel=1e-12)


def test_the_consistency_error_is_a_root_mean_square() -> None:
    metrics = {name: {"metric": 1.0} for name in ("energy_mse", "forces_mse")}
    metrics["consistency_mse"] = {"metric": 0.25}
    assert scores(metrics, STATISTICS, "val")["consistency_error"] == 0.5


@pytest.mark.parametrize(
    ("name", "value", "best", "expected"),
    [
        ("relative_rmse", 0.5, -1.0, True),
        ("relative_rmse", 0.5, None, True),
        ("relative_rmse", 0.5, 0.6, True),
        ("relative_rmse", 0.6, 0.5, False),
        ("relative_rmse", math.nan, 0.5, False),
        ("energy_mae", 2.0, 1e9, True),
        ("energy_mse", 2.0, 1.0, False),
        ("forces_cosine_similarity", 0.9, 0.8, True),
        ("forces_cosine_similarity", 0.7, 0.8, False),
        ("energy_forces_within_threshold", 0.1, -1.0, True),
    ],
)
def test_errors_fall_and_similarities_rise(
    name: str, value: float, best: float | None, expected: bool
) -> None:
    assert is_better(name, value, best) is expected


def test_squared_errors_are_added_once() -> None:
    metrics = {"metrics": {"energy": ["mae", "mse"]}}
    require_squared_errors(metrics)
    assert metrics["metrics"] == {"energy": ["mae", "mse"], "forces": ["mae", "mse"]}
    assert metrics["primary_metric"] == "relative_rmse"
