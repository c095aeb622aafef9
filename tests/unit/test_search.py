"""A search: its file, its trials on learning curves with a known best, what it leaves behind."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.run_record import Failure
from piwsl_ocp.experiments.search import run as search_run
from piwsl_ocp.experiments.search.page import importances, write_page
from piwsl_ocp.experiments.search.plan import SearchPlan, read_search
from piwsl_ocp.experiments.search.result import require_own_or_new, write_result
from piwsl_ocp.experiments.search.status import table
from piwsl_ocp.experiments.search.study import (
    JOURNAL,
    best_of,
    is_open,
    new_trial,
    open_study,
    read_study,
    trials_of,
)
from piwsl_ocp.experiments.sweep.plan import make_job
from piwsl_ocp.ocp.config import check_config, configs_folder, load_config

TERMS = "optim.piwsl.terms"
PITC = f"{TERMS}.pitc"
EPSILON = "optim.piwsl.displacement.epsilon_max_angstrom"
SPACE = {
    PITC: {"low": 0.01, "high": 10, "log": True},
    EPSILON: {"low": 0.005, "high": 0.1, "log": True},
}
STEPS, EVERY = 40, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "aspirin"
    convert("embedded", ["aspirin"], folder, ConversionOptions(train=4, validation=2, test=2))
    return folder


@pytest.fixture(autouse=True)
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_run, "LOOK_SECONDS", 0.0)


def write_search(folder: Path, data: Path, **content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "search.yml"
    sources = {f"dataset.{split}.src": f"{data}/{split}/data.lmdb" for split in ("train", "val")}
    common = {
        "name": "toy",
        "config": "experiments/embedded_aspirin/painn_piwsl.yml",
        "space": SPACE,
        "trials": 12,
        "set": {**sources, "optim.max_steps": STEPS, "optim.eval_every": EVERY},
        "sampler": {"startup_trials": 4},
        "pruner": {"startup_trials": 2},
    }
    path.write_text(yaml.safe_dump({**common, **content}, sort_keys=False))
    return path


def plan_of(folder: Path, data: Path, **content: object) -> SearchPlan:
    return read_search(write_search(folder, data, **content), folder / "runs")


def bowl(job: Job, step: int) -> float:
    """Return a learning curve that ends lowest at a weight of 1 and a displacement of 0.02 Å."""
    options = job.config["optim"]["piwsl"]
    weight, epsilon = options["terms"]["pitc"], options["displacement"]["epsilon_max_angstrom"]
    distance = math.log10(weight) ** 2 + math.log10(epsilon / 0.02) ** 2
    return 1 + distance + 0.1 * job.config["seed"] + math.exp(-step / 10)


class Curves:
    """Writes learning curves in place of trainings: half a validation of each run at a look."""

    poll_seconds = 0.0

    def __init__(
        self,
        curve: Callable[[Job, int], float] = bowl,
        slots: int = 1,
        looks: float = math.inf,
        fails: Callable[[Job], bool] = lambda job: False,
        failure: Failure = Failure("no such thing"),  # noqa: B008  (frozen)
    ) -> None:
        self.curve, self.slots, self.looks, self.fails = curve, slots, looks, fails
        self.failure = failure
        self.jobs: dict[str, Job] = {}
        self.stopped: list[str] = []
        self.begun: list[str] = []

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *error: object) -> None:
        self.jobs.clear()

    def submit(self, jobs: Sequence[Job]) -> None:
        assert not {job.run_folder for job in jobs} & self.jobs.keys()
        self.begun += [job.run_folder for job in jobs]
        self.jobs |= {job.run_folder: job for job in jobs}

    def ended(self) -> dict[str, Failure | None]:
        self.looks -= 1
        if self.looks < 0:
            raise KeyboardInterrupt
        found: dict[str, Failure | None] = dict.fromkeys(self.stopped)
        self.stopped.clear()
        for folder, job in list(self.jobs.items())[: self.slots]:
            if self.fails(job):
                found[folder] = self.failure
            elif folder not in found and self._validate(job) == STEPS:
                found[folder] = None
        for folder in found:
            self.jobs.pop(folder)
        return found

    def stop(self, run_folder: str) -> None:
        assert run_folder in self.jobs
        self.stopped.append(run_folder)

    def _validate(self, job: Job) -> int:
        """Write the next line of a log, two for each validation; return the step of a whole one."""
        folder = Path(job.run_folder)
        log = folder / "logs" / "piwsl" / "metrics.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").write_text(yaml.safe_dump(job.config))
        lines = len(log.read_text().splitlines()) if log.is_file() else 0
        step, is_second = EVERY * (1 + lines // 2), lines % 2
        score = {"relative_rmse": self.curve(job, step)} if is_second else {"energy_mae": 1.0}
        with log.open("a") as file:
            file.write(json.dumps({**score, "step": step, "split": "val"}) + "\n")
        done = step if is_second else 0
        status = "finished" if done == STEPS else "running"
        (folder / "run.json").write_text(json.dumps({"status": status}))
        return done


def make(plan: SearchPlan, launcher: Curves, parallel: int = 1, **options: object) -> list[dict]:
    """Make a search and return what became of its trials."""
    with Path(os.devnull).open("w") as nothing, open_study(plan) as study:
        search_run.run(plan, study, launcher, Console(file=nothing), parallel=parallel, **options)
        return outcome(study)


def outcome(study: optuna.Study) -> list[dict]:
    return [
        {
            "state": trial.state.name,
            "params": trial.params,
            "value": trial.value,
            "steps": list(trial.intermediate_values),
            "reason": trial.user_attrs.get("reason"),
        }
        for trial in trials_of(study)
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trails": 3}, "trails: unknown key, did you mean 'trials'?"),
        ({"trials": 0}, "trials: found 0, expected a number of at least 1"),
        ({"name": "a/b"}, "name: found 'a/b', expected letters, digits"),
        ({"config": "painn_piwls.yml"}, "no configuration at 'painn_piwls.yml', nearest is"),
        ({"seeds": []}, "seeds: found [], list should have at least 1 item"),
        ({"seeds": [1, 1]}, "seeds: found [1, 1], expected each seed once"),
        ({"space": {}}, "space is empty"),
        ({"space": {"sed": {"low": 0, "high": 1}}}, "space.sed: unknown setting"),
        ({"space": {"optm.lr_initial": {"low": 0, "high": 1}}}, "did you mean 'optim'?"),
        ({"space": {PITC: {"low": 1}}}, f"space.{PITC}: expected low and high, or choices"),
        ({"space": {PITC: {"lo": 1}}}, f"space.{PITC}.lo: unknown key, did you mean 'low'?"),
        ({"space": {PITC: {"low": 2, "high": 1}}}, "found low 2.0 and high 1.0, expected low be"),
        ({"space": {PITC: {"low": 0, "high": 1, "log": True}}}, "expected a number above 0"),
        (
            {"space": {PITC: {"low": "1e-3", "high": 1}}},
            "expected a number (YAML takes 1e-3 for text: write 0.001)",
        ),
        ({"space": {PITC: {"low": 0.5, "high": 2, "integer": True}}}, "expected whole numbers"),
        ({"space": {PITC: {"choices": []}}}, "choices: name at least one value"),
        ({"space": {PITC: {"choices": [[1]]}}}, "choices: found [1], expected a number"),
        ({"space": {PITC: {"low": -1, "high": 1}}}, "optim.piwsl: weight of term 'pitc' is -1.0"),
        ({"space": {PITC + "s": {"low": 1, "high": 2}}}, "did you mean 'pitc'"),
        ({"space": {"model.cutoff": {"choices": [5.0, 0]}}}, "model.cutoff: found 0, expected"),
        ({"set": {}}, "dataset.json"),
        ({"trials": "30"}, "trials: found '30', expected a whole number (write 30 without quotes)"),
        (
            {"set": {"evaluation_metrics.primary_metric": "forces_cosine_similarity"}},
            "primary_metric: found 'forces_cosine_similarity', expected an error",
        ),
        ({"space": {"model": {"choices": ["painn"]}}}, "model: found 'painn', expected a mapping"),
        ({"space": {TERMS: {"choices": ["pitc"]}}}, f"{TERMS}: found 'pitc', expected a mapping"),
        ({"set": {"model": "painn"}}, "model: found 'painn', expected a mapping"),
        ({"set": {"evaluation_metrics": 3}}, "evaluation_metrics: found 3, expected a mapping"),
        (
            {"set": {"evaluation_metrics.primary_metric": 3}},
            "evaluation_metrics.primary_metric: found 3, expected text",
        ),
        ({"set": {PITC: 1.0}}, f"'{PITC}' is both in space and in set"),
        ({"sampler": {"name": "tpee"}}, "sampler.name: found 'tpee', did you mean 'tpe'?"),
        (
            {"pruner": {"keep_percnt": 50}},
            "pruner.keep_percnt: unknown key, did you mean 'keep_percent'?",
        ),
    ],
)
def test_a_mistake_in_a_search_is_told_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_search(tmp_path, data, **content)
    with pytest.raises(UserError) as error:
        read_search(path, tmp_path / "runs")
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path",
    sorted((configs_folder() / "experiments" / "search").glob("*.yml")),
    ids=lambda p: p.stem,
)
def test_the_searches_of_the_project_are_valid(path: Path, data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    sources = {f"dataset.{split}.src": f"{data}/{split}/data.lmdb" for split in ("train", "val")}
    mine = tmp_path / path.name
    mine.write_text(yaml.safe_dump({**content, "set": {**content.get("set", {}), **sources}}))
    plan = read_search(mine, tmp_path)
    assert plan.search.name == path.stem
    assert plan.warmup_steps == plan.steps / 4


def test_values_are_put_into_the_configuration(data: Path, tmp_path: Path) -> None:
    space = {
        PITC: {"choices": [0.5, 2.0]},
        "model.num_layers": {"low": 2, "high": 3, "integer": True},
    }
    plan = plan_of(tmp_path, data, space=space, seeds=[0, 3])
    with open_study(plan) as study:
        _, values = new_trial(study, plan)
    assert values[PITC] in (0.5, 2.0)
    assert values["model.num_layers"] in (2, 3)
    assert isinstance(values["model.num_layers"], int)
    jobs = plan.jobs(values)
    assert [job.config["seed"] for job in jobs] == [0, 3]
    for job in jobs:
        assert job.config["optim"]["piwsl"]["terms"]["pitc"] == values[PITC]
        assert job.config["model"]["num_layers"] == values["model.num_layers"]
        assert job.measurements == ()


def test_a_search_finds_the_known_best_and_stops_hopeless_trials(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, data, trials=25)
    launcher = Curves()
    trials = make(plan, launcher)
    states = [trial["state"] for trial in trials]
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert len(states) == 25
    best = min((t for t in trials if t["state"] == "COMPLETE"), key=lambda t: t["value"])
    assert best["value"] < 1.1 + math.exp(-4)
    for trial in trials:
        whole = trial["state"] == "COMPLETE"
        assert trial["steps"] == list(range(EVERY, trial["steps"][-1] + 1, EVERY))
        assert (trial["steps"][-1] == STEPS) == whole
        assert trial["steps"][-1] >= STEPS / 4


def test_trials_do_not_depend_on_when_logs_are_read_nor_on_interruptions(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(plan_of(tmp_path / "whole", data), Curves())
    assert {"COMPLETE", "PRUNED"} == {trial["state"] for trial in whole}
    plan = plan_of(tmp_path / "interrupted", data)
    for looks in (5, 22, 60):
        with pytest.raises(KeyboardInterrupt):
            make(plan, Curves(looks=looks))
    assert make(plan, Curves()) == whole
    monkeypatch.setattr(search_run, "LOOK_SECONDS", math.inf)
    assert make(plan_of(tmp_path / "late", data), Curves()) == whole
    assert make(plan_of(tmp_path / "other", data, sampler={"seed": 1}), Curves()) != whole


def test_a_killed_search_takes_its_trials_up(data: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, data, trials=4)
    launcher = Curves(slots=3, looks=5)
    with pytest.raises(KeyboardInterrupt):
        make(plan, launcher, parallel=3)
    journal = plan.folder / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    left = trials_of(read_study(plan))
    assert [trial.state for trial in left] == [TrialState.RUNNING] * 3
    assert not is_open(plan)
    again = Curves(slots=3)
    trials = make(plan, again, parallel=3)
    assert sorted(again.begun[:3]) == sorted(launcher.begun)
    assert [trial["params"] for trial in trials[:3]] == [trial.params for trial in left]
    assert all(trial["state"] != "RUNNING" for trial in trials)
    assert len(trials) == 4


def test_more_trials_go_on_and_another_search_is_refused(data: Path, tmp_path: Path) -> None:
    first = make(plan_of(tmp_path, data, trials=2), Curves())
    assert make(plan_of(tmp_path, data, trials=3), Curves())[:2] == first
    wider = {**SPACE, PITC: {"low": 0.01, "high": 20, "log": True}}
    for content, message in (
        ({"space": wider}, f"space.{PITC}.high is 20.0, and was 10.0 in the trials of "),
        ({"set": {**plan_of(tmp_path, data).search.set, "optim.batch_size": 2}}, "batch_size is 2"),
        ({"seeds": [1]}, r"seeds is \[1\], and was \[0\]"),
        ({"pruner": {"keep_percent": 25.0}}, "pruner.keep_percent is 25.0"),
    ):
        with (
            pytest.raises(UserError, match=message) as error,
            open_study(plan_of(tmp_path, data, **content)),
        ):
            pass
        assert "give the changed search another name" in str(error.value)
        assert "\n" not in str(error.value)


def test_one_process_at_a_time_works_on_a_search(data: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, data)
    with open_study(plan):
        assert is_open(plan)
        with (
            pytest.raises(UserError, match="another process works on the search"),
            open_study(plan),
        ):
            pass
    assert not is_open(plan)


def test_a_damaged_or_missing_file_of_trials_is_told(data: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, data, trials=1)
    with pytest.raises(UserError, match=r"no search 'toy' in .*begin it with `piwsl search run"):
        read_study(plan)
    make(plan, Curves())
    whole = (plan.folder / JOURNAL).read_bytes()
    for content in (
        b"nonsense\n" + whole,
        whole + b"nonsense\n",
        b"nonsense\n",
        b'{"op_code": 0, "worker',
        b"[]\n",
        bytes(range(256)),
    ):
        (plan.folder / JOURNAL).write_bytes(content)
        for look in (lambda: read_study(plan), lambda: open_study(plan).__enter__()):
            with pytest.raises(UserError, match=r"study.journal' is damaged .* rename it") as error:
                look()
            assert "\n" not in str(error.value)
        assert (plan.folder / JOURNAL).read_bytes() == content
    (plan.folder / JOURNAL).write_bytes(b"")
    make(plan, Curves())
    assert len(trials_of(read_study(plan))) == 1


def test_failed_and_diverged_trials_keep_their_reason(data: Path, tmp_path: Path) -> None:
    space = {PITC: {"choices": [0.1, 0.2, 0.3]}}

    def weight(job: Job) -> float:
        return job.config["optim"]["piwsl"]["terms"]["pitc"]

    def curve(job: Job, step: int) -> float:
        return math.nan if weight(job) == 0.2 and step > 10 else 1.0

    plan = plan_of(tmp_path, data, space=space, trials=8, sampler={"name": "random"})
    trials = make(plan, Curves(curve, fails=lambda job: weight(job) == 0.3), parallel=3)
    assert {trial["params"][PITC] for trial in trials} == {0.1, 0.2, 0.3}
    for trial in trials:
        state, reason = trial["state"], trial["reason"]
        if trial["params"][PITC] == 0.1:
            assert (state, reason) == ("COMPLETE", None)
        elif trial["params"][PITC] == 0.2:
            assert state == "FAIL"
            assert reason.startswith("diverged: relative_rmse is nan at step 15 (run aspirin_n4-")
        else:
            assert state == "FAIL"
            assert reason.startswith("no such thing (run aspirin_n4-")


def test_the_value_of_a_trial_is_the_mean_over_seeds(data: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, data, trials=2, seeds=[0, 4], pruner={"keep_percent": 100.0})
    launcher = Curves(slots=2)
    for trial in make(plan, launcher):
        first, second = plan.jobs(trial["params"])
        assert trial["value"] == pytest.approx((bowl(first, STEPS) + bowl(second, STEPS)) / 2)
        assert trial["value"] == pytest.approx(bowl(first, STEPS) + 0.2)
    assert len(launcher.begun) == 4


def test_a_failing_seed_stops_the_others(data: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, data, trials=1, seeds=[0, 4])
    launcher = Curves(slots=2, fails=lambda job: job.config["seed"] == 4)
    (trial,) = make(plan, launcher)
    assert trial["state"] == "FAIL"
    assert trial["reason"].startswith("no such thing (run ")
    assert not launcher.jobs


def test_a_trial_that_was_ended_from_outside_waits_for_the_next_call(
    data: Path, tmp_path: Path
) -> None:
    """What goes wrong with a node or a memory says nothing of the values of a trial."""
    content = {"trials": 3, "seeds": [0, 4], "pruner": {"keep_percent": 100.0}}
    plan = plan_of(tmp_path, data, **content)
    killed: set[str] = set()

    def fails(job: Job) -> bool:
        if job.config["seed"] == 4 and len(killed) < 2:
            killed.add(job.run_folder)
        return job.run_folder in killed

    launcher = Curves(slots=2, fails=fails, failure=Failure("its node failed", is_passing=True))
    with (tmp_path / "said").open("w") as file, open_study(plan) as study:
        search_run.run(plan, study, launcher, Console(file=file, width=200), parallel=1)
    first = outcome(read_study(plan))
    assert [trial["state"] for trial in first] == ["RUNNING", "RUNNING", "COMPLETE"]
    assert [trial["reason"] for trial in first] == [None] * 3
    assert "trial 0: set aside: its node failed (run aspirin_n4-" in (tmp_path / "said").read_text()
    assert not launcher.jobs
    second = make(plan, Curves(slots=2))
    assert [trial["state"] for trial in second] == ["COMPLETE"] * 3
    assert [trial["params"] for trial in second] == [trial["params"] for trial in first]
    whole = plan_of(tmp_path / "whole", data, **content)
    assert second[0] == make(whole, Curves(slots=2))[0]


def test_the_result_is_a_configuration_that_gives_the_run_of_the_best_trial(
    data: Path, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, data, trials=6)
    make(plan, Curves())
    best, out = best_of(read_study(plan)), tmp_path / "mine.yml"
    write_result(plan, read_study(plan), plan.folder / "best.yml", out)
    check_config(load_config(out))
    job = make_job(out, 0, {}, plan.folder)
    (expected,) = plan.jobs(best.params)
    assert job.run_folder == expected.run_folder
    assert job.is_trained
    header = out.read_text().splitlines()[0]
    assert header.startswith(f"# Best of the search 'toy': trial {best.number}, relative_rmse ")
    require_own_or_new(plan, out)
    out.write_text("mine")
    with pytest.raises(UserError, match="exists: give another name or --overwrite"):
        require_own_or_new(plan, out)


def test_trials_are_shown_best_first_with_reasons(data: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, data, trials=14)
    failing = iter([False] * 13 + [True] * 99)
    choice: dict[str, bool] = {}

    def fails(job: Job) -> bool:
        return choice.setdefault(job.run_folder, next(failing))

    make(plan, Curves(fails=fails))
    study = read_study(plan)
    with (tmp_path / "printed").open("w") as file:
        Console(file=file, width=200).print(table(plan, study, is_open=False))
    printed = (tmp_path / "printed").read_text()
    rows = [line.split() for line in printed.splitlines() if line.startswith("│")]
    finished = [float(row[7]) for row in rows if row[3] == "finished"]
    assert finished == sorted(finished)
    assert finished[0] == pytest.approx(best_of(study).value, rel=1e-3)
    assert rows[0][1] == str(best_of(study).number)
    assert "trial 13: no such thing (run " in printed
    assert "of 14 wanted" in printed
    page = write_page(plan, study).read_text()
    assert page.count("<svg") == 1
    assert "trial 13: no such thing" in page
    assert "http-equiv" not in page and "<script" not in page


def test_importances_name_the_setting_that_matters(data: Path, tmp_path: Path) -> None:
    def only_weight(job: Job, step: int) -> float:
        return 1 + math.log10(job.config["optim"]["piwsl"]["terms"]["pitc"]) ** 2

    plan = plan_of(
        tmp_path, data, trials=20, sampler={"name": "random"}, pruner={"keep_percent": 100.0}
    )
    make(plan, Curves(only_weight))
    found = importances(read_study(plan))
    assert next(iter(found)) == PITC
    assert set(found) == {PITC, EPSILON}
