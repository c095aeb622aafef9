"""One logger for a run: JSON lines, TensorBoard, Weights & Biases (offline by default)."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import json
import os
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common.logger import Logger, TensorboardLogger, WandBLogger
from fairchem.core.common.registry import registry

from piwsl_ocp.atomic_file import drop_cut_off_line

METRICS_FILE = "metrics.jsonl"


@registry.register_logger("piwsl")
class RunLogger(Logger):
    """Write the values of each logged step to every place asked for.

    `logger: {name: piwsl, wandb: offline|online|disabled, tensorboard: true|false}`; `online` is
    the only setting that uses the network. Training values are written every `print_every` steps.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        options = config["logger"] if isinstance(config["logger"], dict) else {}
        self._every = max(1, int(config["cmd"]["print_every"]))
        self._pending: dict[str, float] = {}
        folder = Path(config["cmd"]["logs_dir"])
        drop_cut_off_line(folder / METRICS_FILE)  # of a training that this one goes on with
        self._file = (folder / METRICS_FILE).open("a", buffering=1)
        self._children: list[Logger] = []
        if options.get("tensorboard", True):
            self._children.append(TensorboardLogger(config))
        mode = options.get("wandb", "offline")
        if mode != "disabled":
            os.environ["WANDB_MODE"] = mode
            os.environ.setdefault("WANDB_SILENT", "true")
            self._children.append(WandBLogger(_named_run(config)))

    def log(self, update_dict: dict[str, Any], step: int, split: str = "") -> None:
        """Log values of one step; those of one training step are gathered into one line."""
        values = {key: _number(value) for key, value in update_dict.items()}
        if split == "train":
            if step % self._every:
                return
            self._pending.update(values)
            if "lr" not in values:
                return
            values, self._pending = self._pending, {}
        self._file.write(json.dumps({**values, "step": int(step), "split": split}) + "\n")
        for child in self._children:
            child.log(values, step=step, split=split)

    def watch(self, model: torch.nn.Module, log_freq: int = 1000) -> None:
        """Pass the model on to the loggers that can watch gradients."""
        for child in self._children:
            child.watch(model, log_freq=log_freq)

    def log_summary(self, summary_dict: dict[str, Any]) -> None:
        """Pass summary values on to the loggers that keep them."""
        self._each(WandBLogger, "log_summary", summary_dict)

    def log_plots(self, plots: list) -> None:
        """Pass plots on to the loggers that keep them."""
        self._each(WandBLogger, "log_plots", plots)

    def log_table(self, **table: Any) -> None:
        """Pass a table on to the loggers that keep them."""
        for child in self._children:
            if isinstance(child, WandBLogger):
                child.log_table(**table)

    def log_artifact(self, name: str, type: str, file_location: str) -> None:
        """Pass a file on to the loggers that keep files."""
        self._each(WandBLogger, "log_artifact", name, type, file_location)

    def mark_preempting(self) -> None:
        """Tell the loggers that know it that this run will be preempted."""
        self._each(WandBLogger, "mark_preempting")

    def close(self) -> None:
        """End the run in every logger."""
        self._file.close()
        for child in self._children:
            if isinstance(child, TensorboardLogger):
                child.writer.close()
            if isinstance(child, WandBLogger):
                import wandb

                wandb.finish(quiet=True)

    def _each(self, kind: type[Logger], method: str, *arguments: Any) -> None:
        for child in self._children:
            if isinstance(child, kind):
                getattr(child, method)(*arguments)


def _number(value: Any) -> float | int:
    value = value.item() if isinstance(value, torch.Tensor) else value
    return value if isinstance(value, int) else float(value)


def _named_run(config: dict[str, Any]) -> dict[str, Any]:
    """Give Weights & Biases a run id: the run folder's name where the time stamp is empty."""
    command = dict(config["cmd"])
    if not command["timestamp_id"]:
        command["timestamp_id"] = Path(command["checkpoint_dir"]).parent.name
    return {**config, "cmd": command}
