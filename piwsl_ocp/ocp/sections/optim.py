"""The section `optim`: batches, steps, the optimiser and the schedule of the learning rate."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import inspect
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from fairchem.core.common.utils import warmup_lr_lambda
from fairchem.core.modules.scheduler import LRScheduler
from pydantic import Field
from torch.optim import lr_scheduler

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.sections.section import (
    Count,
    NotNegative,
    Positive,
    Section,
    check_keys,
    check_value,
    nearest,
    one_line,
    parse,
)

#: Keys of fairchem's schedule where `scheduler` is not given.
WARMUP = ("warmup_steps", "warmup_factor", "lr_gamma", "lr_milestones")
#: Optimisers that fairchem's training loop cannot drive: they want a closure or sparse gradients.
UNUSABLE = ("LBFGS", "SparseAdam")
#: Arguments of schedules that are functions or other schedules.
NOT_PLAIN = ("lr_lambda", "schedulers")
#: Arguments of schedules that torch does not check.
RANGES = {
    "T_max": Positive,
    "step_size": Positive,
    "patience": NotNegative,
    "milestones": list[int],
}


class Optim(Section):
    """The keys of `optim` that do not depend on the schedule."""

    batch_size: Count = 1
    checkpoint_every: int = -1
    clip_grad_norm: NotNegative | None = None
    ema_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    eval_batch_size: Count = 1
    eval_every: Count = 1
    load_balancing: Any = None
    load_balancing_on_error: Literal["raise", "warn_and_balance", "warn_and_no_balance"] | None = (
        None
    )
    load_datasets_and_model_then_exit: bool = False
    lr_gamma: Positive = 1.0
    lr_initial: Positive
    lr_milestones: list[Positive] = Field(default_factory=list)
    max_epochs: Count = 1
    max_steps: Count = 1
    num_workers: Annotated[int, Field(ge=0)]
    optimizer: str = "AdamW"
    optimizer_params: dict[str, Any] = Field(default_factory=dict)
    piwsl: Any = None
    scheduler: str = "LambdaLR"
    warmup_factor: NotNegative = 1.0
    warmup_steps: NotNegative = 1.0
    weight_decay: NotNegative = 0.0


def check_optim(optim: object) -> None:
    """Check the section without a model: an optimiser of one parameter stands for it.

    Args:
        optim: the section.

    Raises:
        UserError: for the first mistake.
    """
    if not isinstance(optim, Mapping):
        raise UserError(f"optim: found {optim!r}, expected a mapping with keys such as batch_size")
    schedule = _schedule(optim)
    arguments = {} if schedule is None else _arguments(schedule, "optimizer")
    check_keys(optim, (*Optim.model_fields, *arguments), "optim")
    own = {key: value for key, value in optim.items() if key in Optim.model_fields}
    options = parse(Optim, own, "optim")
    _check_values(optim, options)
    optimizer = _optimizer(options)
    _check_schedule(optim, schedule, arguments, optimizer)


def check_length(optim: Mapping[str, Any], own: bool) -> None:
    """Raise a UserError if no length of the training is given; fairchem's trainer needs epochs."""
    if not own and "max_epochs" not in optim:
        raise UserError("optim.max_epochs is missing: fairchem's trainer needs it")
    if "max_steps" not in optim and "max_epochs" not in optim:
        raise UserError("optim has neither max_steps nor max_epochs: set one of them")


def _check_values(optim: Mapping[str, Any], options: Optim) -> None:
    if options.checkpoint_every != -1 and options.checkpoint_every < 1:
        raise UserError(
            f"optim.checkpoint_every: found {options.checkpoint_every}, expected a number above 0, "
            "or -1 for the end of each epoch"
        )
    if isinstance(optim.get("ema_decay"), int) and optim["ema_decay"]:
        raise UserError("optim.ema_decay: found 1, expected a number such as 0.999, or null")
    balancing = options.load_balancing
    if balancing not in (None, False) and str(balancing).lower() != "atoms":
        raise UserError(f"optim.load_balancing: found {balancing!r}, expected atoms or false")


