"""Run a resolved configuration: train in a run folder of its own, validate, predict, resume."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from fairchem.core._cli import Runner as FairchemRunner
from fairchem.core.common import distutils
from submitit.helpers import DelayedSubmission

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.config import check_config, fairchem_config
from piwsl_ocp.ocp.interruption import TrainingInterrupted
from piwsl_ocp.ocp.processes import run_ranks
from piwsl_ocp.ocp.provenance import code_version
from piwsl_ocp.ocp.ranks import Ranks
from piwsl_ocp.ocp.run_lock import only_process
from piwsl_ocp.ocp.run_status import (
    CONFIG_FILE,
    command_to_repeat,
    earlier_code,
    is_finished,
    write_status,
)
from piwsl_ocp.ocp.state import read_checkpoint

LOG_FILE = "logs/run.log"
CHECKPOINT_FILE = "checkpoints/checkpoint.pt"


class Runner(FairchemRunner):
    """fairchem's runner, defined here so that a job that unpickles it gets the stand-ins first."""

    def __call__(self, config: dict[str, Any]) -> None:
        """Check the configuration and run its task; leave no process group behind.

        Without a GPU it runs on the CPU, `--cpu` or not: fairchem would ask for NCCL and fail.
        """
        check_config(config)
        if not config.get("cpu") and not torch.cuda.is_available():
            logging.warning("no CUDA device is visible: this runs on the CPU")
            config.update(cpu=True, distributed_backend="gloo")
        try:
            super().__call__(config)
        finally:
            distutils.cleanup()

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Save at once: submitit's signal handler calls this, and ends the process after it.

        The job that goes on gets a runner of this class too. Before the training there is nothing
        to save: it begins anew.
        """
        if not hasattr(self, "trainer"):
            return DelayedSubmission(Runner(), *args, **kwargs)
        self.trainer.in_step = False
        super().checkpoint(*args, **kwargs)
        return DelayedSubmission(Runner(), self.config)


def run_configuration(config: dict[str, Any]) -> None:
    """Run one configuration in this process (the entry of multi-process launches)."""
    Runner()(config)


def _run_logged(config: dict[str, Any], quiet: bool) -> None:
    """Run one configuration in a process of its own, with the log in the run folder."""
    with _log_file(Path(config["run_dir"]), quiet):
        run_configuration(config)


def train(
    config: Mapping[str, Any],
    run_folder: Path | str,
    *,
    resume: bool = False,
    processes: int | None = None,
    ranks: Ranks | None = None,
    progress: bool = True,
) -> Path:
    """Train a configuration in a folder of its own.

    The folder holds `config.yml`, `run.json` (status and provenance), `logs/`, and `checkpoints/`
    with `checkpoint.pt` (to resume), `best_checkpoint.pt` and `last_ema.pt`.

    Args:
        config: a resolved configuration, see `piwsl_ocp.ocp.config.load_config`.
        run_folder: must be new or empty, unless `resume`.
        resume: go on from the checkpoint of the folder, with its own configuration.
        processes: data-parallel processes to start on this machine; None: as many as the
            configuration says, on a resume those that the training began with.
        ranks: the data-parallel processes where a scheduler has started them; each calls this, and
            the first one's `config` and `resume` count.
        progress: whether fairchem's log lines stay out of the terminal.

    Raises:
        UserError: for a mistake in the configuration or the folder, or if a training is to go on
            with another number of processes.
        TrainingInterrupted: after Ctrl-C or SIGTERM, when the state is saved.
    """
    folder = Path(run_folder)
    if ranks is not None and ranks.rank > 0:
        run_configuration(ranks.receive())
        return folder
    count, step = ranks.count if ranks else processes, 0
    if resume:
        config, step = _resumed_config(folder, count)
    config = fairchem_config(config, mode="train", run_dir=str(folder), timestamp_id="")
    config["world_size"] = count or config["world_size"]
    check_config(config)
    with only_process(folder):
        if not resume:
            _require_empty(folder)
        if not (folder / CHECKPOINT_FILE).is_file():
            _keep_config(folder, config)
        with _status_kept(folder, config, step), _log_file(folder, quiet=progress):
            _launch(config, ranks, quiet=progress)
    return folder


@contextmanager
def _status_kept(folder: Path, config: Mapping[str, Any], step: int) -> Iterator[None]:
    """Keep in `run.json` that the training runs, from a step on, and how it ended."""
    status = {
        "seed": config["seed"],
        "identifier": config["identifier"],
        "command": command_to_repeat(folder, config),
        "code": code_version(),
        "process": {"host": socket.gethostname(), "pid": os.getpid()},
    }
    if earlier := earlier_code(folder, code_version(), step):
        status["earlier"] = earlier
    write_status(folder, status, "running")
    try:
        yield
    except (TrainingInterrupted, KeyboardInterrupt):
        write_status(folder, status, "interrupted")
        raise
    except BaseException as error:
        with suppress(UserError):
            reason = f"{type(error).__name__}: {error}"[:500]
            write_status(folder, status, "failed", error=reason)
        raise
    write_status(folder, status, "finished")


def new_run_folder(root: Path | str, name: str) -> Path:
    """Return the path of a folder that does not exist yet: root/name, or with a number added."""
    root = Path(root)
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def _launch(config: dict[str, Any], ranks: Ranks | None, quiet: bool) -> None:
    if config["world_size"] > 1:
        config["optim"]["num_workers"] = 0
    if ranks is not None:
        ranks.send(config)
        run_configuration(config)
        return
    if config["world_size"] == 1:
        with _only_rank():
            run_configuration(config)
        return
    run_ranks(partial(_run_logged, quiet=quiet), config, config["world_size"])


@contextmanager
def _only_rank() -> Iterator[None]:
    """Be the only rank for the time of a block; processes started later find no trace of it."""
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK")
    before = {name: os.environ[name] for name in names if name in os.environ}
    distutils.setup_env_local()
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _resumed_config(folder: Path, processes: int | None) -> tuple[dict[str, Any], int]:
    """Return the configuration of a training to go on with, and the step it has reached."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"'{folder}' is no run folder: it has no {CONFIG_FILE}")
    if is_finished(folder):
        raise UserError(f"the training in '{folder}' is finished: nothing to resume")
    config = yaml.safe_load(path.read_text())
    checkpoint = folder / CHECKPOINT_FILE
    if not checkpoint.is_file():
        return config, 0
    before = config.get("world_size", 1)
    if processes not in (None, before):
        raise UserError(
            f"'{folder}' was trained by {before} processes and would go on with {processes}, which "
            f"changes the batches: go on with {before} (tasks of a SLURM job; `piwsl resume` does "
            "so by itself), or remove the folder to train anew"
        )
    config["checkpoint"] = str(checkpoint)
    return config, read_checkpoint(checkpoint)["step"]


def _require_empty(folder: Path) -> None:
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(
            f"the run folder '{folder}' is not empty: give another one, or go on with "
            f"`piwsl resume {folder}`"
        )


def _keep_config(folder: Path, config: Mapping[str, Any]) -> None:
    saved = {key: value for key, value in config.items() if key not in ("run_dir",)}
    text = yaml.safe_dump(deepcopy(saved), sort_keys=False)
    write_atomically(folder / CONFIG_FILE, lambda file: file.write(text.encode()))


@contextmanager
def _log_file(folder: Path, quiet: bool) -> Iterator[None]:
    """Send log lines to the run folder; keep all but errors away from the terminal if quiet."""
    path = folder / LOG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.ERROR if quiet else logging.INFO)
    before, root.handlers = root.handlers, [handler, terminal]
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers = before
        handler.close()
