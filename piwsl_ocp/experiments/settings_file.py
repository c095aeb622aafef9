"""A YAML file of settings, checked; a mistake in it is told in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.options import nearest

Settings = TypeVar("Settings", bound=BaseModel)


def read_settings(
    path: Path,
    what: str,
    kind: type[Settings],
    parts: Mapping[str, type[BaseModel]] | None = None,
) -> Settings:
    """Read a file of settings.

    Args:
        path: the YAML file.
        what: what the file is, for the messages.
        kind: what it holds.
        parts: what the sections of it hold, by key, where they have fixed keys themselves.

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
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{what} '{path}': {_first_problem(error, kind, parts or {})}") from None


def _first_problem(
    error: ValidationError, kind: type[BaseModel], parts: Mapping[str, type[BaseModel]]
) -> str:
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    key = ".".join(place)
    if problem["type"] == "extra_forbidden":
        section = kind if len(place) == 1 else parts[place[0]]
        return f"{key}: unknown key{nearest(place[-1], section.model_fields)}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    hint = _hint(problem["input"]) if problem["type"] == "float_type" else ""
    return f"{key}: found {problem['input']!r}, {problem['msg'].lower()}{hint}"


def _hint(found: object) -> str:
    """Return a phrase for a number such as 1e-3, which YAML takes for a word."""
    try:
        return f": write {float(found)}" if isinstance(found, str) else ""
    except ValueError:
        return ""
