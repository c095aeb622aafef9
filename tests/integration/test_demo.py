"""The demo from its command: interrupted, gone on with, finished, repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest

from piwsl_ocp import PIWSLCalculator
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.aspirin_scan import ASPIRIN_FILE, read_scan
from piwsl_ocp.experiments.processes import run_jobs
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.worker import Job

STEPS = 40
METHODS = ("piwsl", "supervised", "trapezoid")
SECONDS = 600


def command(folder: Path, *options: str) -> list[str]:
    code = "import sys; from piwsl_ocp.cli import main; sys.exit(main())"
    given = ("--out", str(folder), "--seeds", "1", "--steps", str(STEPS), *options)
    return [sys.executable, "-c", code, "demo", *given]


def call(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, *options), capture_output=True, text=True, timeout=SECONDS, check=False
    )


def runs(folder: Path) -> list[Path]:
    return [folder / "runs" / f"painn_{method}_seed0" for method in METHODS]


def last_step(path: Path) -> int:
    return RunFolder(path).last_step if (path / "config.yml").is_file() else 0


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Start the demo and interrupt it in its first trainings: its folder, exit code, output."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    process = subprocess.Popen(
        command(folder, "--parallel", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and not any(last_step(path) >= 4 for path in runs(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    return folder, process.returncode, output


@pytest.fixture(scope="module")
def finished(interrupted: tuple[Path, int, str]) -> tuple[Path, subprocess.CompletedProcess]:
    """Call the demo again."""
    folder = interrupted[0]
    return folder, call(folder)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(interrupted: tuple[Path, int, str]) -> None:
    folder, code, output = interrupted
    assert code == 130
    assert "interrupted: everything is saved, the same command goes on" in output
    assert "Traceback" not in output
    begun = [RunFolder(path) for path in runs(folder) if (path / "config.yml").is_file()]
    assert begun
    assert any((run.path / "checkpoints" / "checkpoint.pt").is_file() for run in begun)
    assert {run.status["status"] for run in begun} <= {"interrupted", "unknown", "running"}
    assert not (folder / "report.html").exists()


@pytest.mark.slow
def test_the_second_call_goes_on_and_finishes(
    finished: tuple[Path, subprocess.CompletedProcess],
) -> None:
    folder, result = finished
    assert result.returncode == 0, result.stderr
    for path in runs(folder):
        run = RunFolder(path)
        assert run.is_finished
        assert run.last_step == STEPS
        assert run.result()["errors"]["structures"] == 800
    for expected in ("supervised", "PIWSL", "trapezoid", "report.html", "best_checkpoint.pt"):
        assert expected in result.stdout
    for name in ("report.html", "table.md", "table.csv"):
        assert (folder / name).stat().st_size > 200
    assert "Stretching one C–H bond of aspirin" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_the_three_lines_of_code_work(
    finished: tuple[Path, subprocess.CompletedProcess],
) -> None:
    lines = finished[1].stdout.split("in ASE (eV, eV/Å):\n")[1].splitlines()
    names: dict = {}
    exec("\n".join(line.strip() for line in lines[:3]), names)
    energy = names["atoms"].get_potential_energy()
    # references are added back: within 2 eV of the GFN2-xTB total energy after a few steps
    assert energy == pytest.approx(min(read_scan("eV").reference.energies), abs=20)
    assert isinstance(names["atoms"].calc, PIWSLCalculator)


@pytest.mark.slow
def test_a_third_call_repeats_no_training(
    finished: tuple[Path, subprocess.CompletedProcess],
) -> None:
    folder, _ = finished
    before = [(path / "run.json").stat().st_mtime_ns for path in runs(folder)]
    result = call(folder)
    assert result.returncode == 0, result.stderr
    assert [(path / "run.json").stat().st_mtime_ns for path in runs(folder)] == before
    assert "PIWSL" in result.stdout


@pytest.mark.slow
def test_other_settings_are_refused(finished: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, _ = finished
    before = json.loads((runs(folder)[0] / "run.json").read_text())
    result = call(folder, "--steps", "20")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "was made with another optim." in result.stderr
    assert result.stderr.count("\n") == 1
    assert json.loads((runs(folder)[0] / "run.json").read_text()) == before


def test_a_failing_job_ends_in_one_line(tmp_path: Path) -> None:
    job = Job({"optim": {}}, str(tmp_path / "run"), str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"^the run in '.*run' failed: the configuration has no"):
        run_jobs([job], parallel=1)
    assert not (tmp_path / "run").exists()


def test_the_reference_scan_agrees_with_the_labels() -> None:
    import numpy as np

    scan = read_scan("kcal/mol")
    with np.load(ASPIRIN_FILE) as file:
        label = float(file["energies"].min())
    length = scan.atoms.get_distance(*scan.bond)
    between = np.interp(length, scan.reference.distances_angstrom, scan.reference.energies)
    assert between == pytest.approx(label, abs=0.05)
    assert 1.0 < scan.reference.at_minimum() < 1.2
    assert ase.io.__name__ == "ase.io"