def _schedule(optim: Mapping[str, Any]) -> type | None:
    """Return the class of the schedule, or None for fairchem's own and for none at all."""
    name = optim.get("scheduler", "Null")
    if name == "Null":
        return None
    known = _classes(lr_scheduler, lr_scheduler.LRScheduler)
    if name not in known:
        hint = "; 'Null' in quotes means a fixed learning rate" if name is None else ""
        raise UserError(
            f"optim.scheduler: torch.optim.lr_scheduler has no '{name}'"
            f"{nearest(str(name), ('Null', *known))}{hint}"
        )
    kind = getattr(lr_scheduler, name)
    if any(argument in NOT_PLAIN for argument in _arguments(kind, "optimizer")):
        raise UserError(
            f"optim.scheduler: {name} takes functions, which a configuration cannot hold; without "
            "`scheduler` fairchem warms up and then multiplies by lr_gamma at lr_milestones"
        )
    return kind


def _classes(module: Any, base: type) -> list[str]:
    found = inspect.getmembers(module, lambda member: inspect.isclass(member))
    return [n for n, kind in found if issubclass(kind, base) and kind is not base and n[0] != "_"]


def _arguments(kind: type, *given: str) -> dict[str, inspect.Parameter]:
    """Return the arguments that a class takes by name, but for those that are given to it."""
    parameters = inspect.signature(kind).parameters.items()
    return {
        name: parameter
        for name, parameter in parameters
        if name not in given and parameter.kind is not parameter.VAR_KEYWORD
    }


def _check_arguments(
    values: Mapping[str, Any], arguments: Mapping[str, inspect.Parameter], where: str
) -> None:
    """Check values of plain types against the defaults and annotations of a class."""
    for name in (name for name in arguments if name in values):
        parameter = arguments[name]
        expected = {
            "int": float,
            "float": float,
            "bool": bool,
            "str": str,
        }.get(getattr(parameter.annotation, "__name__", parameter.annotation))
        if isinstance(parameter.default, bool | int | float):
            expected = bool if isinstance(parameter.default, bool) else float
        expected = RANGES.get(name, expected)
        if expected is not None:
            check_value(expected, values[name], f"{where}.{name}")


def _optimizer(options: Optim) -> torch.optim.Optimizer:
    known = _classes(torch.optim, torch.optim.Optimizer)
    name, where = options.optimizer, "optim.optimizer_params"
    if name not in known:
        raise UserError(f"optim.optimizer: torch.optim has no '{name}'{nearest(name, known)}")
    if name in UNUSABLE:
        raise UserError(f"optim.optimizer: fairchem's trainer cannot use {name}; try AdamW")
    kind = getattr(torch.optim, name)
    if "lr" in options.optimizer_params:
        raise UserError(f"{where}.lr: unknown key, set optim.lr_initial")
    arguments = _arguments(kind, "params", "lr")
    check_keys(options.optimizer_params, arguments, where)
    _check_arguments(options.optimizer_params, arguments, where)
    parameter = torch.nn.Parameter(torch.zeros(1))
    try:
        return kind([parameter], lr=options.lr_initial, **options.optimizer_params)
    except Exception as error:  # whatever an optimiser raises on a wrong value
        raise UserError(f"{where}: {name} does not take them ({one_line(error)})") from None


def _check_schedule(
    optim: Mapping[str, Any],
    schedule: type | None,
    arguments: Mapping[str, inspect.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Let the schedule take some steps."""
    if schedule is None:
        if "scheduler" not in optim:
            _check_warmup(optim)
        return
    values = dict(optim)
    if schedule is lr_scheduler.CosineAnnealingLR and "max_steps" in optim:
        values.setdefault("T_max", optim["max_steps"])
    for name, parameter in arguments.items():
        if parameter.default is parameter.empty and name not in values:
            raise UserError(f"optim.{name} is missing: {schedule.__name__} needs it")
    _check_arguments(values, arguments, "optim")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps = LRScheduler(optimizer, values)
            for _ in range(3):
                steps.step(metrics=1.0)
    except Exception as error:  # whatever a schedule raises on a wrong value
        raise UserError(
            f"optim.scheduler: {schedule.__name__} does not take these options ({one_line(error)})"
        ) from None


def _check_warmup(optim: Mapping[str, Any]) -> None:
    for key in WARMUP:
        if key not in optim:
            raise UserError(
                f"optim.{key} is missing: without `scheduler` fairchem warms up by "
                f"{', '.join(WARMUP)}; scheduler: 'Null' (in quotes) is a fixed learning rate"
            )
    if optim["warmup_steps"] == 0:
        raise UserError("optim.warmup_steps: found 0, expected a number above 0")
    try:
        warmup_lr_lambda(0, optim)
    except Exception as error:  # fairchem raises a bare Exception here
        raise UserError(f"optim.lr_milestones: {one_line(error)}") from None
