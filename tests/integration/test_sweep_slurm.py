"""Runs on a real SLURM: preempted, timed out, killed, failing; the results of a local sweep."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.evaluate import evaluate
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.run_record import Failure, RunRecord
from piwsl_ocp.experiments.sweep.local import LocalLauncher
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.slurm import SlurmLauncher
from piwsl_ocp.experiments.sweep.slurm_runs import cancel_runs, states_of_runs
from piwsl_ocp.experiments.sweep.status import status_of_jobs, steps_done
from piwsl_ocp.ocp import run
from tests.integration.conftest import converted
from tests.integration.slurm_cluster import Cluster, ask, cluster, restarts
from tests.integration.sweeps import command, make, methods, once_at_step, plan, result

pytestmark = pytest.mark.slow

#: Long enough to be interrupted in the middle.
LONG = {"optim__max_steps": 100, "optim__T_max": 100}

PROFILE = SlurmProfile(
    partition="preemptable", time_minutes=20, memory_gb=0.2, signal_delay_seconds=60
)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted("aspirin", tmp_path_factory.mktemp("data") / "aspirin")


@pytest.fixture(scope="module")
def local(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Return a run of each of three seeds, made without interruption on this machine."""
    root = tmp_path_factory.mktemp("local")
    jobs = plan(root, data, {"config": methods("piwsl"), "seed": [0, 1, 2]}, **LONG)
    assert make(jobs, LocalLauncher(2)).is_complete
    return jobs


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


def one(root: Path, data: Path, seed: int, **settings: object) -> list[Job]:
    grid = {"config": methods("piwsl"), "seed": [seed]}
    return plan(root, data, grid, **{**LONG, **settings})


def number(job: Job) -> str:
    found = RunRecord(job.run_folder).slurm_job
    assert found is not None
    return found.number


class Provoked(SlurmLauncher):
    """A launcher during whose work something happens."""

    def __init__(self, *events, profile: SlurmProfile = PROFILE) -> None:
        super().__init__(profile, poll_seconds=0.2)
        self.events = events

    def ended(self):
        for event in self.events:
            event()
        return super().ended()


def make_despite(jobs: list[Job], *events, profile: SlurmProfile = PROFILE) -> dict[str, Failure]:
    """Make runs during whose work something happens, check that it did, and return failures."""
    failures = dict(make(jobs, Provoked(*events, profile=profile)).failures)
    assert all(event.done for event in events), failures
    return failures


def test_a_preempted_run_goes_on_to_the_same_result(
    slurm: Cluster, data: Path, local: list[Job], tmp_path: Path
) -> None:
    jobs = one(tmp_path, data, 0)
    event = once_at_step(jobs[0], 5, slurm.preempt)
    assert not make_despite(jobs, event)
    assert restarts(number(jobs[0])) == 1
    assert result(jobs[0]) == result(local[0])


def test_a_run_at_its_time_limit_goes_on_to_the_same_result(
    slurm: Cluster, data: Path, local: list[Job], tmp_path: Path
) -> None:
    jobs = one(tmp_path, data, 1)

    def warn() -> None:
        ask("scancel", "--signal=USR2", number(jobs[0]))

    assert not make_despite(jobs, once_at_step(jobs[0], 5, warn))
    assert restarts(number(jobs[0])) == 1
    assert result(jobs[0]) == result(local[1])


def test_runs_survive_the_failure_of_their_node_and_a_requeue(
    slurm: Cluster, data: Path, local: list[Job], tmp_path: Path
) -> None:
    jobs = one(tmp_path, data, 2, optim__num_workers=1)

    def end() -> None:  # what comes before a requeue on a cluster that sends no other signal
        ask("scancel", "--signal=TERM", number(jobs[0]))

    fail = once_at_step(jobs[0], 15, slurm.fail)
    ended = once_at_step(jobs[0], 35, end)
    requeue = once_at_step(jobs[0], 70, lambda: ask("scontrol", "requeue", number(jobs[0])))
    assert not make_despite(jobs, fail, ended, requeue)
    assert restarts(number(jobs[0])) == 3
    assert result(jobs[0]) == result(local[2])


