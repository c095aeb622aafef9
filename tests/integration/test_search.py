"""Searches with real trainings: repeatable, interrupted and gone on with, failing, stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.search.plan import SearchPlan, read_search
from piwsl_ocp.experiments.search.run import run
from piwsl_ocp.experiments.search.study import open_study, read_study, trials_of
from piwsl_ocp.experiments.sweep.local import LocalLauncher
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.run import Launcher
from piwsl_ocp.experiments.sweep.slurm import SlurmLauncher
from piwsl_ocp.experiments.sweep.slurm_runs import states_of_runs
from piwsl_ocp.experiments.sweep.status import steps_done
from piwsl_ocp.ocp.run_lock import is_locked
from tests.integration.conftest import converted
from tests.integration.slurm_cluster import Cluster, cluster
from tests.integration.sweeps import CONFIGS, command, piwsl, write_experiment

pytestmark = pytest.mark.slow

WEIGHT = {"optim.piwsl.terms.pitc": {"low": 0.01, "high": 10, "log": True}}

#: Good, useless, and one that gives no numbers.
RATES = {"optim.lr_initial": {"choices": [0.005, 1e-7, 1e9]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted("aspirin", tmp_path_factory.mktemp("data") / "aspirin")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def write_search(folder: Path, data: Path, space: dict, trials: int, **content: object) -> Path:
    """Write the file of a search with small models and short runs, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = content.pop("steps", 40)
    same = {"optim__max_steps": steps, "optim__T_max": steps}
    experiment = write_experiment(folder / "experiment.yml", data, {}, **same)
    settings = yaml.safe_load(experiment.read_text())["set"]
    search = {
        "name": "tiny",
        "config": f"{CONFIGS}/painn_piwsl.yml",
        "space": space,
        "trials": trials,
        "set": settings,
        **content,
    }
    path = folder / "search.yml"
    path.write_text(yaml.safe_dump(search, sort_keys=False))
    return path


def make(plan: SearchPlan, launcher: Launcher, parallel: int) -> str:
    """Make a search and return what it says."""
    printed = plan.folder / "printed"
    with open_study(plan) as study, printed.open("w") as file:
        run(plan, study, launcher, Console(file=file, width=200), parallel=parallel)
    return printed.read_text()


def outcome(plan: SearchPlan) -> list[tuple]:
    return [
        (trial.state.name, trial.params, trial.value, trial.intermediate_values)
        for trial in trials_of(read_study(plan))
    ]


def test_an_interrupted_search_goes_on_to_the_same_trials(data: Path, tmp_path: Path) -> None:
    whole = read_search(write_search(tmp_path / "whole", data, WEIGHT, 2), tmp_path / "whole")
    make(whole, LocalLauncher(1), parallel=1)
    assert [trial[0] for trial in outcome(whole)] == ["COMPLETE"] * 2

    path = write_search(tmp_path / "again", data, WEIGHT, 2)
    plan = read_search(path, tmp_path / "runs")
    words = ("search", "run", path, "--runs", tmp_path / "runs", "--parallel", "1")
    with subprocess.Popen(
        command(*words), stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as process:
        (first,) = plan.jobs(outcome(whole)[0][1])
        while process.poll() is None and steps_done(first.run_folder) < 3:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        said, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "interrupted: what was done is saved, the same command goes on" in said
    assert "Traceback" not in said + error
    assert [trial[0] for trial in outcome(plan)] == ["RUNNING"]
    status = piwsl("search", "status", path, "--runs", tmp_path / "runs")
    assert "interrupted" in status.stdout

    again = piwsl(*words, "--out", tmp_path / "mine.yml")
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert outcome(plan) == outcome(whole)
    assert (tmp_path / "mine.yml").read_text() == (plan.folder / "best.yml").read_text()
    assert (plan.folder / "search.html").is_file()
    assert not list(plan.folder.glob("*/results/*"))


def test_a_trial_that_gives_no_numbers_fails_and_a_hopeless_one_is_stopped(
    data: Path, tmp_path: Path
) -> None:
    pruner = {"startup_trials": 1, "warmup_steps": 20}
    options = {"pruner": pruner, "sampler": {"name": "random", "seed": 3}, "steps": 300}
    plan = read_search(write_search(tmp_path, data, RATES, 3, **options), tmp_path / "runs")
    printed = make(plan, LocalLauncher(1), parallel=1)
    good, failed, stopped = trials_of(read_study(plan))
    assert good.state is TrialState.COMPLETE
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["reason"].startswith("predicted energy is nan for record ")
    assert stopped.state is TrialState.PRUNED
    (job,) = plan.jobs(stopped.params)
    folder = RunFolder(Path(job.run_folder))
    assert folder.status["status"] == "interrupted"
    assert folder.last_step < 300
    assert not is_locked(job.run_folder)
    assert f"trial {failed.number}: failed: predicted energy is nan" in printed
    assert f"trial {stopped.number}: stopped at step 20, " in printed


def test_a_search_on_slurm_cancels_the_job_of_a_hopeless_trial(
    slurm: Cluster, data: Path, tmp_path: Path
) -> None:
    options = {
        "pruner": {"startup_trials": 1, "warmup_steps": 20},
        "sampler": {"name": "random", "seed": 3},
        "steps": 300,
    }
    space = {"optim.lr_initial": {"choices": [0.005, 1e-7]}}
    plan = read_search(write_search(tmp_path, data, space, 2, **options), tmp_path / "runs")
    profile = SlurmProfile(partition="preemptable", time_minutes=20, memory_gb=0.2)
    make(plan, SlurmLauncher(profile, poll_seconds=0.2), parallel=1)
    good, bad = trials_of(read_study(plan))
    assert (good.state, bad.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    (job,) = plan.jobs(bad.params)
    assert not is_locked(job.run_folder)
    assert RunFolder(Path(job.run_folder)).last_step < 300
    assert states_of_runs([job.run_folder])[Path(job.run_folder)].word == "CANCELLED"
