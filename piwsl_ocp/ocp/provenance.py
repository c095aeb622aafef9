"""Where a run comes from: identifier, code version, data; as plain values that fit a checkpoint."""

from __future__ import annotations

import piwsl_ocp.compat

import datetime
import functools
import hashlib
import platform
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fairchem.core import __version__ as fairchem_version
from fairchem.core.common import distutils

import piwsl_ocp

if TYPE_CHECKING:
    from piwsl_ocp.ocp.trainer import PIWSLTrainer


def unique_identifier(suffix: str | None = None) -> str:
    """Return a name for a run, the same on all ranks: time to the second, random digits, suffix."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    names = [f"{now}-{secrets.token_hex(3)}" + (f"-{suffix}" if suffix else "")]
    distutils.broadcast_object_list(names, src=0)
    return names[0]


@functools.cache
def code_version() -> dict[str, str]:
    """Return the versions of this package, its git commit, and its libraries."""
    return {
        "piwsl_ocp": piwsl_ocp.__version__,
        "commit": commit_of(Path(piwsl_ocp.__file__).parent),
        "fairchem": fairchem_version,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def commit_of(folder: Path) -> str:
    """Return the git commit of a folder, with `+` and digits for changes not committed to it.

    It is `unknown` where git does not tell.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("diff", "--no-ext-diff", "HEAD", "--", str(folder))
        digits = hashlib.sha256(changes.encode()).hexdigest()[:8]
        return git("rev-parse", "HEAD") + (f"+{digits}" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def of_run(trainer: PIWSLTrainer) -> dict[str, Any]:
    """Return what a checkpoint of this trainer says of its data, code and training time."""
    statistics = getattr(trainer, "label_statistics", None)
    return {
        "data": statistics.info if statistics else {},
        "unit": statistics.unit if statistics else None,
        "code": dict(code_version()),
        "train_seconds": trainer.progress.train_seconds,
    }
