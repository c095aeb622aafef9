"""A real SLURM on this machine for the tests, and the accidents that happen on one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from filelock import FileLock

#: Starts and stops the cluster; it is no part of the project.
SCRIPT = Path(
    os.environ.get(
        "PIWSL_SLURM_TESTBED",
        Path(__file__).resolve().parents[3] / "shared" / "tools" / "slurm_testbed.sh",
    )
)

#: Two tests must not install or start at the same time.
LOCK = Path(tempfile.gettempdir()) / "piwsl_slurm_testbed.lock"


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster of one node for the time of a block; skip the test where there can be none."""
    if not SCRIPT.is_file():
        pytest.skip(f"no {SCRIPT}: set PIWSL_SLURM_TESTBED to a script that starts SLURM")
    if os.geteuid() != 0:
        pytest.skip("starting SLURM needs root")
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # sockets need a short path
    environment = {**os.environ, "SLURM_TESTBED_DIR": str(folder), "SLURM_TESTBED_CPUS": "2"}

    def script(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False
        )

    for word in ("install", "start"):
        with FileLock(LOCK):
            answer = script(word)
        if answer.returncode:
            script("clean")
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip(f"SLURM cannot {word} here: {answer.stderr[-300:]}")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
    try:
        yield Cluster(folder)
    finally:
        script("clean")
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


class Cluster:
    """A running cluster.

    Args:
        folder: its configuration, process numbers and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = str(folder / "etc" / "slurm.conf")
        self.node = ask("sinfo", "--noheader", "-o", "%N").split()[0]

    def preempt(self) -> None:
        """Take all cores for a job that comes first, for two seconds."""
        ask("sbatch", "--partition=urgent", "--output=/dev/null", "-c2", "-t1", "--wrap=sleep 2")

    def fail(self) -> None:
        """Let the node die with everything on it, without warning, and start it again."""
        daemon = int((self.folder / "run" / f"slurmd-{self.node}.pid").read_text())
        for process in [daemon, *self._job_processes()]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ask("scontrol", "update", f"nodename={self.node}", "state=down", "reason=failed")
        command = ["slurmd", "-f", self.configuration, "-N", self.node]
        subprocess.run(command, check=True, capture_output=True)
        while ask("sinfo", "--noheader", "--partition=normal", "-o", "%t").startswith("down"):
            # refused where the node has returned by itself meanwhile
            resume = ["scontrol", "update", f"nodename={self.node}", "state=resume"]
            subprocess.run(resume, check=False, capture_output=True)
            time.sleep(0.2)

    def _job_processes(self) -> list[int]:
        """Return the processes of this cluster's jobs, told by their environment."""
        mark, found = f"SLURM_CONF={self.configuration}".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (process / "environ").read_bytes().split(b"\0")
                step = (process / "comm").read_text().startswith("slurmstepd")
                in_job = any(word.startswith(b"SLURM_JOB_ID=") for word in environment)
                if mark in environment and (step or in_job):
                    found.append(int(process.name))
        return [number for number in found if number != os.getpid()]


def ask(*words: str) -> str:
    """Run a command of SLURM and return what it says."""
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def restarts(job: str) -> int:
    """Return how often SLURM started a job again."""
    line = ask("scontrol", "show", "job", job)
    return int(line.split("Restarts=")[1].split()[0])
