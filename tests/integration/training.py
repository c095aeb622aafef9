"""Small real trainings for the integration tests."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import torch
from torch_geometric.data import Batch

from piwsl_ocp.ocp.config import load_config
from piwsl_ocp.ocp.trainer import PIWSLTrainer, build_trainer

SMALL = {
    "painn": {"model.hidden_channels": 16, "model.num_layers": 2, "model.num_rbf": 16},
    "schnet": {
        "model.hidden_channels": 16,
        "model.num_filters": 16,
        "model.num_interactions": 2,
        "model.num_gaussians": 16,
    },
}


def small_config(
    data: Path, overrides: Mapping[str, Any] | None = None, model: str = "painn"
) -> dict[str, Any]:
    """Return a configuration of the project, made small, for a converted data set."""
    settings = {
        "dataset.train.src": f"{data}/train/data.lmdb",
        "dataset.val.src": f"{data}/val/data.lmdb",
        "dataset.test.src": f"{data}/test/data.lmdb",
        **SMALL[model],
        "optim.batch_size": 4,
        "optim.max_steps": 12,
        "optim.T_max": 60,
        "optim.eval_every": 6,
        "optim.ema_decay": 0.9,
        "logger.wandb": "disabled",
        "logger.tensorboard": False,
        "print_every": 2,
        "cpu": True,
        **(overrides or {}),
    }
    return load_config(f"configs/experiments/embedded_ethanol/{model}_piwsl.yml", settings)


def make_trainer(
    data: Path,
    overrides: Mapping[str, Any] | None = None,
    model: str = "painn",
    seed: int = 0,
) -> PIWSLTrainer:
    """Return a trainer in this process, without a run folder."""
    return build_trainer(small_config(data, overrides, model), seed=seed)


def one_batch(trainer: PIWSLTrainer) -> Batch:
    """Return the first four training records as one batch."""
    dataset = trainer.train_dataset.dataset
    return trainer.collater([dataset[index] for index in range(4)]).to(torch.device("cpu"))


def with_label(data: Path, folder: Path, split: str, record: int, **labels: float) -> Path:
    """Return a copy of a converted data set in which one record has other labels.

    Args:
        data: the data set.
        folder: of the copy.
        split: of the record.
        record: its number.
        labels: `energy`, or `forces` for the last component of the last force.
    """
    shutil.copytree(data, folder)
    key = str(record).encode()
    with (
        lmdb.open(str(folder / split / "data.lmdb"), subdir=False) as file,
        file.begin(write=True) as transaction,
    ):
        stored = pickle.loads(transaction.get(key))
        if "energy" in labels:
            stored.energy = stored.energy * 0 + labels["energy"]
        if "forces" in labels:
            stored.forces[-1, -1] = labels["forces"]
        transaction.put(key, pickle.dumps(stored))
    return folder
