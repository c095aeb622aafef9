"""Small real trainings for the integration tests."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
