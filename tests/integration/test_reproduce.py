"""A small table from its file to its report: data, trainings, results, resumption, failure."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.experiments.reproduction import published, results
from piwsl_ocp.experiments.reproduction.comparison import fill
from piwsl_ocp.experiments.reproduction.pages import markdown
from piwsl_ocp.experiments.reproduction.published import PaperTable
from piwsl_ocp.experiments.reproduction.reproduce import Folders, Reproduction
from piwsl_ocp.experiments.reproduction.scales import Scale, Source
from piwsl_ocp.experiments.sweep.local import LocalLauncher

STEPS = 20

CONTENT = {
    "title": "Two cells",
    "shows": "Nothing.",
    "quantities": ["energy_rmse", "force_rmse", "seconds_per_epoch"],
    "settings": {
        "dataset": "embedded_aspirin",
        "train": 20,
        "model": "painn",
        "set": {"model.hidden_channels": 16, "model.num_layers": 2, "model.num_rbf": 16},
    },
    "columns": {
        "supervised": {"method": "supervised"},
        "pitc": {"method": "pitc"},
        "later": {"method": "pitc", "set": {"optim.piwsl.displacement.name": "sideways"}},
    },
    "rows": {"painn": {}},
    "published": {
        "painn": {
            "supervised": ["10.0 ± 0.1", "5.0 ± 0.1", "1.0"],
            "pitc": ["9.0 ± 0.1", "5.0 ± 0.1", "1.9"],
        }
    },
}


@pytest.fixture
def scale() -> Scale:
    """Return a scale of one data set and few steps."""
    source = Source(files=("aspirin*",), config="embedded_aspirin", validation=8, test=8)
    return Scale(
        name="cpu",
        seeds=1,
        folder="{data}_n{train}{second}",
        datasets={"embedded_aspirin": source},
        seconds_per_step={"painn": 0.04},
        steps={1: STEPS},
    )


@pytest.fixture
def table(tmp_path: Path) -> PaperTable:
    """Return a table of two cells that can be trained and one that cannot."""
    path = tmp_path / "table_99.yml"
    path.write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    return published.read(path)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Return folders with the converted data."""
    options = ConversionOptions(train=20, validation=8, test=8, name="embedded_aspirin_n20")
    convert("embedded", ["aspirin"], tmp_path / "data" / "embedded_aspirin_n20", options)
    return Folders(tmp_path / "runs", tmp_path / "results", tmp_path / "data")


def test_a_table_is_trained_kept_and_shown(
    table: PaperTable, scale: Scale, folders: Folders, tmp_path: Path
) -> None:
    with (tmp_path / "printed").open("w") as file:
        reproduction = Reproduction([table], scale, folders, Console(file=file, width=160))
        assert reproduction.run(LocalLauncher(1))
        reproduction.show_tables()
    printed = (tmp_path / "printed").read_text()
    assert "not run: 1 cells, optim.piwsl: unknown displacement 'sideways'" in printed
    assert "0 of 2 runs are finished, in" in printed
    assert "2 of 2: cpu-embedded" in printed
    assert "2 of 2 runs are finished\n" in printed
    runs = sorted(folders.runs.iterdir())
    assert [run.name.rsplit("-", 1)[0] for run in runs] == [
        "cpu-embedded_aspirin_n20-painn-pitc+e0.025-s0",
        "cpu-embedded_aspirin_n20-painn-supervised-s0",
    ]

    found = results.read_all(folders.results, "cpu")
    assert {result.run for result in found.runs.values()} == {run.name for run in runs}
    filled = fill(table, scale, found)
    supervised, pitc, _ = filled.cells
    for cell in (supervised, pitc):
        (result,) = cell.runs
        assert result.steps == STEPS
        assert result.train == 20
        assert result.provenance.train_data
        assert cell.comparisons["seconds_per_epoch"].ours.mean > 0
    energy = pitc.comparisons["energy_rmse"]
    assert energy.our_gain == energy.ours.mean / supervised.comparisons["energy_rmse"].ours.mean - 1
    assert not filled.warnings
    assert "not run: optim.piwsl: unknown displacement 'sideways'" in markdown(filled)

    with (tmp_path / "again").open("w") as file:
        again = Reproduction([table], scale, folders, Console(file=file, width=160))
        assert again.run(LocalLauncher(1))
    assert "2 of 2 runs are finished, in" in (tmp_path / "again").read_text()
    assert "are made again" not in (tmp_path / "again").read_text()

    shutil.rmtree(runs[0])
    with (tmp_path / "missing").open("w") as file:
        missing = Reproduction(
            [table], scale, folders, Console(file=file, width=160), missing_only=True
        )
        assert missing.run(LocalLauncher(1))
    assert "0 of 0 runs are finished" in (tmp_path / "missing").read_text()
    assert not runs[0].exists()
    with (tmp_path / "anew").open("w") as file:
        anew = Reproduction([table], scale, folders, Console(file=file, width=160))
        assert anew.run(LocalLauncher(1))
    assert (
        "1 of the runs have a kept result but no run folder and are made again"
        in (tmp_path / "anew").read_text()
    )


