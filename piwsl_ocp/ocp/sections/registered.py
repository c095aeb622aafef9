"""Classes that a configuration names: by fairchem's registry or by an import path."""

from __future__ import annotations

import piwsl_ocp.compat

from collections.abc import Iterable

from fairchem.core.common import utils
from fairchem.core.common.registry import registry

import piwsl_ocp.ocp.dataset
import piwsl_ocp.ocp.logger  # noqa: F401  (registers the logger)
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.sections.section import nearest, one_line


def names(kind: str) -> list[str]:
    """Return the registered names of a kind: `model`, `trainer`, `logger`, `loss`, `dataset`."""
    utils.setup_imports({"skip_experimental_imports": True})
    return list(registry.mapping[f"{kind}_name_mapping"])


def find_class(kind: str, name: object, where: str, paths: Iterable[str] = ()) -> type:
    """Return the class that a configuration names.

    Args:
        kind: see `names`.
        name: registered name, or dotted import path.
        where: key of the name.
        paths: import paths to suggest, besides the registered names.

    Raises:
        UserError: if there is none; suggests the nearest.
    """
    if not isinstance(name, str):
        raise UserError(f"{where}: found {name!r}, expected the name of a {kind}")
    known = [*names(kind), *paths]
    if name not in known and "." not in name:
        raise UserError(f"{where}: unknown {kind} '{name}'{nearest(name, known)}")
    try:
        found = registry.get_class(name, f"{kind}_name_mapping")
    except Exception as error:  # whatever the import of a module raises
        reason = one_line(error.__cause__ or error)
        raise UserError(
            f"{where}: '{name}' cannot be imported ({reason}){nearest(name, known)}"
        ) from None
    if not isinstance(found, type):
        raise UserError(f"{where}: '{name}' is no class{nearest(name, known)}")
    return found
