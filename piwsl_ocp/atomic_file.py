"""Files that a crash leaves whole: written under another name first, or line by line."""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from piwsl_ocp.errors import UserError

#: Age of a temporary file whose process must have been killed.
LEFTOVER_SECONDS = 86_400.0


def require_absent(*paths: Path) -> None:
    """Raise a UserError if there is a file that would be replaced."""
    for path in paths:
        if path.exists():
            raise UserError(f"'{path}' exists: give another name or --overwrite")


def require_folder_or_nothing(out: Path) -> None:
    """Raise a UserError if there is a file where a folder of --out is to be."""
    if out.exists() and not out.is_dir():
        raise UserError(f"'{out}' is a file: name a folder with --out")


@contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it when the block ends well.

    The content is on the disk before the new name is, so a crash of the machine leaves the whole
    file or the one before. Of several processes that write one file the last to end counts. What
    a killed process left of the same file is removed a day later.

    Args:
        path: the file; its folder is made, an existing file is replaced.

    Raises:
        UserError: if the file cannot be written: full disk, read-only folder, missing permission.
    """
    partial = path.with_name(f".partial.{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
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


def drop_cut_off_line(path: Path) -> None:
    """Remove a last line that was cut off in writing; the next one would be joined to it.

    Args:
        path: a file to which lines are appended; it may not exist yet.
    """
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _remove_leftovers(path: Path) -> None:
    for partial in path.parent.glob(f".partial.*.{glob.escape(path.name)}"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > LEFTOVER_SECONDS:
                partial.unlink()


def _store(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
