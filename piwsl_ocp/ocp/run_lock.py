"""One process at a time works in a run folder: a file lock that ends with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.run_status import read_status

#: Folder below a run folder for what belongs to the process that works on it.
PROCESS_FOLDER = ".run"
LOCK_FILE = f"{PROCESS_FOLDER}/lock"


class RunFolderBusy(UserError):
    """Another process works in the run folder."""


@contextmanager
def only_process(run_folder: Path | str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a run folder; a process that has it already may take it again.

    The operating system drops the lock when the process ends, in whatever way.

    Args:
        run_folder: the folder; it is made.
        wait_seconds: how long to wait for another process.

    Raises:
        RunFolderBusy: if another process has the lock.
        UserError: if the folder cannot be written.
    """
    path = (Path(run_folder) / LOCK_FILE).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, is_singleton=True)
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise RunFolderBusy(
            f"another process{_holder(Path(run_folder))} works in the run folder '{run_folder}': "
            "wait for it, or stop it first"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to the run folder '{run_folder}': {reason}") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(run_folder: Path | str) -> bool:
    """Return whether a process works in a run folder."""
    path = Path(run_folder) / LOCK_FILE
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # somebody else's runs, which may be read alone
        return False
    lock.release()
    return False


def _holder(run_folder: Path) -> str:
    """Return a phrase for the process that `run.json` names, empty if it names none."""
    with suppress(OSError, ValueError, KeyError, TypeError, UserError):
        process = read_status(run_folder)["process"]
        return f" (number {process['pid']} on {process['host']})"
    return ""
