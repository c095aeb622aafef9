"""Time of a training step, side by side in one process: stock fairchem, ours, and PIWSL.

    python benchmarks/training_step.py --data data/embedded_aspirin/n100

Every variant trains the same configuration on the same LMDB. Variants take turns, step by step in
blocks, so that a busy machine slows all of them alike; the table shows the median block and its
ratio to the first row of the model.
"""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from fairchem.core.trainers import OCPTrainer
from rich.console import Console
from rich.table import Table

from piwsl_ocp.ocp.config import load_config
from piwsl_ocp.ocp.trainer import PIWSLTrainer, build_trainer

WEAK = {"pitc": 1.2, "pisc": 0.8}

#: name -> (trainer, stored graphs, weak terms, copies, denormals flushed)
VARIANTS: dict[str, tuple[type[OCPTrainer], bool, dict[str, float], str, bool]] = {
    "stock fairchem, supervised": (OCPTrainer, False, {}, "concatenated", False),
    "ours, supervised": (PIWSLTrainer, True, {}, "concatenated", True),
    "ours, PIWSL, three forward passes": (PIWSLTrainer, True, WEAK, "separate", True),
    "ours, PIWSL, one forward pass": (PIWSLTrainer, True, WEAK, "concatenated", True),
    "ours, trapezoid": (PIWSLTrainer, True, {"pitc_trapezoid": 1.2}, "concatenated", True),
}


def build(config: dict[str, Any], name: str) -> OCPTrainer:
    """Return the trainer of one variant."""
    kind, stored_graphs, terms, copies, _ = VARIANTS[name]
    config = deepcopy(config)
    config["optim"]["piwsl"].update(terms=terms, copies=copies)
    config["model"]["otf_graph"] = not stored_graphs
    if kind is OCPTrainer:
        config["dataset"]["train"]["format"] = "lmdb"
        for split in ("train", "val"):
            config["dataset"][split]["src"] = copied(config["dataset"][split]["src"])
        config["optim"]["max_epochs"] = 1
    return build_trainer(config, kind)


def copied(source: str) -> str:
    """Return the path of a copy of an LMDB, because LMDB opens a file only once in a process."""
    folder = tempfile.mkdtemp()
    return str(shutil.copytree(Path(source).parent, Path(folder) / "copy") / Path(source).name)


def endless(trainer: OCPTrainer) -> Iterator[Any]:
    """Return the training batches epoch after epoch."""
    while True:
        yield from trainer.train_loader


def block(trainer: OCPTrainer, batches: Iterator[Any], steps: int, flush: bool) -> float:
    """Return seconds per step over a block of steps, loading included."""
    torch.set_flush_denormal(flush)
    trainer.model.train()
    start = time.perf_counter()
    for _ in range(steps):
        trainer.step += 1
        batch = next(batches)
        loss = trainer._compute_loss(trainer._forward(batch), batch)
        trainer._backward(loss)
        loss.item()
    return (time.perf_counter() - start) / steps


def measure(config: dict[str, Any], blocks: int, steps: int) -> dict[str, float]:
    """Return the median seconds per step of every variant."""
    trainers = {name: build(config, name) for name in VARIANTS}
    loaders = {name: endless(trainer) for name, trainer in trainers.items()}
    runs: dict[str, Callable[[], float]] = {
        name: lambda name=name: block(trainers[name], loaders[name], steps, VARIANTS[name][-1])
        for name in VARIANTS
    }
    for trainer in trainers.values():
        trainer.config["optim"]["max_steps"] = 10**9
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(blocks):
        for name, run in runs.items():
            seconds[name].append(run())
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(
    data: Annotated[Path, typer.Option(help="Converted data set.")],
    models: Annotated[str, typer.Option(help="Models, by comma.")] = "painn,schnet",
    blocks: Annotated[int, typer.Option(help="Blocks of each variant.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of a block.")] = 15,
    configuration: Annotated[
        str, typer.Option(help="Configuration; {model} is filled in.")
    ] = "experiments/embedded_aspirin/{model}_supervised.yml",
) -> None:
    """Print seconds per training step and ratios for stock fairchem and this package."""
    logging.disable(logging.WARNING)
    sources = {f"dataset.{split}.src": f"{data}/{split}/data.lmdb" for split in ("train", "val")}
    for model in models.split(","):
        config = load_config(configuration.format(model=model), sources)
        del config["dataset"]["test"]
        seconds = measure(config, blocks, steps)
        table = Table(title=f"{model}, {torch.get_num_threads()} threads")
        table.add_column("variant")
        for heading in ("ms / step", "speed against stock", "time against ours, supervised"):
            table.add_column(heading, justify="right")
        stock, ours = seconds["stock fairchem, supervised"], seconds["ours, supervised"]
        for name, value in seconds.items():
            table.add_row(
                name, f"{1e3 * value:.1f}", f"{stock / value:.2f} x", f"{value / ours:.2f} x"
            )
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
