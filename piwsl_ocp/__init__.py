"""Physics-informed weakly supervised learning of interatomic potentials, on fairchem."""

from __future__ import annotations

from typing import Any

_LAZY = {
    "PIWSLTrainer": "piwsl_ocp.ocp.trainer",
    "PIWSLCalculator": "piwsl_ocp.calculator",
}

__all__ = ["PIWSLCalculator", "PIWSLTrainer", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the trainer or the calculator when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("piwsl_ocp")
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'piwsl_ocp' has no attribute '{name}'")
