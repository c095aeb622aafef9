"""A file that appears only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from piwsl_ocp.errors import UserError


def require_absent(path: Path) -> None:
    """Raise a UserError if there is a file that would be replaced."""
    if path.exists():
        raise UserError(f"'{path}' exists: give another name or --overwrite")


@contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it when the block ends well.

    The content is on the disk before the new name is, so a crash of the machine leaves the whole
    file or the one before.

    Args:
        path: the file; its folder is made, an existing file is replaced.

    Raises:
        UserError: if the file cannot be written: full disk, read-only folder, missing permission.
    """
    partial = path.with_name(f".partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _store(partial)
            partial.replace(path)
            _store(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write '{path}' ({error.strerror or error}): free space there, or choose a "
            "place that can be written"
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name beside its own, then rename it.

    Args:
        path: the file; its folder is made, an existing file is replaced.
        write: is given the open file.

    Raises:
        UserError: if the file cannot be written.
    """
    with complete_or_absent(path) as partial, partial.open("wb") as file:
        write(file)


def _store(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
