"""Experiments of tiny runs, and their results to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.sweep.plan import read_experiment
from piwsl_ocp.experiments.sweep.run import Launcher, Outcome, run
from piwsl_ocp.experiments.sweep.status import steps_done

CONFIGS = "experiments/embedded_aspirin"


def write_experiment(path: Path, data: Path, grid: Mapping[str, list], **settings: Any) -> Path:
    """Write the file of an experiment with small models and short runs, and return it."""
    common = {
        "dataset.train.src": f"{data}/train/data.lmdb",
        "dataset.val.src": f"{data}/val/data.lmdb",
        "dataset.test.src": f"{data}/test/data.lmdb",
        "model.hidden_channels": 16,
        "optim.batch_size": 4,
        "optim.max_steps": 40,
        "optim.T_max": 40,
        "optim.eval_every": 10,
        "logger.wandb": "disabled",
        "logger.tensorboard": False,
        "print_every": 1,
        "cpu": True,
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    same = {key: value for key, value in common.items() if key not in grid}
    content = {"name": "tiny", "grid": dict(grid), "set": same, "measurements": ["errors"]}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def plan(root: Path, data: Path, grid: Mapping[str, list], **settings: Any) -> list[Job]:
    """Return the runs of such an experiment, in `root`/runs."""
    root.mkdir(parents=True, exist_ok=True)
    path = write_experiment(root / "experiment.yml", data, grid, **settings)
    return read_experiment(path, root / "runs")


def methods(*names: str) -> list[str]:
    """Return the configurations of methods."""
    return [f"{CONFIGS}/painn_{name}.yml" for name in names]


def make(jobs: Sequence[Job], launcher: Launcher, **options: Any) -> Outcome:
    """Make runs without showing anything."""
    return run(jobs, launcher, Console(file=open(os.devnull, "w")), **options)  # noqa: PTH123


def once_at_step(job: Job, step: int, action: Callable[[], None]) -> Callable[[], None]:
    """Return a function that does something when it first finds a run at a step or behind it."""
    done: list[int] = []

    def look() -> None:
        if not done and steps_done(job.run_folder) >= step:
            done.append(step)
            action()

    look.done = done
    return look


def result(job: Job) -> dict[str, Any]:
    """Return everything that a run computed: errors, predictions, weights, learning curve."""
    folder = RunFolder(Path(job.run_folder))
    values: dict[str, Any] = {"errors": folder.result()["errors"]}
    values["consistency"] = folder.result()["consistency"]
    curve = folder.metrics("val")
    values["curve"] = curve.drop(columns="train_seconds").to_dict("list")
    with np.load(folder.path / "results" / "predictions_test.npz") as arrays:
        values["predictions"] = {name: arrays[name].tobytes() for name in arrays.files}
    for name in ("best_checkpoint.pt", "last_ema.pt", "checkpoint.pt"):
        state = torch.load(folder.path / "checkpoints" / name, weights_only=True)["state_dict"]
        values[name] = {key: value.numpy().tobytes() for key, value in state.items()}
    return values


def piwsl(*arguments: object, **options: Any) -> subprocess.CompletedProcess:
    """Run the `piwsl` command."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=600, check=False, **options
    )


def command(*arguments: object) -> list[str]:
    """Return the `piwsl` command as a list of words."""
    return [sys.executable, "-m", "piwsl_ocp", *map(str, arguments)]
