"""A section of a configuration as a pydantic model; the first mistake in it becomes one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from piwsl_ocp.errors import UserError

Kind = TypeVar("Kind", bound=BaseModel)

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

#: What was expected, by pydantic's name of the mistake.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
}


class Section(BaseModel):
    """A section that has no keys but its own."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, protected_namespaces=()
    )


def parse(kind: type[Kind], section: object, where: str) -> Kind:
    """Read a section.

    Args:
        kind: what it holds.
        section: its content.
        where: its dotted key, empty for the whole configuration.

    Raises:
        UserError: one line that names the key, what was found and what was expected.
    """
    if not isinstance(section, Mapping):
        keys = sorted(kind.model_fields, key=lambda key: not kind.model_fields[key].is_required())
        raise UserError(
            f"{where}: found {section!r}, expected a mapping with keys such as "
            f"{', '.join(keys[:3])}"
        )
    try:
        return kind.model_validate(dict(section))
    except ValidationError as error:
        raise UserError(_first_problem(error, where, kind)) from None


def check_value(kind: Any, value: object, where: str) -> None:
    """Check one value against a type, as a section's values are.

    Raises:
        UserError: as `parse`.
    """
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        raise UserError(_first_problem(error, where, None)) from None


def check_keys(section: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise a UserError for the first key that is not known."""
    known = list(known)
    for key in section:
        if key not in known:
            raise UserError(f"{_dotted(where, key)}: unknown key{nearest(str(key), known)}")


def refuse_misspelt(section: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise a UserError for a key that is not known but very near to a known one.

    It is for sections of which whoever extends fairchem reads more keys than are known here.
    """
    known = list(known)
    for key in section:
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
        if key not in known and close:
            raise UserError(f"{_dotted(where, key)}: unknown key, did you mean '{close[0]}'?")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase that suggests the known name nearest to a wrong one, or lists them all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else f", expected one of {', '.join(known)}"


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _dotted(where: str, *parts: object) -> str:
    return ".".join(str(part) for part in (where, *parts) if part != "")


def _first_problem(error: ValidationError, where: str, kind: type[BaseModel] | None) -> str:
    problem = error.errors(include_url=False)[0]
    key, found, name = _dotted(where, *problem["loc"]), problem["input"], problem["type"]
    if name == "extra_forbidden":
        section = _section_at(kind, problem["loc"][:-1])
        return f"{key}: unknown key{nearest(str(problem['loc'][-1]), section.model_fields)}"
    if name == "missing":
        return f"{key} is missing"
    if name == "literal_error":
        known = [word.strip("'") for word in _literals(problem["ctx"]["expected"])]
        return f"{key}: found {found!r}{nearest(str(found), known)}"
    if name in _EXPECTED:
        expected = _EXPECTED[name].format(**problem.get("ctx", {}))
        return f"{key}: found {found!r}, expected {expected}{_number_hint(found, name)}"
    return f"{key}: found {found!r}, {problem['msg'].lower()}"


def _literals(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")


def _number_hint(found: object, problem: str) -> str:
    """Return a phrase for a number such as 1e-4, which YAML takes for text."""
    if not isinstance(found, str) or problem not in ("int_type", "float_type"):
        return ""
    try:
        number = float(found)
    except ValueError:
        return ""
    number = int(number) if problem == "int_type" and number.is_integer() else number
    written = yaml.safe_dump(number).split()[0]
    if written == found:
        return f" (write {written} without quotes)"
    return f" (YAML takes {found} for text: write {written})"


def _section_at(kind: type[BaseModel], path: Iterable[str | int]) -> type[BaseModel]:
    """Return the section that a path within another one leads to."""
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            kind = _section_in(kind.model_fields[part].annotation) or kind
    return kind


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first section within a type such as `dict[str, Section] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated, dict, list):
        for argument in get_args(annotation):
            if section := _section_in(argument):
                return section
    return None
