"""What is kept in a run folder of the process that works on it: its failure, output, SLURM job."""

from __future__ import annotations

import json
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.run_lock import PROCESS_FOLDER, is_locked

#: Lines that are kept of a log.
LAST_LINES = 12


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        reason: in one line.
        log: the last lines of its log; empty where the reason says everything.
        is_passing: whether the reason lies outside of the run, which the same command goes on with.
    """

    reason: str
    log: str = ""
    is_passing: bool = False


@dataclass(frozen=True)
class SlurmJob:
    """A job of SLURM, told from others of the same number: a new cluster gives numbers again.

    Attributes:
        number: such as 12, or 12_3 in an array.
        submission: name of the folder with its script; empty where it was not kept.
    """

    number: str
    submission: str = ""


@dataclass(frozen=True)
class RunRecord:
    """The folder `.run` of a run folder.

    Attributes:
        run_folder: the run folder; it may not exist yet.
    """

    run_folder: Path | str

    @property
    def folder(self) -> Path:
        """Where everything is kept."""
        return Path(self.run_folder) / PROCESS_FOLDER

    @property
    def is_worked_on(self) -> bool:
        """Whether a process holds the lock of the run folder."""
        return is_locked(self.run_folder)

    @property
    def failure(self) -> Failure | None:
        """Why the run failed; None if it did not."""
        content = self._read("failure.json")
        return Failure(str(content.get("reason")), str(content.get("log", ""))) if content else None

    @property
    def slurm_job(self) -> SlurmJob | None:
        """The SLURM job that the run was last given to."""
        content = self._read("slurm.json")
        return SlurmJob(str(content["job"]), content.get("submission", "")) if content else None

    def keep_failure(self, error: BaseException) -> None:
        """Keep an error, unless another process of the same run kept its own before."""
        if self.failure is not None:
            return
        lines = "".join(traceback.format_exception(error)).strip().splitlines()
        mistake = isinstance(error, UserError)
        reason = " ".join(str(error).split()) or type(error).__name__
        content = {
            "reason": reason if mistake else f"{type(error).__name__}: {reason}"[:300],
            "log": "" if mistake else "\n".join(lines[-LAST_LINES:]),
        }
        with suppress(UserError):  # a full disk: the caller prints the error, too
            self._write("failure.json", content)

    def forget_failure(self) -> None:
        """Forget the failure, before the run is tried again."""
        (self.folder / "failure.json").unlink(missing_ok=True)

    def keep_slurm_job(self, job: SlurmJob) -> None:
        """Keep the SLURM job that the run was given to."""
        self._write("slurm.json", {"job": job.number, "submission": job.submission})

    def stops_without_progress(self, step: int) -> int:
        """Count a stop at a step; return how many there were at that step, this one included."""
        before = self._read("stops.json") or {"step": -1, "count": 0}
        count = before["count"] + 1 if before["step"] == step else 1
        self._write("stops.json", {"step": step, "count": count})
        return count

    def _read(self, name: str) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            return json.loads((self.folder / name).read_text())
        return None

    def _write(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.folder / name, lambda file: file.write(text.encode()))


def last_lines(text: str) -> str:
    """Return the last lines of a log."""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])
