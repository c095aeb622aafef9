"""The top of a configuration: settings of a run, its trainer, task and loggers."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fairchem.core.trainers import BaseTrainer
from pydantic import Field

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.sections.registered import find_class, names
from piwsl_ocp.ocp.sections.section import Count, Section, parse, refuse_misspelt
from piwsl_ocp.ocp.trainer import PIWSLTrainer

#: The path of this package's trainer, as configurations name it.
OWN_TRAINER = f"{PIWSLTrainer.__module__}.{PIWSLTrainer.__qualname__}"

#: The logger that fairchem knows outside of its registry.
SINGLETON_LOGGER = "wandb_singleton"


class Whole(Section):
    """Keys at the top of a configuration; fairchem drops others without a word."""

    amp: bool = False
    checkpoint: str | None = None
    cpu: bool = False
    dataset: Any = None
    distributed_backend: str = "gloo"
    evaluation_metrics: Any = None
    gp_gpus: Count | None = None
    hide_eval_progressbar: bool = False
    identifier: str = ""
    is_debug: bool = False
    local_rank: Annotated[int, Field(ge=0)] = 0
    logger: Any = None
    loss_functions: Any = None
    mode: Literal["train", "predict", "validate", "run-relaxations"] = "train"
    model: Any = None
    optim: Any = None
    outputs: Any = None
    print_every: Count = 10
    run_dir: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    slurm: dict[str, Any] | None = None
    submit: bool = False
    summit: bool = False
    task: Any = None
    timestamp_id: str | None = None
    trainer: str = "ocp"
    world_size: Count = 1


class Task(Section):
    """The keys of `task` that fairchem's trainers read."""

    dataset: str = "lmdb"
    eval_on_free_atoms: bool = True
    eval_relaxations: bool = False
    num_relaxation_batches: Count = 1
    prediction_dtype: Literal["float16", "float32"] = "float16"
    primary_metric: str | None = None
    relax_cell: bool = False
    relax_dataset: Any = None
    relax_opt: Any = None
    relax_volume: bool = False
    relaxation_fmax: float = 0.02
    relaxation_steps: Count = 300
    save_full_traj: bool = True
    set_deterministic_scatter: bool = False
    strict_load: bool = True
    train_on_free_atoms: bool = False
    write_pos: bool = False


class Logger(Section):
    """The keys of `logger` that fairchem's loggers and this package's read."""

    name: str
    entity: str | None = None
    group: str | None = None
    log_weight_table: int = -1
    project: str | None = None
    tensorboard: bool = True
    wandb: Literal["offline", "online", "disabled"] = "offline"
    watch: Count = 1000


def check_trainer(name: object) -> type[BaseTrainer]:
    """Return the class of the trainer.

    Raises:
        UserError: if there is none of that name, or it is no trainer.
    """
    trainer = find_class("trainer", name, "trainer", [OWN_TRAINER])
    if not issubclass(trainer, BaseTrainer):
        raise UserError(f"trainer: '{name}' is no trainer of fairchem, expected {OWN_TRAINER}")
    return trainer


def check_task(section: object) -> None:
    """Check `task`, of which other trainers may read more keys.

    Raises:
        UserError: for the first mistake.
    """
    _parse_known(Task, section, "task")


def check_logger(section: object) -> None:
    """Check `logger`: a name, or a mapping with one.

    Raises:
        UserError: for the first mistake.
    """
    section = {"name": section} if isinstance(section, str) else section
    logger = _parse_known(Logger, section, "logger")
    known = [*names("logger"), SINGLETON_LOGGER]
    if logger.name != SINGLETON_LOGGER:
        find_class("logger", logger.name, "logger.name", known)
    elif not {"project", "entity"} <= set(section):
        raise UserError(f"logger: {SINGLETON_LOGGER} needs project and entity")


def _parse_known(kind: type[Section], section: object, where: str) -> Section:
    """Read the known keys of a section; a key that is very near to a known one is a mistake."""
    if isinstance(section, Mapping):
        refuse_misspelt(section, kind.model_fields, where)
        section = {key: value for key, value in section.items() if key in kind.model_fields}
    return parse(kind, section, where)
