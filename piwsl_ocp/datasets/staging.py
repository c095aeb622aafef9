"""Folders that appear complete or not at all."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from piwsl_ocp.errors import UserError

LOCK_FILE = "lock"


@contextmanager
def staged_folder(target: Path, replaceable: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `target`; rename it to `target` when the block ends well.

    After an error or an interruption nothing is left. A folder that a killed process left behind
    is cleared; one that another process is writing is refused.

    Args:
        target: name of the finished folder.
        replaceable: names of entries of an existing target that may be replaced; a target that
            holds anything else is refused.

    Raises:
        UserError: if the target cannot be written or must not be replaced.
    """
    check_replaceable(target, replaceable)
    stage = target.parent / f".{target.name}.partial"
    made = _make_parents(target)
    try:
        with _locked(stage):
            _clear(stage)
            yield stage
            (stage / LOCK_FILE).unlink()
            _swap(stage, target)
            made.clear()
    except OSError as error:
        raise UserError(
            f"cannot write '{target}' ({error.strerror or error}): free space, or choose another "
            "--out; nothing was left behind"
        ) from error
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def check_replaceable(target: Path, replaceable: Collection[str]) -> None:
    """Refuse a target that holds anything but the named entries.

    Raises:
        UserError: naming an entry that would be lost.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"'{target}' is a file: choose another --out")
    if target.is_dir():
        strange = sorted(entry.name for entry in target.iterdir() if entry.name not in replaceable)
        if strange:
            raise UserError(
                f"'{target}' holds '{strange[0]}', which is not part of a data set: "
                "nothing is overwritten; choose another --out"
            )


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above the target; return those that were not there, the deepest first."""
    missing = [folder for folder in target.absolute().parents if not folder.exists()]
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder '{target.parent}' ({error.strerror}): choose another --out"
        ) from error
    return missing


@contextmanager
def _locked(stage: Path) -> Iterator[None]:
    """Hold the folder's lock; remove the folder at the end if it is still there."""
    stage.mkdir(exist_ok=True)
    with (stage / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing '{stage}': wait for it, or choose another --out"
            ) from None
        try:
            yield
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _clear(stage: Path) -> None:
    for entry in stage.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK_FILE:
            entry.unlink()


def _swap(stage: Path, target: Path) -> None:
    """Rename, an old target out of the way first; it comes back if the second rename fails."""
    if not target.exists():
        stage.rename(target)
        return
    old = target.parent / f".{target.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    try:
        stage.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
