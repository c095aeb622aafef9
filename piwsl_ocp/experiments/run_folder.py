"""A run folder read back: configuration, status, logged metrics, results."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import yaml

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.run_status import CONFIG_FILE, read_status

METRICS_FILE = "logs/piwsl/metrics.jsonl"
BEST_CHECKPOINT = "checkpoints/best_checkpoint.pt"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one training.

    Attributes:
        path: the folder.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.path.is_dir():
            raise UserError(f"no run folder at '{self.path}'")
        if not (self.path / CONFIG_FILE).is_file():
            raise UserError(f"'{self.path}' is no run folder: it has no {CONFIG_FILE}")

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint with the best validation metric; it may not exist yet."""
        return self.path / BEST_CHECKPOINT

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        path = self.path / CONFIG_FILE
        try:
            config = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise UserError(f"'{path}' is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(config, dict):
            raise UserError(f"'{path}' is empty or no mapping: the run was never started")
        return config

    @cached_property
    def status(self) -> dict[str, Any]:
        """Status and provenance as the training wrote them; `status` is "unknown" without them."""
        return read_status(self.path) or {"status": "unknown"}

    @property
    def is_finished(self) -> bool:
        """Whether the training reached its last step."""
        return self.status.get("status") == "finished"

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.config.get("seed", 0))

    @cached_property
    def log(self) -> pandas.DataFrame:
        """Every logged line, in the order of the file.

        Lines that a training repeated after a resume are there twice. A last line that was cut off
        in writing is left out.

        Raises:
            UserError: if there is no log or a line before the last cannot be read.
        """
        path = self.path / METRICS_FILE
        if not path.is_file():
            raise UserError(f"'{self.path}' has no {METRICS_FILE}: the training has not begun")
        lines = path.read_text().splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number == len(lines):
                    break
                raise UserError(
                    f"line {number} of '{path}' is no JSON: remove it, or train again"
                ) from error
        return pandas.DataFrame(rows, columns=None if rows else ["step", "split"])

    def metrics(self, split: str) -> pandas.DataFrame:
        """Return the logged values of a split, one row a step, ordered; the last value counts.

        Args:
            split: `train` or `val`.
        """
        rows = self.log[self.log["split"] == split].drop(columns="split")
        return rows.groupby("step", as_index=False).last().dropna(axis="columns", how="all")

    @property
    def last_step(self) -> int:
        """The last step in the log, 0 if there is none."""
        try:
            steps = self.log["step"]
        except UserError:
            return 0
        return int(steps.max()) if len(steps) else 0

    @property
    def seconds_per_step(self) -> float:
        """Median over the intervals between validations of the seconds of a training step.

        Validation and saving are not counted. Not a number where nothing was logged. Left out are
        intervals without progress, as between a line that a resumed training wrote anew and an
        old one after it.
        """
        validation = self.metrics("val")
        if "train_seconds" not in validation:
            return math.nan
        steps = np.diff(validation["step"], prepend=0)
        seconds = np.diff(validation["train_seconds"], prepend=0.0)
        forward = (steps > 0) & (seconds > 0)
        return float(np.median(seconds[forward] / steps[forward])) if forward.any() else math.nan

    @property
    def primary_metric(self) -> str:
        """The validation metric that chooses the best checkpoint; lower is better."""
        return self.config.get("evaluation_metrics", {}).get("primary_metric", "relative_rmse")

    @property
    def validation_curve(self) -> pandas.Series:
        """The primary metric by step, as it was logged: not a number after a divergence.

        Raises:
            UserError: as `log`.
        """
        log, name = self.log, self.primary_metric
        if name not in log:
            return pandas.Series(dtype=float)
        return log[log["split"] == "val"].groupby("step")[name].last().astype(float)

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint, None before the first validation."""
        validation = self.metrics("val")
        if self.primary_metric not in validation:
            return None
        return int(validation["step"][validation[self.primary_metric].idxmin()])

    @property
    def best_validation_metric(self) -> float:
        """The primary metric of the best checkpoint, infinite before the first validation."""
        validation = self.metrics("val")
        if self.primary_metric not in validation:
            return float("inf")
        return float(validation[self.primary_metric].min())

    def result(self, split: str = "test") -> dict[str, Any]:
        """Return what `piwsl_ocp.evaluation.evaluate` wrote for the best checkpoint.

        Raises:
            UserError: if the run was not evaluated on that split, or the result is damaged.
        """
        path = self.path / "results" / f"{split}.json"
        command = f"`piwsl validate {self.path} --split {split}`"
        if not path.is_file():
            raise UserError(f"'{self.path}' has no results/{split}.json: run {command}")
        try:
            result = json.loads(path.read_text())
        except ValueError:
            result = None
        if not isinstance(result, dict):
            raise UserError(f"'{path}' is cut off or no JSON: make it again with {command}")
        return result

    def has_result(self, split: str = "test") -> bool:
        """Return whether the best checkpoint was evaluated on a split."""
        return (self.path / "results" / f"{split}.json").is_file()