def test_two_tasks_train_as_two_processes_do(
    slurm: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_port: int
) -> None:
    """They choose a port of their own, whatever this process was given."""
    monkeypatch.setenv("MASTER_PORT", str(taken_port))
    jobs = one(tmp_path, data, 0)
    profile = PROFILE.model_copy(update={"tasks_per_node": 2})

    def warn() -> None:
        ask("scancel", "--signal=USR2", number(jobs[0]))

    warned = once_at_step(jobs[0], 5, warn)
    assert not make_despite(jobs, warned, profile=profile)
    assert restarts(number(jobs[0])) == 1
    expected = run.train(jobs[0].config, tmp_path / "expected", processes=2)
    found = result(jobs[0])
    evaluate(expected, data)
    same = result(Job(jobs[0].config, str(expected), str(data)))
    assert found["last_ema.pt"] == same["last_ema.pt"]
    assert found["curve"] == same["curve"]


def test_failures_and_cancelled_jobs_are_told_and_leave_the_others_alone(
    slurm: Cluster, data: Path, local: list[Job], tmp_path: Path
) -> None:
    grid = {"config": methods("piwsl"), "seed": [2, 3], "model.cutoff": [5.0, 0]}
    good, bad, cancelled, bad_too = jobs = plan(tmp_path, data, grid, **LONG)
    stop = once_at_step(cancelled, 5, lambda: cancel_runs([cancelled.run_folder]))
    failures = make_despite(jobs, stop)
    reasons = {name: failure.reason for name, failure in failures.items()}
    assert reasons.keys() == {bad.run_folder, bad_too.run_folder, cancelled.run_folder}
    assert reasons[bad.run_folder] == "model.cutoff: found 0, expected a number above 0"
    assert reasons[cancelled.run_folder].startswith("it was cancelled (SLURM job ")
    assert result(good) == result(local[2])
    states = [s.state for s in status_of_jobs(jobs, states_of_runs([j.run_folder for j in jobs]))]
    assert states == ["finished", "failed", "interrupted", "failed"]


def test_ctrl_c_leaves_the_jobs_and_the_same_command_takes_them_over(
    slurm: Cluster, data: Path, local: list[Job], tmp_path: Path
) -> None:
    (job,) = one(tmp_path, data, 0)
    profile = tmp_path / "profile.yml"
    profile.write_text(yaml.safe_dump(PROFILE.model_dump()))
    words = command(
        "sweep", "run", tmp_path / "experiment.yml", "--runs", tmp_path / "runs",
        "--launcher", "slurm", "--profile", profile,
    )  # fmt: skip
    with subprocess.Popen(words, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL, text=True) as left:
        while left.poll() is None and not steps_done(job.run_folder):
            time.sleep(0.1)
        left.send_signal(signal.SIGINT)
        said, error = left.communicate(timeout=60)
    assert left.returncode == 130, error
    assert f"piwsl sweep cancel {tmp_path / 'experiment.yml'}" in " ".join(said.split())
    first = number(job)
    (status,) = status_of_jobs([job], states_of_runs([job.run_folder]))
    assert status.state == "running"
    assert make([job], Provoked()).is_complete
    assert number(job) == first
    assert result(job) == result(local[0])


def test_what_slurm_cannot_do_is_told_in_one_line(
    slurm: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = one(tmp_path, data, 0)
    unknown = PROFILE.model_copy(update={"partition": "gpu"})
    with pytest.raises(UserError, match=r"^SLURM has no partition 'gpu': use one of normal, pre"):
        make(jobs, Provoked(profile=unknown))
    large = PROFILE.model_copy(update={"cpus_per_task": 64})
    with pytest.raises(UserError, match=r"asks for 64 cores .* partition 'preemptable' has 2"):
        make(jobs, Provoked(profile=large))
    refused = PROFILE.model_copy(update={"constraint": "a100"})
    with pytest.raises(UserError, match=r"^SLURM refuses the jobs: .*feature"):
        make(jobs, Provoked(profile=refused))
    monkeypatch.setenv("PATH", os.path.dirname(os.__file__))  # noqa: PTH120
    with pytest.raises(UserError, match=r"^SLURM is not installed here: no 'sbatch' in PATH"):
        make(jobs, Provoked())
