"""What goes wrong around the tables ends in one line each, and leaves everything else alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from piwsl_ocp.cli import build
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.measurements import measure
from piwsl_ocp.experiments.reproduction import published, results
from piwsl_ocp.experiments.reproduction.plan import plan, select
from piwsl_ocp.experiments.reproduction.reproduce import Folders, Reproduction
from piwsl_ocp.experiments.reproduction.scales import find_scale
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.sweep.local import LocalLauncher
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.slurm import SlurmLauncher
from tests.run_folders import make_run

RUN = "cpu-ani1x_n100-painn-supervised-s{}-01234567".format


def finished_run(folder: Path) -> Path:
    """Write the folder of a finished run of the tables, without its checkpoint."""
    make_run(folder, "supervised", changes={"identifier": folder.name})
    path = folder / "results" / "test.json"
    content = json.loads(path.read_text())
    content["errors"]["force_vector_rmse"] = 3.0
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """Return a folder of results that nobody can write, whoever runs the test."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "results"


def test_results_that_cannot_be_kept_are_an_error(tmp_path: Path, unwritable: Path) -> None:
    finished_run(tmp_path / "runs" / RUN(0))
    call = CliRunner().invoke(
        build(), ["report", "--runs", str(tmp_path / "runs"), "--results", str(unwritable)]
    )
    assert isinstance(call.exception, UserError)
    assert f"cannot write '{unwritable}" in str(call.exception)
    assert results.collect(tmp_path / "runs", tmp_path / "results") == []


def test_a_results_folder_is_tried_before_anything_is_trained(
    tmp_path: Path, unwritable: Path
) -> None:
    folders = Folders(tmp_path / "runs", unwritable, tmp_path / "data")
    reproduction = Reproduction(select("4"), find_scale("cpu"), folders, Console(quiet=True))
    with pytest.raises(UserError, match=r"results cannot be kept in .*: give another --results"):
        reproduction.run(LocalLauncher(1))
    results.require_writable(tmp_path / "results", "cpu")
    assert list(results.folder_of(tmp_path / "results", "cpu").iterdir()) == []


def test_a_deleted_checkpoint_is_told_with_the_remedy(tmp_path: Path) -> None:
    run = RunFolder(finished_run(tmp_path / RUN(0)))
    for name in ("errors", "curl", "bond_scan"):
        with pytest.raises(UserError) as error:
            measure(name, run, tmp_path)
        assert f"remove the run's folder '{run.path}' and the same command makes it again" in str(
            error.value
        )


@pytest.mark.parametrize(
    ("arguments", "profile"),
    [
        (["--scale", "paper"], "a100"),
        (["--scale", "paper", "--profile", "cpu"], "cpu"),
        (["--scale", "cpu"], "cpu"),
        ([], "cpu"),
    ],
)
def test_jobs_of_slurm_ask_for_what_the_scale_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], profile: str
) -> None:
    asked = []

    def run(self: Reproduction, launcher: SlurmLauncher, retry_failed: bool) -> bool:
        asked.append(launcher.profile)
        return True

    monkeypatch.setattr(Reproduction, "run", run)
    fixed = ["reproduce", "4", "--launcher", "slurm", "--results", str(tmp_path)]
    call = CliRunner().invoke(build(), [*fixed, *arguments])
    assert call.exit_code == 0, call.output
    assert asked == [SlurmProfile.read(profile)]


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("local", "interrupted: everything is saved, the same command goes on"),
        (
            "slurm",
            "interrupted: jobs that were not cancelled go on; the same command waits for them, "
            "`piwsl sweep status {0}` shows them, `piwsl sweep cancel {0}` cancels them",
        ),
    ],
)
def test_what_becomes_of_the_runs_after_ctrl_c_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, launcher: str, said: str
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Reproduction, "run", interrupt)
    runs = tmp_path / "[runs]"
    words = ["reproduce", "4", "--launcher", launcher, "--runs", str(runs)]
    call = CliRunner().invoke(build(), words)
    assert call.exit_code == 130
    assert call.output.splitlines()[0] == said.format(runs)


def test_a_run_that_did_not_save_in_time_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(self: Reproduction, launcher: LocalLauncher, retry_failed: bool) -> None:
        launcher.killed = ["run_1"]
        raise KeyboardInterrupt

    monkeypatch.setattr(Reproduction, "run", interrupt)
    call = CliRunner().invoke(build(), ["reproduce", "4", "--runs", str(tmp_path)])
    assert call.output.splitlines()[:2] == [
        "interrupted: the rest is saved, the same command goes on",
        "killed, for it did not save in time: run_1; it goes on from its last checkpoint",
    ]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_of_a_table_is_not_all_tables(name: str) -> None:
    call = CliRunner().invoke(build(), ["reproduce", name, "--dry-run"])
    assert isinstance(call.exception, UserError)
    assert str(call.exception).startswith(f"no table '{name}': use one of 1, 2, ")


TABLE = {
    "title": "A table",
    "shows": "Nothing.",
    "quantities": ["energy_rmse"],
    "settings": {"dataset": "ani1x", "train": 100},
    "columns": {"supervised": {"method": "supervised"}},
    "rows": {"right": {"model": "painn"}},
}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"model": "pain"}, "no configuration at 'models/pain_cpu.yml', nearest is "),
        ({"model": "painn", "dataset": "ani2x"}, "unknown dataset 'ani2x': did you mean 'ani1x'?"),
        ({"model": "painn", "dataset": "lmnt"}, "unknown dataset 'lmnt': did you mean 'lmnto'?"),
        ({"model": "painn", "method": "piwls"}, "no configuration at 'methods/piwls.yml', nearest"),
    ],
)
def test_an_unknown_name_in_a_table_leaves_the_other_cells_alone(
    tmp_path: Path, row: dict, said: str
) -> None:
    content = {**TABLE, "rows": {"wrong": row, **TABLE["rows"]}}
    if "method" in row:
        content["columns"] = {"supervised": {}}
        content["rows"]["right"] = {"model": "painn", "method": "supervised"}
    path = tmp_path / "table_99.yml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    needed = plan([published.read(path)], find_scale("cpu"))
    ((reason, (cell,)),) = needed.left_out.items()
    assert said in reason
    assert "\n" not in reason
    assert cell.row == "wrong"
    assert [cell.row for wanted in needed.wanted for cell in wanted.cells] == ["right"]


def test_a_table_without_a_size_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table_99.yml"
    path.write_text(yaml.safe_dump({**TABLE, "settings": {"dataset": "ani1x"}}))
    for scale in ("cpu", "paper"):
        (reason,) = plan([published.read(path)], find_scale(scale)).left_out
        assert reason.startswith("the number of training structures is not set: add 'train'")


def test_missing_slurm_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"^SLURM is not installed here: no 'sbatch' in PATH; use"),
        SlurmLauncher(SlurmProfile()),
    ):
        pass
