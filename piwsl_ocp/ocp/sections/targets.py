"""The sections `outputs`, `loss_functions` and `evaluation_metrics`."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from fairchem.core.modules import evaluator
from pydantic import Field
from torch import Tensor

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.scoring import PRIMARY_METRIC
from piwsl_ocp.ocp.sections.registered import find_class
from piwsl_ocp.ocp.sections.section import (
    NotNegative,
    Section,
    nearest,
    one_line,
    parse,
)

#: Level of the targets that every potential has.
LEVELS = {"energy": "system", "forces": "atom"}

#: Validation metrics of this package's trainer besides fairchem's.
OWN_METRICS = (
    PRIMARY_METRIC,
    "energy_rmse",
    "force_rmse",
    "consistency_error",
    "consistency_mse",
)


class _Target(Section):
    property: str | None = None
    shape: Any = None
    type: str | None = None
    irrep_dim: int | None = None
    prediction_dtype: Literal["float16", "float32"] = "float16"
    train_on_free_atoms: bool | None = None
    eval_on_free_atoms: bool | None = None
    custom_head: Any = None
    parent: str | None = None


class Subtarget(_Target):
    """A part of a decomposed target."""

    level: Literal["system", "atom"] | None = None


class Target(_Target):
    """One target of `outputs`, as fairchem's trainer reads it."""

    level: Literal["system", "atom"]
    decomposition: dict[str, Subtarget] | None = None


class Loss(Section):
    """One supervised loss."""

    fn: str
    coefficient: NotNegative
    reduction: Literal["mean", "sum"] | None = None


class Metrics(Section):
    """The section `evaluation_metrics`."""

    metrics: dict[str, list[str]] = Field(default_factory=dict)
    primary_metric: str | None = None


def check_outputs(outputs: object, needed: Iterable[str]) -> list[str]:
    """Check `outputs` and return the names of all targets, parts of decomposed ones included.

    Args:
        outputs: the section.
        needed: targets that the trainer cannot do without.

    Raises:
        UserError: for the first mistake.
    """
    if not isinstance(outputs, Mapping):
        raise UserError(f"outputs: found {outputs!r}, expected a mapping with energy and forces")
    missing = [name for name in needed if name not in outputs]
    if missing:
        keys = "level: atom, train_on_free_atoms: true, eval_on_free_atoms: true"
        written = {"energy": "{level: system}", "forces": f"{{{keys}}}"}[missing[0]]
        raise UserError(
            f"outputs holds only {', '.join(map(str, outputs))}, but the trainer needs predicted "
            f"{missing[0]}: add '{missing[0]}: {written}'"
        )
    names = []
    for name, section in outputs.items():
        where = f"outputs.{name}"
        target = parse(Target, section, where)
        shape = target.shape if isinstance(target.shape, list) else [target.shape]
        if target.shape is not None and not all(type(size) is int for size in shape):
            raise UserError(f"{where}.shape: found {target.shape!r}, expected a whole number")
        if target.level != LEVELS.get(name, target.level):
            raise UserError(f"{where}.level: found '{target.level}', expected '{LEVELS[name]}'")
        if target.level == "atom" and target.eval_on_free_atoms is None:
            raise UserError(f"{where}.eval_on_free_atoms is missing: set it to true or false")
        names += [name, *(target.decomposition or {})]
    return names


def check_losses(losses: object, outputs: Mapping[str, Any], targets: Sequence[str]) -> None:
    """Check `loss_functions` against the targets of `outputs`.

    Raises:
        UserError: for the first mistake.
    """
    example = "'- energy: {fn: mae, coefficient: 1}'"
    if not isinstance(losses, list):
        raise UserError(f"loss_functions: found {losses!r}, expected a list such as {example}")
    for number, item in enumerate(losses):
        where = f"loss_functions[{number}]"
        if not isinstance(item, Mapping) or not item:
            raise UserError(f"{where}: found {item!r}, expected a target such as {example}")
        for target, section in item.items():
            if target not in targets:
                raise UserError(
                    f"{where}: unknown target '{target}'{nearest(str(target), targets)}"
                )
            loss = parse(Loss, section, f"{where}.{target}")
            _check_loss(loss.fn, target, f"{where}.{target}.fn")
            output = outputs.get(target) or {}
            if output.get("level") == "atom" and output.get("train_on_free_atoms") is None:
                raise UserError(
                    f"outputs.{target}.train_on_free_atoms is missing: set it to true or false"
                )


def check_metrics(
    section: object, outputs: Mapping[str, Any], targets: Sequence[str], own: Sequence[str] | None
) -> None:
    """Check `evaluation_metrics`.

    Args:
        section: its content.
        outputs: the section `outputs`.
        targets: names of all targets.
        own: validation metrics that this package's trainer adds, or None for fairchem's trainer,
            which needs a primary metric to be named.

    Raises:
        UserError: for the first mistake.
    """
    where = "evaluation_metrics"
    metrics = parse(Metrics, section, where)
    known = _metric_functions()
    found = ["loss"]
    for target, names in metrics.metrics.items():
        key = f"{where}.metrics.{target}"
        if target not in (*targets, "misc"):
            raise UserError(f"{key}: unknown target{nearest(str(target), (*targets, 'misc'))}")
        for name in names:
            if name not in known:
                raise UserError(f"{key}: unknown metric '{name}'{nearest(name, known)}")
            _check_metric(name, target, outputs, key)
            plain = target in name or target == "misc"
            found.append(name if plain else f"{target}_{name}")
    if own is not None:
        found += [f"{target}_mse" for target in LEVELS]
        found += [f"{target}_mae" for target in LEVELS if target not in metrics.metrics]
        found += own
    primary = metrics.primary_metric
    if primary is None and (own is None or "primary_metric" in metrics.model_fields_set):
        raise UserError(f"{where}.primary_metric is missing: name one of {', '.join(found)}")
    if primary is not None and primary not in found:
        raise UserError(f"{where}.primary_metric: no metric '{primary}'{nearest(primary, found)}")


def _sample() -> dict[str, Tensor]:
    """Return targets of two structures with one and three atoms."""
    return {
        "energy": torch.ones(2, 1),
        "forces": torch.ones(4, 3),
        "natoms": torch.tensor([1, 3]),
    }


def _check_loss(name: str, target: str, where: str) -> None:
    kind = find_class("loss", name, where)
    if target not in LEVELS:
        return
    sample = _sample()
    try:
        kind()(sample[target], sample[target], sample["natoms"])
    except Exception as error:  # whatever a loss raises on a target it is not made for
        raise UserError(
            f"{where}: the loss '{name}' cannot be taken of {target} ({one_line(error)})"
        ) from None


def _metric_functions() -> list[str]:
    """Return the names that fairchem's evaluator takes for a metric."""
    functions = inspect.getmembers(evaluator, inspect.isfunction)
    return [
        name
        for name, function in functions
        if [*inspect.signature(function).parameters][:2] == ["prediction", "target"]
    ]


def _check_metric(name: str, target: str, outputs: Mapping[str, Any], where: str) -> None:
    if target not in (*LEVELS, "misc"):
        return
    sample = {key: value for key, value in _sample().items() if key in (*outputs, "natoms")}
    try:
        evaluator.Evaluator(eval_metrics={target: [name]}).eval(sample, sample)
    except Exception as error:  # whatever a metric raises on a target it is not made for
        raise UserError(
            f"{where}: the metric '{name}' cannot be taken of {target} ({one_line(error)})"
        ) from None
