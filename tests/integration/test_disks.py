"""Disks that are full or cannot be written end a command in one line and leave nothing broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from piwsl_ocp.cli import main
from piwsl_ocp.ocp.state import read_checkpoint
from tests.integration.training import small_config

Disk = Callable[[str], AbstractContextManager[Path]]


@pytest.fixture
def piwsl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs the command and returns its one line of error."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["piwsl", *(str(argument) for argument in arguments)])
        capsys.readouterr()
        assert main() == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if "error: " in text]
        return line

    return run


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    ethanol: Path, tmp_path: Path, mounted_disk: Disk, piwsl
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(small_config(ethanol, {"optim.eval_every": 3})))
    with mounted_disk("size=500k") as disk:
        line = piwsl("train", config, "--run-folder", disk / "run")
        left = {path.name for path in (disk / "run" / "checkpoints").iterdir()}
        step = read_checkpoint(disk / "run" / "checkpoints" / "checkpoint.pt")["step"]
    assert "cannot write the checkpoint" in line
    assert "0.0 MiB are free" in line
    assert "piwsl resume" in line
    assert left == {"best_checkpoint.pt", "checkpoint.pt", "normalizers.pt"}
    assert step == 3


def test_a_run_folder_on_a_read_only_disk(
    ethanol: Path, tmp_path: Path, mounted_disk: Disk, piwsl
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(small_config(ethanol)))
    with mounted_disk("ro") as disk:
        line = piwsl("train", config, "--run-folder", disk / "run")
    assert "cannot write to the run folder" in line
    assert "Read-only file system" in line


def test_results_and_predictions_on_a_read_only_disk(
    ethanol: Path,
    tmp_path: Path,
    trained: Callable[..., Path],
    mounted_disk: Disk,
    piwsl,
) -> None:
    run = trained(ethanol, tmp_path / "run", {"optim.max_steps": 2})
    water = tmp_path / "water.xyz"
    water.write_text("3\n\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n")
    with mounted_disk("size=20m") as disk:
        shutil.copytree(run, disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for line in (
            piwsl("validate", disk / "run", "--split", "test"),
            piwsl("predict", disk / "run", water, "--out", disk / "out.extxyz"),
        ):
            assert f"cannot write '{disk}" in line
            assert "Read-only file system" in line
