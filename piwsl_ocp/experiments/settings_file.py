"""A YAML file of settings, checked; a mistake in it is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.sections.section import parse

Settings = TypeVar("Settings", bound=BaseModel)


def read_settings(
    path: Path,
    what: str,
    kind: type[Settings],
) -> Settings:
    """Read a file of settings.

    Args:
        path: the YAML file.
        what: what the file is, for the messages.
        kind: what it holds.

    Raises:
        UserError: if the file cannot be read, or a key or value is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} '{path}' cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{what} '{path}' is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        keys = ", ".join([*kind.model_fields][:3])
        raise UserError(f"{what} '{path}': expected a mapping with keys such as {keys}")
    try:
        return parse(kind, content, "")
    except UserError as error:
        raise UserError(f"{what} '{path}': {error}") from None