def test_another_data_set_in_the_folder_is_refused(
    table: PaperTable, scale: Scale, folders: Folders
) -> None:
    other = ConversionOptions(
        train=20, validation=8, test=9, split_seed=3, unit="eV", overwrite=True
    )
    convert("embedded", ["ethanol"], folders.data / "embedded_aspirin_n20", other)
    shown = io.StringIO()
    reproduction = Reproduction([table], scale, folders, Console(file=shown, width=160))
    reproduction.show_jobs()
    said = shown.getvalue()
    assert "no data set embedded_aspirin_n20: '" in said
    assert "is not the data set embedded_aspirin_n20 of the tables" in said
    assert "test structures: 9 in place of 8; split seed: 3 in place of 0; energy unit: eV " in said
    assert "in place of aspirin*" in said


def test_missing_data_are_no_success(
    table: PaperTable, scale: Scale, folders: Folders, tmp_path: Path
) -> None:
    elsewhere = replace(folders, data=tmp_path / "elsewhere")
    with (tmp_path / "printed").open("w") as file:
        reproduction = Reproduction([table], scale, elsewhere, Console(file=file, width=160))
        assert not reproduction.run(LocalLauncher(1))
    assert (
        "no data set embedded_aspirin_n20: give --data-source" in (tmp_path / "printed").read_text()
    )


def test_a_run_that_fails_leaves_the_others_alone(
    table: PaperTable, scale: Scale, folders: Folders, tmp_path: Path
) -> None:
    with (tmp_path / "printed").open("w") as file:
        reproduction = Reproduction([table], scale, folders, Console(file=file, width=160))
        first = Path(reproduction._jobs(convert=False).jobs[0].run_folder)
        first.mkdir(parents=True)
        (first / "notes.txt").write_text("in the way")
        assert not reproduction.run(LocalLauncher(1))
    printed = (tmp_path / "printed").read_text()
    assert f"failed: {first.name}: " in printed and "is not empty" in printed
    assert "1 of 2 runs are finished\n" in printed
    (result,) = results.read_all(folders.results, "cpu").runs.values()
    assert result.run != first.name
    assert (first / "notes.txt").read_text() == "in the way"


def test_steps_are_timed_in_turn_without_a_training(
    scale: Scale, folders: Folders, tmp_path: Path
) -> None:
    path = tmp_path / "table_98.yml"
    printed = {"painn": {"supervised": ["1.0"], "pitc": ["1.9"]}}
    changes = {"quantities": ["seconds_per_epoch"], "cpu": {"in_turn": True}, "published": printed}
    path.write_text(yaml.safe_dump({**CONTENT, **changes}, sort_keys=False))
    table = published.read(path)
    with (tmp_path / "printed").open("w") as file:
        reproduction = Reproduction([table], scale, folders, Console(file=file, width=160))
        assert reproduction.run(LocalLauncher(1))
    name = "cpu-embedded_aspirin_n20-painn-steps"
    assert f"timing steps in turn: {name}\n" in (tmp_path / "printed").read_text()
    assert not folders.runs.exists()
    assert [file.name for file in (folders.results / "cpu" / "steps").iterdir()] == [f"{name}.json"]
    supervised, pitc, _ = fill(table, scale, results.read_all(folders.results, "cpu")).cells
    for cell in (supervised, pitc):
        assert cell.comparisons["seconds_per_epoch"].ours.mean > 0
        assert cell.comparisons["seconds_per_epoch"].seeds == len(cell.runs) == 5
        assert cell.runs[0].provenance.train_data
    assert pitc.comparisons["seconds_per_epoch"].our_gain is not None
