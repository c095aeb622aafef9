"""Checks of single option values, each with one line that says what to write instead."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real

from piwsl_ocp.errors import UserError


def expect_choice(what: str, found: object, known: Iterable[str]) -> None:
    """Raise a UserError with the nearest right name unless `found` is one of `known`."""
    known = list(known)
    if isinstance(found, str) and found in known:
        return
    near = difflib.get_close_matches(str(found), known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"unknown {what} '{found}': {hint}known names: {', '.join(known)}")


def expect_number(what: str, found: object) -> float:
    """Return `found` as a float; raise a UserError unless it is a finite number."""
    if isinstance(found, bool) or not isinstance(found, Real):
        hint = " (YAML reads 1e-2 as text: write 0.01 or 1.0e-2)" if isinstance(found, str) else ""
        raise UserError(f"{what} is {found!r}, a {type(found).__name__}: expected a number{hint}")
    if not math.isfinite(found):
        raise UserError(f"{what} is {found}: expected a finite number")
    return float(found)
