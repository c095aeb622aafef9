"""Errors that a user can cause and mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the input, told in one line: what was found, where, what to do."""
