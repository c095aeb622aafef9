"""Train every model in every force mode on molecules and on a crystal, supervised and with PIWSL.

    python benchmarks/all_models.py --steps 500 --runs runs/all_models

Shows the training loss at the beginning and at the end of each run. The exit code is 1 if a run
fails, a logged number is not finite, or a loss has not fallen. The same command goes on with what
is left.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.experiments.grid import FORCE_VARIANTS, MODELS
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.sweep.local import LocalLauncher
from piwsl_ocp.experiments.sweep.plan import make_job
from piwsl_ocp.experiments.sweep.run import run

DATA = ("molecules", "oxide")
METHODS = ("supervised", "piwsl")
TRAINING_STRUCTURES = 100

#: Share of the steps that counts as the beginning and as the end.
SHARE = 0.1


def job(data: Path, name: str, model: str, method: str, steps: int, runs: Path) -> Job:
    """Return the training of one model."""
    overrides = {
        f"dataset.{split}.src": str(data / name / split / "data.lmdb")
        for split in ("train", "val", "test")
    }
    overrides |= {
        "optim.max_steps": steps,
        "optim.T_max": steps,
        "optim.eval_every": steps,
        "logger.wandb": "disabled",
        "logger.tensorboard": False,
        "cpu": True,
        "print_every": 5,
    }
    config = f"experiments/embedded_{name}/{model}_{method}.yml"
    return make_job(config, 0, overrides, runs, measurements=())


def losses(folder: Path) -> tuple[float, float, bool]:
    """Return the mean loss of the first and of the last steps, and whether all is finite."""
    log = RunFolder(folder).metrics("train")
    count = max(1, round(SHARE * len(log)))
    loss = log["loss"].to_numpy()
    finite = bool(np.isfinite(log.select_dtypes("number").to_numpy()).all())
    return float(loss[:count].mean()), float(loss[-count:].mean()), finite


def main(
    steps: Annotated[int, typer.Option(min=20, help="Steps of each training.")] = 500,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path(
        "runs/all_models"
    ),
    parallel: Annotated[int | None, typer.Option(min=1, help="Trainings at a time.")] = None,
) -> None:
    """Train everything and show whether it learns."""
    console = Console(width=120)
    data = runs / "data"
    for name in DATA:
        options = ConversionOptions(train=TRAINING_STRUCTURES, name=f"embedded_{name}")
        convert("embedded", [name], data / name, options, progress=False)
    kinds = list(product(DATA, (*MODELS, *FORCE_VARIANTS), METHODS))
    jobs = [job(data, name, model, method, steps, runs) for name, model, method in kinds]
    outcome = run(jobs, LocalLauncher(parallel), console, retry_failed=True)

    table = Table(title=f"{steps} steps, {TRAINING_STRUCTURES} structures")
    for heading in ("data", "model", "method", "loss, first tenth", "last tenth", "finite"):
        table.add_column(heading)
    learned = []
    for (name, model, method), made in zip(kinds, jobs, strict=True):
        if made.run_folder in outcome.failures:
            table.add_row(name, model, method, "failed", "", "")
            continue
        first, last, finite = losses(Path(made.run_folder))
        learned.append(finite and last < first)
        table.add_row(name, model, method, f"{first:.4g}", f"{last:.4g}", "yes" if finite else "NO")
    console.print(table)
    outcome.show(console)
    console.print(f"{sum(learned)} of {len(jobs)} trainings learn")
    if not (outcome.is_complete and all(learned)):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
