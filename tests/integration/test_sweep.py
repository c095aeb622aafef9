"""A sweep on this machine: failing, interrupted, gone on with, tried again, never repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from piwsl_ocp.experiments import processes, worker
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.processes import Worker
from piwsl_ocp.experiments.run_record import RunRecord
from piwsl_ocp.experiments.sweep import local
from piwsl_ocp.experiments.sweep.local import LocalLauncher
from piwsl_ocp.experiments.sweep.plan import read_experiment
from piwsl_ocp.experiments.sweep.status import status_of_folder, status_of_jobs, steps_done
from piwsl_ocp.ocp.run_lock import only_process
from tests.integration.conftest import converted
from tests.integration.sweeps import (
    command,
    make,
    methods,
    once_at_step,
    piwsl,
    plan,
    result,
    write_experiment,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted("aspirin", tmp_path_factory.mktemp("data") / "aspirin")


def states(jobs: list[Job]) -> list[str]:
    return [status.state for status in status_of_jobs(jobs)]


def ends(jobs: list[Job]) -> list[int]:
    """Return when each run last changed."""
    return [(Path(job.run_folder) / "run.json").stat().st_mtime_ns for job in jobs]


@pytest.mark.slow
def test_a_sweep_reports_a_failing_run_and_makes_the_others_once(
    data: Path, tmp_path: Path
) -> None:
    grid = {"config": methods("supervised"), "model.cutoff": [0, 5.0]}
    experiment = write_experiment(tmp_path / "experiment.yml", data, grid)
    bad, good = read_experiment(experiment, tmp_path / "runs")
    words = ("sweep", "run", experiment, "--runs", tmp_path / "runs")

    dry = piwsl(*words, "--dry-run")
    assert dry.returncode == 1, dry.stderr
    assert f"would fail: {bad.name}: model.cutoff: found 0" in dry.stdout
    assert not (tmp_path / "runs").exists()

    first = piwsl(*words)
    assert first.returncode == 1, first.stderr
    assert f"failed: {bad.name}: model.cutoff: found 0, expected a number above 0" in first.stdout
    assert "1 of 2 runs are finished" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    assert states([bad, good]) == ["failed", "finished"]
    made = ends([good])

    kept = RunRecord(bad.run_folder).folder / "failure.json"
    failed_at = kept.stat().st_mtime_ns
    assert piwsl(*words).returncode == 1
    assert kept.stat().st_mtime_ns == failed_at
    again = piwsl(*words, "--retry-failed")
    assert again.returncode == 1
    assert kept.stat().st_mtime_ns > failed_at
    assert ends([good]) == made

    table = piwsl("sweep", "status", tmp_path / "runs")
    assert "1 failed, 1 finished" in table.stdout or "1 finished, 1 failed" in table.stdout


@pytest.mark.slow
def test_ctrl_c_saves_every_run_and_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    grid = {"config": methods("piwsl"), "seed": [0, 1]}
    long = {"optim__max_steps": 200, "optim__T_max": 200}
    whole = plan(tmp_path / "whole", data, grid, **long)
    assert make(whole, LocalLauncher(2)).is_complete

    experiment = write_experiment(tmp_path / "experiment.yml", data, grid, **long)
    jobs = read_experiment(experiment, tmp_path / "runs")
    words = ("sweep", "run", experiment, "--runs", tmp_path / "runs", "--parallel", "2")
    with subprocess.Popen(
        command(*words), stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and not all(steps_done(j.run_folder) > 3 for j in jobs):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        said, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "interrupted: everything is saved, the same command goes on" in said
    assert "Traceback" not in said + error
    assert states(jobs) == ["interrupted"] * 2
    assert all((Path(j.run_folder) / "checkpoints/checkpoint.pt").is_file() for j in jobs)

    assert piwsl(*words).returncode == 0
    assert [result(job) for job in jobs] == [result(job) for job in whole]


@pytest.mark.slow
def test_a_killed_run_is_told_and_one_with_a_broken_checkpoint_begins_anew(
    data: Path, tmp_path: Path
) -> None:
    grid = {"config": methods("supervised"), "seed": [0]}
    long = {"optim__max_steps": 100, "optim__T_max": 100}
    (whole,) = plan(tmp_path / "whole", data, grid, **long)
    assert make([whole], LocalLauncher(1)).is_complete
    (job,) = plan(tmp_path / "killed", data, grid, **long)
    checkpoint = Path(job.run_folder) / "checkpoints" / "checkpoint.pt"

    def kill() -> None:
        content = (Path(job.run_folder) / "run.json").read_text()
        os.kill(int(content.split('"pid": ')[1].split("\n")[0]), signal.SIGKILL)

    event = once_at_step(job, 12, kill)

    class Killing(LocalLauncher):
        def ended(self):
            event()
            return super().ended()

    outcome = make([job], Killing(1))
    reason = outcome.failures[job.run_folder].reason
    assert reason.startswith("its process was ended by SIGKILL, perhaps because memory ran out")
    assert states([job]) == ["interrupted"]
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert make([job], LocalLauncher(1)).is_complete
    assert result(job) == result(whole)
    assert checkpoint.with_name("checkpoint.pt.unreadable").is_file()


def launch(monkeypatch: pytest.MonkeyPatch, script: str) -> LocalLauncher:
    """Return a launcher at work on two runs that are a shell script each."""

    def start(jobs: list[Job], gpu: str | None) -> Worker:
        process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE)
        return Worker(process, tempfile.TemporaryFile(), gpu)

    monkeypatch.setattr(local, "start", start)
    launcher = LocalLauncher(2)
    launcher.submit([Job({}, f"nowhere/{name}", "data") for name in "ab"])
    return launcher


@pytest.mark.parametrize(
    ("script", "is_passing"), [("kill -9 $$", True), ("exit 130", True), ("exit 2", False)]
)
def test_an_end_from_outside_is_told_from_a_failure(
    monkeypatch: pytest.MonkeyPatch, script: str, is_passing: bool
) -> None:
    with launch(monkeypatch, script) as launcher:
        while not (ended := launcher.ended()):
            time.sleep(0.01)
    assert {failure.is_passing for failure in ended.values()} == {is_passing}


def test_a_run_that_another_process_makes_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for code in (worker.EXIT_BUSY, worker.EXIT_USER_ERROR):
        with launch(monkeypatch, f"exit {code}") as launcher:
            ended: dict = {}
            while len(ended) < 2:
                ended |= launcher.ended()
        passing = {failure.is_passing for failure in ended.values()}
        assert passing == {code == worker.EXIT_BUSY}


def test_runs_that_do_not_save_in_time_are_killed_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    with launch(monkeypatch, "exec sleep 60") as launcher:
        pass
    assert launcher.killed == ["a", "b"]
    with launch(monkeypatch, "read line") as launcher:
        pass
    assert launcher.killed == []


@pytest.mark.slow
def test_a_run_can_be_stopped_alone(data: Path, tmp_path: Path) -> None:
    grid = {"config": methods("supervised"), "seed": [0, 1]}
    first, second = plan(tmp_path, data, grid, optim__max_steps=2000, optim__T_max=2000)
    with LocalLauncher(1) as launcher:
        launcher.submit([first, second])
        launcher.stop(second.run_folder)
        assert launcher.ended() == {second.run_folder: None}
        while steps_done(first.run_folder) < 3:
            assert launcher.ended() == {}
            time.sleep(0.1)
        launcher.stop(first.run_folder)
        while not (ended := launcher.ended()):
            time.sleep(0.1)
        assert ended == {first.run_folder: None}
    assert states([first, second]) == ["interrupted", "planned"]
    assert (Path(first.run_folder) / "checkpoints/checkpoint.pt").is_file()


def test_a_run_that_another_process_works_on_is_left_alone(data: Path, tmp_path: Path) -> None:
    (job,) = plan(tmp_path, data, {"config": methods("supervised")})
    assert states([job]) == ["planned"]
    with only_process(job.run_folder):
        assert states([job]) == ["running"]
        (status,) = status_of_folder(tmp_path / "runs")
        assert status.state == "running"
    assert RunRecord(job.run_folder).failure is None


@pytest.mark.slow
def test_a_damaged_run_leaves_the_others_alone(data: Path, tmp_path: Path) -> None:
    first, second = plan(tmp_path, data, {"config": methods("supervised"), "seed": [0, 1]})
    assert make([first], LocalLauncher(1)).is_complete
    record = Path(first.run_folder) / "run.json"
    record.write_text(record.read_text()[:20])
    assert states([first, second]) == ["damaged", "planned"]
    outcome = make([first, second], LocalLauncher(1))
    assert set(outcome.failures) == {first.run_folder}
    assert "is cut off or no JSON: remove it" in outcome.failures[first.run_folder].reason
    assert states([first, second]) == ["damaged", "finished"]
    damaged, whole = status_of_folder(tmp_path / "runs")
    assert (damaged.state, whole.state) == ("damaged", "finished")
    assert "is cut off or no JSON" in damaged.note

    record.unlink()
    assert make([first, second], LocalLauncher(1), retry_failed=True).is_complete
