"""Settings that would make the weak losses meaningless."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Mapping
from typing import Any

from fairchem.core.common.registry import registry
from torch import nn

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.options import PIWSLOptions
from piwsl_ocp.ocp.sections.model import value_of

#: Models whose edge frames or dropout are drawn anew in every pass, and the class to take instead.
NOISY = {
    "escn": "piwsl_ocp.models.escn.ESCN",
    "escn_export": "piwsl_ocp.models.escn.ESCN",
    "scn": "piwsl_ocp.models.escn.ESCN",
    "equiformer_v2": "piwsl_ocp.models.equiformer_v2.EquiformerV2",
}


def check_weak_losses(
    options: PIWSLOptions, config: Mapping[str, Any], model: type[nn.Module]
) -> None:
    """Refuse what drowns the differences of energies that the weak losses are made of.

    The supervised loss of NoisyNodes compares no two passes: without weak losses all is allowed.

    Args:
        options: `optim.piwsl`; without weak losses there is nothing to refuse.
        config: the configuration.
        model: class of its model.

    Raises:
        UserError: one line with the remedy.
    """
    if not options.weak_terms:
        return
    if value_of(config["model"], model, "otf_graph"):
        raise UserError(
            "model.otf_graph is true: displaced copies would get graphs of their own and their "
            "energies jump; weak losses (optim.piwsl.terms) need the clean structure's edges: "
            "set model.otf_graph: false"
        )
    for name, remedy in NOISY.items():
        if model is registry.get_model_class(name):
            raise UserError(
                f"model.name: fairchem's '{name}' draws random numbers anew in every pass, which "
                "drowns the weak losses (optim.piwsl.terms): use "
                f"model.name: {remedy}, whose copies share them"
            )
    if config.get("amp") and not options.allow_amp:
        raise UserError(
            "amp is true: mixed precision rounds energies by as much as the weak losses "
            "(optim.piwsl.terms) measure: set amp: false, or optim.piwsl.allow_amp: true to do "
            "it all the same"
        )
