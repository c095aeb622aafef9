"""The launcher of SLURM jobs and what is told of them, with stand-ins for SLURM's commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.sweep import slurm_queue

PARTITIONS = "normal*\ngpu\nlong\n"


class FakeSlurm:
    """Commands that answer what a test lays down.

    Args:
        folder: of the commands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo", "sacct"):
            self.answer(name, "")

    def answer(self, name: str, text: str, code: int = 0) -> None:
        """Let a command say something, on its error stream if its exit code is not 0."""
        (self.folder / f"{name}.txt").write_text(text)
        stream = 2 if code else 1
        self.script(name, f'cat "{self.folder}/{name}.txt" >&{stream}; exit {code}')

    def script(self, name: str, lines: str) -> None:
        """Let a command do something; its arguments are kept."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$*" >> "{path}.calls"\n{lines}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call of a command."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.is_file() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake


def answer_partitions(slurm: FakeSlurm, partitions: str = PARTITIONS) -> None:
    """Let sinfo name partitions, and a node of 8 and one of 16 cores."""
    slurm.script(
        "sinfo", f"case $* in *%P*) printf '{partitions}' ;; *) printf '8\\n16+\\n' ;; esac"
    )


@pytest.mark.parametrize("partition", [None, "gpu", "gpu,long"])
def test_partitions_that_slurm_accepts_are_accepted(
    slurm: FakeSlurm, partition: str | None
) -> None:
    answer_partitions(slurm)
    slurm_queue.check_fits(partition, 16)
    assert f"--partition={partition or 'normal'} " in slurm.calls("sinfo")[-1]


@pytest.mark.parametrize(
    ("partition", "partitions", "message"),
    [
        ("gpu,lang", PARTITIONS, "SLURM has no partition 'lang': use one of normal, gpu, long"),
        (
            None,
            "gpu\nlong\n",
            "SLURM has no default partition: set `partition` in the profile, one of gpu, long",
        ),
        (
            "gpu,long",
            PARTITIONS,
            "the SLURM profile asks for 17 cores on a node, and the largest node of partition "
            "'gpu,long' has 16: lower cpus_per_task or tasks_per_node",
        ),
    ],
)
def test_partitions_that_cannot_be_used_are_told(
    slurm: FakeSlurm, partition: str | None, partitions: str, message: str
) -> None:
    answer_partitions(slurm, partitions)
    with pytest.raises(UserError) as error:
        slurm_queue.check_fits(partition, 17)
    assert str(error.value) == message
