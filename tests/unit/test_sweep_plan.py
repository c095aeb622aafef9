"""Experiment files, SLURM profiles, and what SLURM says, read and checked."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from piwsl_ocp.cli import build
from piwsl_ocp.cli import sweep as cli
from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.run_record import RunRecord
from piwsl_ocp.experiments.sweep.plan import make_job, read_experiment, without_repetition
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.slurm_queue import JobState, parse
from piwsl_ocp.experiments.sweep.status import RunStatus, status_of_folder, steps_done, table
from piwsl_ocp.ocp.config import check_config, configs_folder
from tests.run_folders import make_run

SUPERVISED = "experiments/embedded_aspirin/painn_supervised.yml"
TERMS = "optim.piwsl.terms"
FRACTION = "optim.piwsl.displacement.atom_fraction"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "aspirin"
    convert("embedded", ["aspirin"], folder, ConversionOptions(train=4, validation=2, test=2))
    return folder


def settings(data: Path) -> dict:
    return {f"dataset.{split}.src": f"{data}/{split}/data.lmdb" for split in ("train", "val")}


def experiment(folder: Path, data: Path, **content: object) -> Path:
    path = folder / "experiment.yml"
    common = {"name": "test", "grid": {"config": [SUPERVISED]}, "set": settings(data)}
    path.write_text(yaml.safe_dump({**common, **content}, sort_keys=False))
    return path


def test_every_combination_is_one_run(data: Path, tmp_path: Path) -> None:
    piwsl = SUPERVISED.replace("supervised", "piwsl")
    grid = {"config": [SUPERVISED, piwsl], "seed": [0, 1], "optim.max_steps": [7]}
    path = experiment(tmp_path, data, grid=grid, measurements=["errors", "bond_scan"])
    jobs = read_experiment(path, tmp_path / "runs")
    assert [job.config["seed"] for job in jobs] == [0, 1, 0, 1]
    assert [job.name[:-8] for job in jobs] == [
        f"aspirin_n4-painn-{method}-7steps-s{seed}-"
        for method in ("supervised", "PIWSL")
        for seed in (0, 1)
    ]
    assert {job.dataset_folder for job in jobs} == {str(data)}
    assert all(job.measurements == ("errors", "bond_scan") for job in jobs)
    assert all(Path(job.run_folder).parent == tmp_path / "runs" for job in jobs)


@pytest.mark.parametrize("name", sorted(p.name for p in (configs_folder() / "sweeps").glob("*")))
def test_the_experiments_of_the_project_can_be_trained(
    name: str, data: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load((configs_folder() / "sweeps" / name).read_text())
    content["grid"].pop("dataset", None)
    content["set"] |= settings(data)
    path = tmp_path / name
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    jobs = read_experiment(path, tmp_path / "runs")
    assert len(jobs) == math.prod(len(values) for values in content["grid"].values())
    for job in jobs:
        check_config(job.config)


def test_equal_runs_share_a_folder_wherever_they_are_planned(data: Path, tmp_path: Path) -> None:
    grid = {"config": [SUPERVISED], "optim.max_steps": [7, 7]}
    (job,) = read_experiment(experiment(tmp_path, data, grid=grid), tmp_path / "runs")
    same = make_job(
        configs_folder() / SUPERVISED,
        0,
        {**settings(data), "optim.max_steps": 7},
        tmp_path / "runs",
        ("bond_scan",),
    )
    other = make_job(SUPERVISED, 0, {**settings(data), "optim.max_steps": 8}, tmp_path / "runs")
    assert same.run_folder == job.run_folder != other.run_folder
    (joined,) = without_repetition([job, same])
    assert joined.measurements == ("errors", "bond_scan")


def test_weights_to_begin_with_and_parts_of_the_data_make_another_run(
    data: Path, tmp_path: Path
) -> None:
    def folder(**more: object) -> str:
        return make_job(SUPERVISED, 0, {**settings(data), **more}, tmp_path).run_folder

    weights, copy = tmp_path / "a.pt", tmp_path / "b.pt"
    weights.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    plain, begun = folder(), folder(checkpoint=str(weights))
    part = folder(**{"dataset.train.first_n": 5})
    assert len({plain, begun, part}) == 3
    assert folder(checkpoint=str(copy)) == begun
    assert (
        folder(**{"dataset.train.first_n": None, "dataset.val.use_train_settings": True}) == plain
    )


def test_a_run_is_known_by_its_digits_whatever_words_are_before_them(
    data: Path, tmp_path: Path
) -> None:
    name = make_job(SUPERVISED, 0, settings(data), tmp_path).name
    (tmp_path / f"earlier_words-{'-'.join(name.split('-')[-2:])}").mkdir()
    assert make_job(SUPERVISED, 0, settings(data), tmp_path).name.startswith("earlier_words-s0-")
    assert make_job(SUPERVISED, 1, settings(data), tmp_path).name.startswith("aspirin_")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gird": {}}, "gird: unknown key, did you mean 'grid'?"),
        ({"name": 3}, "name: found 3, expected text"),
        ({"grid": {"config": [SUPERVISED], "seed": 0}}, "grid.seed: found 0, expected a list"),
        ({"grid": {"config": [SUPERVISED], "seed": []}}, "grid.seed is empty"),
        ({"grid": {}}, "names no configuration"),
        ({"grid": {"config": [SUPERVISED], "sed": [1]}}, "grid.sed: unknown setting, did you mea"),
        ({"grid": {"config": [SUPERVISED], "seed": ["a"]}}, "seed: found 'a', expected an integer"),
        ({"set": {"config": "a.yml"}}, "'config' is both in grid and in set"),
        (
            {"grid": {"config": ["painn_supervisd.yml"]}},
            "no configuration at 'painn_supervisd.yml'",
        ),
        ({"measurements": ["error"]}, "measurements: unknown 'error', did you mean 'errors'?"),
        ({"set": {}}, "dataset.json"),
        ({"set": {"model": ["painn"]}}, "model: found ['painn'], expected a mapping"),
        ({"set": {"optim": 3}}, "optim: found 3, expected a mapping"),
        ({"set": {"optim": {1: 2, "batch_size": 3}}}, "optim.1: found 1, keys should be strings"),
        ({"set": {"dataset": None}}, "dataset: found None, expected a mapping"),
        ({"set": {"dataset.train": 3}}, "dataset.train: found 3, expected a mapping"),
        ({"set": {"dataset.train.src": 3}}, "dataset.train.src: found 3, expected text"),
        ({"set": {TERMS: ["pitc"]}}, f"{TERMS}: found ['pitc'], expected a mapping"),
        ({"set": {f"{TERMS}.pitc": "abc"}}, f"{TERMS}.pitc: found 'abc', expected a number"),
        ({"set": {FRACTION: "x"}}, f"{FRACTION}: found 'x', expected a number"),
    ],
)
def test_a_mistake_in_an_experiment_is_told_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = experiment(tmp_path, data, **content)
    with pytest.raises(UserError) as error:
        read_experiment(path, tmp_path / "runs")
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2", "- a", ""])
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "experiment.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"experiment '.*experiment.yml'"):
        read_experiment(path, tmp_path)
    with pytest.raises(UserError, match=r"nowhere.yml' cannot be read: No such file"):
        read_experiment(tmp_path / "nowhere.yml", tmp_path)


@pytest.mark.parametrize("name", ["a100", "cpu", "configs/slurm/cpu.yml"])
def test_the_profiles_of_the_project_are_valid(name: str) -> None:
    parameters = SlurmProfile.read(name).parameters()
    assert parameters["slurm_array_parallelism"] >= 16
    assert parameters["slurm_additional_parameters"] == {"requeue": True}
    assert ("gpus_per_node" in parameters) == (name == "a100")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partion: gpu", "partion: unknown key, did you mean 'partition'?"),
        ("time_minutes: 24h", "time_minutes: found '24h', expected a whole number"),
        ("cpus_per_task: 0", "cpus_per_task: found 0, expected a number of at least 1"),
        ("- gpu", "expected a mapping with keys such as partition, account, constraint"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_mistake_in_a_profile_is_told_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "profile.yml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        SlurmProfile.read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_path_of_a_profile_that_is_not_there_is_not_taken_for_one_of_the_project() -> None:
    with pytest.raises(UserError, match=r"no SLURM profile at '/no/such/folder/a100.yml'"):
        SlurmProfile.read("/no/such/folder/a100.yml")
    assert SlurmProfile.read("a100.yml") == SlurmProfile.read("a100")


def dry_run(path: Path, *options: str) -> Result:
    words = ["sweep", "run", str(path), "--dry-run", "--runs", str(path.parent / "runs")]
    return CliRunner().invoke(build(), [*words, *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "a100"], "--profile is for SLURM jobs: add --launcher slurm or leave it"),
        (["--on-interrupt", "leave"], "--on-interrupt is for SLURM jobs: add --launcher slurm"),
        (["--launcher", "slurm", "--profile", "nonsense"], "no SLURM profile at 'nonsense'"),
    ],
)
def test_options_that_have_no_effect_or_are_wrong_are_refused(
    data: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    said = dry_run(experiment(tmp_path, data), *options)
    assert isinstance(said.exception, UserError)
    assert str(said.exception).startswith(message)


def test_a_dry_run_with_runs_that_would_fail_is_no_success(data: Path, tmp_path: Path) -> None:
    assert dry_run(experiment(tmp_path, data)).exit_code == 0
    grid = {"config": [SUPERVISED], "model.cutoff": [5.0, 0]}
    said = dry_run(experiment(tmp_path, data, grid=grid))
    assert said.exit_code == 1
    assert said.output.count("would fail: ") == 1


def test_without_a_seed_that_of_the_configuration_counts(data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    settings_of_mine = {"includes": [str(configs_folder() / SUPERVISED)], "seed": 7}
    mine.write_text(yaml.safe_dump(settings_of_mine))

    def seeds(**grid: list) -> list[int]:
        jobs = read_experiment(experiment(tmp_path, data, grid=grid), tmp_path / "runs")
        assert all(f"-s{job.config['seed']}-" in job.name for job in jobs)
        return [job.config["seed"] for job in jobs]

    assert seeds(config=[SUPERVISED, str(mine)]) == [0, 7]
    assert seeds(config=[str(mine)], seed=[3]) == [3]
    mine.write_text(yaml.safe_dump({**settings_of_mine, "seed": "seven"}))
    with pytest.raises(UserError, match="seed: found 'seven', expected an integer"):
        seeds(config=[str(mine)])


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no SLURM profile at 'a10', did you mean 'a100'\?"):
        SlurmProfile.read("a10")


def test_what_slurm_says_is_read() -> None:
    queue = parse("12_0|PENDING|Priority\n12_1|RUNNING|None\n13|OUT_OF_MEMORY|OutOfMemory\n")
    assert queue["12_0"] == JobState("PENDING", "Priority")
    assert queue["12_0"].is_active
    assert queue["12_1"] == JobState("RUNNING")
    assert not queue["13"].is_active
    assert "out of memory: ask for more memory_gb" in queue["13"].explanation
    account = parse("12_3|CANCELLED by 1000\n14|NODE_FAIL\n")
    assert account["12_3"].explanation == "it was cancelled"
    assert account["14"].explanation == "its node failed"


def test_the_state_of_runs_is_read_from_their_folders(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "piwsl")
    make_run(tmp_path / "b", "piwsl", status="interrupted", seconds_per_step=0.5)
    make_run(tmp_path / "c", "piwsl", status="failed")
    RunRecord(tmp_path / "c").keep_failure(UserError("too bad"))
    make_run(tmp_path / "d", "piwsl", status="interrupted")
    (tmp_path / "nothing").mkdir()
    found = status_of_folder(tmp_path, {tmp_path / "d": JobState("PENDING", "Priority")})
    assert [(s.name, s.state, s.note) for s in found] == [
        ("a", "finished", ""),
        ("b", "interrupted", ""),
        ("c", "failed", "too bad"),
        ("d", "preempted", "Priority"),
    ]
    assert found[0].step == found[0].steps == steps_done(tmp_path / "a") == 40
    assert math.isnan(found[0].seconds_left)
    assert found[0].metric > 0
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(found, "rates"))
    assert "rates" in console.export_text().splitlines()[0]
    (tmp_path / "a" / "results" / "test.json").write_text('{"errors"')
    damaged = status_of_folder(tmp_path)[0]
    assert damaged.state == "damaged"
    assert "is cut off or no JSON: make it again with `piwsl validate" in damaged.note
    with pytest.raises(UserError, match="no folder"):
        status_of_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("seconds", "seen"),
    [
        (60, ["running planned", "planned", "interrupted running", "finished"]),
        (0, ["running planned", "planned"]),
    ],
)
def test_runs_are_watched_while_some_may_be_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, seen: list[str]
) -> None:
    shown = []
    looks = iter(["running planned", "planned", "interrupted running", "finished"])

    def look() -> tuple[list[RunStatus], str]:
        shown.append(next(looks))
        return [RunStatus(f"run_{n}", state) for n, state in enumerate(shown[-1].split())], ""

    monkeypatch.setattr(cli, "_looker", lambda what, runs: look)
    monkeypatch.setattr(cli, "QUEUE_SECONDS", seconds)
    words = ["sweep", "status", str(tmp_path), "--watch", "--interval", "0.1"]
    said = CliRunner().invoke(build(), words)
    assert said.exit_code == 0, said.output
    assert shown == seen


def test_the_first_failure_of_a_run_is_kept(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "run")
    record.keep_failure(ZeroDivisionError("division by zero"))
    record.keep_failure(ConnectionError("peer is gone"))
    assert record.failure.reason == "ZeroDivisionError: division by zero"
    assert record.failure.log.endswith("ZeroDivisionError: division by zero")
    record.forget_failure()
    assert record.failure is None
    assert [record.stops_without_progress(step) for step in (3, 3, 5)] == [1, 2, 1]
