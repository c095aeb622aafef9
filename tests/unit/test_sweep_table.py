"""The results of a sweep as a table: points of the grid, seeds, what is missing."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.sweep.plan import name_of, read_experiment
from piwsl_ocp.experiments.sweep.table import csv_text, notes, read_points, terminal_table
from piwsl_ocp.ocp.config import configs_folder
from tests.run_folders import make_run

CONFIG = "experiments/embedded_aspirin/painn_supervised.yml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "aspirin"
    convert("embedded", ["aspirin"], folder, ConversionOptions(train=4, validation=2, test=2))
    return folder


@pytest.fixture
def sweep(data: Path, tmp_path: Path) -> Path:
    """Return an experiment of two points with two seeds each, one run of the second missing."""
    path = tmp_path / "experiment.yml"
    content = {
        "name": "rates",
        "grid": {"config": [CONFIG], "optim.lr_initial": [0.001, 0.002], "seed": [0, 1]},
        "set": {f"dataset.{s}.src": f"{data}/{s}/data.lmdb" for s in ("train", "val", "test")},
    }
    path.write_text(yaml.safe_dump(content))
    jobs = read_experiment(path, tmp_path / "runs")
    for job, scale in zip(jobs[:3], (1.0, 1.5, 2.0), strict=True):
        make_run(Path(job.run_folder), "supervised", job.config["seed"], scale=scale)
    return path


def test_a_row_is_a_point_of_the_grid_with_the_mean_over_its_seeds(sweep: Path) -> None:
    first, second = read_points(sweep, sweep.parent / "runs")
    assert first.settings == {"optim.lr_initial": "0.001"}
    assert (len(first.runs), first.planned) == (2, 2)
    error = first.statistic("energy_rmse")
    assert (error.mean, error.std) == (pytest.approx(5.0), pytest.approx(math.sqrt(2)))
    assert (len(second.runs), second.planned) == (1, 2)
    assert second.statistic("energy_rmse").mean == pytest.approx(8.0)


def test_configurations_of_one_file_name_are_two_points(sweep: Path) -> None:
    experiment = yaml.safe_load(sweep.read_text())
    configs = [sweep.parent / folder / "same.yml" for folder in ("first", "second")]
    for config, rate in zip(configs, (0.001, 0.002), strict=True):
        config.parent.mkdir()
        content = {"includes": [str(configs_folder() / CONFIG)], "optim": {"lr_initial": rate}}
        config.write_text(yaml.safe_dump(content))
    experiment["grid"] = {"config": [str(config) for config in configs], "seed": [0, 1]}
    sweep.write_text(yaml.safe_dump(experiment))
    points = read_points(sweep, sweep.parent / "runs")
    assert [point.settings for point in points] == [{"config": str(c)} for c in configs]
    assert [(len(point.runs), point.planned) for point in points] == [(2, 2), (1, 2)]


def test_the_terminal_and_the_csv_have_all_points(sweep: Path) -> None:
    points = read_points(sweep, sweep.parent / "runs")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal_table(points, console.width, name_of(sweep)))
    text = console.export_text()
    assert "rates" in text.splitlines()[0]
    assert "optim.lr_initial" in text and "config" not in text
    assert "1 of 2" in text and "5.00 ± 1.41" in text
    rows = list(csv.DictReader(io.StringIO(csv_text(points))))
    assert [row["seeds"] for row in rows] == ["0 1", "0"]
    assert float(rows[0]["energy_rmse_mean"]) == pytest.approx(5.0)
    assert rows[1]["planned"] == "2"


def test_a_narrow_terminal_shows_the_main_errors_uncut(sweep: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    points = read_points(sweep, sweep.parent / "runs")
    console.print(terminal_table(points, console.width, "rates"))
    text = console.export_text()
    assert "…" not in text
    assert "5.00 ± 1.41" in text and "force" in text and "consistency" in text
    assert "MAE" not in text and "--csv shows all" in text.replace("\n", " ")


def test_a_sweep_over_data_sets_names_their_folders(data: Path, tmp_path: Path) -> None:
    sections = []
    for name in ("small", "large"):
        folder = shutil.copytree(data, tmp_path / name)
        splits = ("train", "val", "test")
        sections.append({split: {"src": f"{folder}/{split}/data.lmdb"} for split in splits})
    path = tmp_path / "data_sets.yml"
    grid = {"dataset": sections, "seed": [0, 1]}
    path.write_text(yaml.safe_dump({"name": "d", "grid": grid, "set": {"config": CONFIG}}))
    for job in read_experiment(path, tmp_path / "runs"):
        make_run(Path(job.run_folder), "supervised", job.config["seed"])
    points = read_points(path, tmp_path / "runs")
    assert [point.settings for point in points] == [{"dataset": "small"}, {"dataset": "large"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"errors": {"energy_rm', "is cut off or no JSON: make it again with"),
        ("[]", "is cut off or no JSON: make it again with"),
        ("{}", "lacks errors.energy_rmse: evaluate it again with"),
    ],
)
def test_a_run_with_a_damaged_result_is_named_and_the_others_are_shown(
    sweep: Path, content: str, message: str
) -> None:
    runs = sweep.parent / "runs"
    damaged, *others = read_experiment(sweep, runs)
    (Path(damaged.run_folder) / "results" / "test.json").write_text(content)
    first, second = points = read_points(sweep, runs)
    assert ([run.folder.seed for run in first.runs], first.planned) == ([1], 2)
    assert len(second.runs) == 1
    (note,) = notes(points)
    assert message in note
    assert f"`piwsl validate {damaged.run_folder} --split test`" in note
    for job in others[:2]:
        (Path(job.run_folder) / "results" / "test.json").write_text(content)
    with pytest.raises(UserError, match=r"no run can be read, such as: .* `piwsl validate"):
        read_points(sweep, runs)


def change(path: Path, *keys: str, value: str) -> None:
    """Set one value of a file of JSON."""
    content = json.loads(path.read_text())
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_runs_of_different_code_or_data_are_told(sweep: Path) -> None:
    runs = sweep.parent / "runs"
    assert notes(read_points(sweep, runs)) == []
    first, second, _, _ = (Path(job.run_folder) for job in read_experiment(sweep, runs))
    change(first / "run.json", "code", "commit", value="deadbeefdeadbeef+12345678")
    change(second / "results" / "test.json", "training", "checksum", value="c" * 64)
    points = read_points(sweep, runs)
    code, changed, data = notes(points)
    assert code == (
        "the runs come from different versions of the code: deadbeefd+1234 (1 runs), 012345678 "
        "(2 runs)"
    )
    assert changed == "1 runs come from code with changes that were not committed"
    assert "aspirin saw different data: bbbbbbbb/aaaaaaaa, cccccccc/aaaaaaaa" in data
    rows = list(csv.DictReader(io.StringIO(csv_text(points))))
    assert [row["commit"] for row in rows] == [
        "0123456789abcdef0123 deadbeefdeadbeef+12345678",
        "0123456789abcdef0123",
    ]
    assert [row["train_data"] for row in rows] == [f"{'b' * 64} {'c' * 64}", "b" * 64]


def test_a_sweep_without_results_says_how_to_get_them(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run with errors is finished .*: make them with"):
        read_points(sweep, tmp_path / "elsewhere")
