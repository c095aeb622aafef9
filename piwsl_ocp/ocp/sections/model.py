"""The section `model`: a class, and values for the arguments of its constructor."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

from fairchem.core.models.base import HydraModel
from pydantic import Field
from torch import nn

from piwsl_ocp.errors import UserError
from piwsl_ocp.models.edge_frames import FRAMES
from piwsl_ocp.models.equiformer_v2 import EquiformerV2
from piwsl_ocp.models.escn import ESCN
from piwsl_ocp.models.gradient_forces import EnergyModel, checked_choice
from piwsl_ocp.models.painn import PaiNN
from piwsl_ocp.models.schnet import SchNet
from piwsl_ocp.models.spinconv import SpinConv
from piwsl_ocp.models.spinconv.options import check_options
from piwsl_ocp.ocp.sections.registered import find_class
from piwsl_ocp.ocp.sections.section import Positive, check_keys, check_value

#: This package's models, by the path that a configuration names.
OWN_MODELS = {
    f"{kind.__module__}.{kind.__qualname__}": kind for kind in (PaiNN, SchNet, ESCN, EquiformerV2)
} | {"piwsl_ocp.models.spinconv.SpinConv": SpinConv}

#: Modules of fairchem's own four.
STOCK = ("painn", "schnet", "escn", "equiformer_v2")
#: Annotations that say what a value must be; others are left to the model.
PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list[int]": list[int],
}
#: Where the models live whose whole numbers are sizes and counts if their default is above 0.
SIZED = ("piwsl_ocp.models.", *(f"fairchem.core.models.{name}" for name in STOCK))
#: Floating-point options that must be above 0.
LENGTHS = ("cutoff", "max_radius", "basis_width_scalar", "distance_resolution", "energy_scale")
#: Options that are probabilities below 1.
DROPS = ("alpha_drop", "drop_path_rate", "proj_drop")


def check_model(model: object) -> type[nn.Module]:
    """Check the section against the signature of the model, which is not built.

    Returns:
        The class of the model.

    Raises:
        UserError: for the first mistake.
    """
    if not isinstance(model, Mapping):
        raise UserError(f"model: found {model!r}, expected a mapping with the key name")
    kind = find_class("model", model.get("name"), "model.name", OWN_MODELS)
    if not issubclass(kind, nn.Module):
        raise UserError(f"model.name: '{model['name']}' is no model (torch.nn.Module)")
    parameters = inspect.signature(kind.__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_keys(model, ("name", *(key for key in parameters if key != "self")), "model")
    for key, value in model.items():
        if key in parameters:
            _check_value(key, value, parameters[key], kind.__module__.startswith(SIZED))
    _check_words(model, kind)
    if not model.get("regress_forces", True):
        raise UserError("model.regress_forces is false: PIWSL needs a model that predicts forces")
    return kind


def check_has_cutoff(model: type[nn.Module]) -> None:
    """Refuse a model that tells no cutoff, with which this package's trainer builds the graph.

    Raises:
        UserError: for fairchem's `hydra`, whose backbone alone has one.
    """
    if issubclass(model, HydraModel):
        raise UserError(
            "model.name: fairchem's 'hydra' has no cutoff of its own, which PIWSLTrainer builds "
            f"graphs with: use one of {', '.join((*STOCK, *OWN_MODELS))}"
        )


def value_of(model: Mapping[str, Any], kind: type[nn.Module], key: str) -> Any:
    """Return the value of an option of a model, its default where it is not set."""
    parameter = inspect.signature(kind.__init__).parameters.get(key)
    default = (
        None if parameter is None or parameter.default is parameter.empty else parameter.default
    )
    return model.get(key, default)


def _check_value(key: str, value: object, parameter: inspect.Parameter, sized: bool) -> None:
    annotation = parameter.annotation
    if not isinstance(annotation, str):
        annotation = inspect.formatannotation(annotation)
    kind = PLAIN.get(annotation.removesuffix(" | None"))
    if kind is None or (value is None and annotation.endswith("| None")):
        return
    check_value(kind, value, f"model.{key}")
    default = parameter.default
    if key in LENGTHS or (sized and kind is int and isinstance(default, int) and default > 0):
        check_value(Positive, value, f"model.{key}")
    if key in DROPS:
        check_value(Annotated[float, Field(ge=0, lt=1)], value, f"model.{key}")


def _check_words(model: Mapping[str, Any], kind: type[nn.Module]) -> None:
    """Check what the models of this package check themselves when they are built."""
    if issubclass(kind, EnergyModel):
        if model.get("forces") is not None:
            checked_choice("forces", model["forces"], kind.FORCES)
        if "frames" in model:
            checked_choice("frames", model["frames"], FRAMES)
    if issubclass(kind, SpinConv):
        parameters = inspect.signature(kind.__init__).parameters
        check_options({name: value_of(model, kind, name) for name in parameters})
