"""Small run folders in the format that a training and an evaluation write."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

#: Options of four methods, as `optim.piwsl` holds them.
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"terms": {}},
    "noisy_nodes": {
        "terms": {},
        "noisy_nodes": 1.0,
        "displacement": {"name": "uniform", "epsilon_max_angstrom": 0.025},
    },
    "piwsl": {
        "terms": {"pitc": 1.2, "pisc": 0.01},
        "displacement": {"name": "uniform", "epsilon_max_angstrom": 0.015},
    },
    "trapezoid": {
        "terms": {"pitc_trapezoid": 1.2},
        "displacement": {"name": "uniform", "epsilon_max_angstrom": 0.1},
    },
}

CONFIG: dict[str, Any] = {
    "trainer": "piwsl_ocp.ocp.trainer.PIWSLTrainer",
    "model": {"name": "painn", "hidden_channels": 64, "cutoff": 5.0},
    "optim": {"max_steps": 40, "batch_size": 8, "lr_initial": 0.0005, "eval_every": 10},
    "evaluation_metrics": {"primary_metric": "relative_rmse"},
    "dataset": {"train": {"src": "data/embedded_aspirin/n100/train/data.lmdb"}},
}

STATUS: dict[str, Any] = {
    "command": "piwsl resume elsewhere",
    "code": {"piwsl_ocp": "0.1.0", "commit": "0123456789abcdef0123", "torch": "2.13.0"},
    "started": "2026-01-02T03:04:05+00:00",
    "changed": "2026-01-02T03:05:05+00:00",
    "status": "finished",
}


def make_run(
    folder: Path,
    method: str,
    seed: int = 0,
    *,
    scale: float = 1.0,
    seconds_per_step: float = 0.1,
    checksum: str = "a" * 64,
    status: str = "finished",
    changes: dict[str, Any] | None = None,
) -> Path:
    """Write a run of 40 steps, validated every 10, whose errors are proportional to `scale`.

    Args:
        folder: the run folder.
        method: a key of `METHODS`.
        seed: of the run.
        scale: its test errors are 4 (energy RMSE), 3, 2, 1.5 and 0.5 (consistency) times this.
        seconds_per_step: time of a training step.
        checksum: of the test split.
        status: of the training.
        changes: values of the configuration by dotted key.
    """
    config = copy.deepcopy(CONFIG)
    config["seed"] = seed
    config["optim"]["piwsl"] = copy.deepcopy(METHODS[method])
    for dotted, value in (changes or {}).items():
        section = config
        *parents, last = dotted.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
    (folder / "logs" / "piwsl").mkdir(parents=True)
    (folder / "results").mkdir()
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({**STATUS, "seed": seed, "status": status}))
    lines = [json.dumps(line) for line in _log(scale, seconds_per_step)]
    (folder / "logs" / "piwsl" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "results" / "test.json").write_text(json.dumps(_result(scale, checksum)))
    return folder


def _log(scale: float, seconds_per_step: float) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(10, 41, 10):
        size = scale * float(np.exp(-step / 20))
        lines.append({"loss": size, "lr": 5e-4, "step": step, "split": "train"})
        lines.append({"energy_mae": 30 * size, "epoch": 1.0, "step": step, "split": "val"})
        scores = {
            "energy_rmse": 40 * size,
            "force_rmse": 20 * size,
            "relative_rmse": 2 * size,
            "consistency_error": 5 * size,
            "train_seconds": seconds_per_step * step,
        }
        lines.append({**scores, "step": step, "split": "val"})
    return lines


def _result(scale: float, checksum: str) -> dict[str, Any]:
    return {
        "split": "test",
        "dataset": {"name": "embedded_aspirin", "folder": "data/x", "checksum": checksum},
        "training": {"checksum": "b" * 64, "structures": 100},
        "unit": "kcal/mol",
        "errors": {
            "structures": 700,
            "energy_rmse": 4 * scale,
            "energy_mae": 3 * scale,
            "force_rmse": 2 * scale,
            "force_mae": 1.5 * scale,
            "energy_rmse_constant": 8.0,
            "force_rmse_constant": 25.0,
            "relative_rmse": 0.58 * scale,
        },
        "consistency": {"rms": 0.5 * scale, "displacement": "uniform", "epsilon_angstrom": 0.025},
        "noise_floor": 0.0,
    }
