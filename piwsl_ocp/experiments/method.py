"""The name of a training method, told from the losses that its configuration adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SUPERVISED = "supervised"
NOISY_NODES = "NoisyNodes"

#: Options of `optim.piwsl` that make the method, with their defaults.
_METHOD_OPTIONS = {"metric": "mse", "every_probability": 1.0}

#: Names of methods by the terms they may be made of; the first that fits counts.
_NAMES: tuple[tuple[str, frozenset[str]], ...] = (
    ("PIWSL", frozenset({"pitc", "pisc", "pisc_case2", "pisc_case3", "pisc_batch_work"})),
    ("trapezoid", frozenset({"pitc_trapezoid", "pisc_trapezoid"})),
    ("weak labels", frozenset({"weak_label"})),
    ("weak labels, predicted forces", frozenset({"weak_label_predicted_forces"})),
)


@dataclass(frozen=True)
class Method:
    """One way of training.

    Attributes:
        name: short name, such as "PIWSL".
        detail: the added losses with their weights and displacements; empty for supervised.
        key: equal for two configurations of the same method.
    """

    name: str
    detail: str
    key: str

    @property
    def is_supervised(self) -> bool:
        """Whether nothing is added to the supervised loss."""
        return self.name == SUPERVISED


def method_of(config: Mapping[str, Any]) -> Method:
    """Return the method of a resolved configuration; losses of weight 0 count as absent."""
    options = config.get("optim", {}).get("piwsl") or {}
    terms = {name: float(weight) for name, weight in (options.get("terms") or {}).items()}
    terms = {name: terms[name] for name in sorted(terms) if terms[name] > 0}
    noisy_nodes = float(options.get("noisy_nodes") or 0)
    if not terms and not noisy_nodes:
        return Method(SUPERVISED, "", SUPERVISED)
    losses, names = dict(terms), [_name(terms)] if terms else []
    if noisy_nodes:
        losses["noisy_nodes"] = noisy_nodes
        names.append(NOISY_NODES)
    displacement = {
        "name": "uniform",
        "epsilon_max_angstrom": 0.01,
        "atom_fraction": 1.0,
        **(options.get("displacement") or {}),
    }
    rest = {name: options.get(name, default) for name, default in _METHOD_OPTIONS.items()}
    key = json.dumps({"losses": losses, "displacement": displacement, **rest}, sort_keys=True)
    return Method(" + ".join(names), _detail(losses, displacement, rest), key)


def _name(terms: Mapping[str, float]) -> str:
    for name, allowed in _NAMES:
        if terms.keys() <= allowed:
            return name
    return " + ".join(terms)


def _detail(
    losses: Mapping[str, float], displacement: Mapping[str, Any], rest: Mapping[str, Any]
) -> str:
    parts = [f"{name} {weight:g}" for name, weight in losses.items()]
    parts.append(f"{displacement['name']} ε {displacement['epsilon_max_angstrom']:g} Å")
    if displacement["atom_fraction"] < 1:
        parts.append(f"{displacement['atom_fraction']:g} of the atoms")
    if rest["metric"] != _METHOD_OPTIONS["metric"]:
        parts.append(str(rest["metric"]))
    if rest["every_probability"] < 1:
        parts.append(f"in {rest['every_probability']:g} of the steps")
    return ", ".join(parts)
