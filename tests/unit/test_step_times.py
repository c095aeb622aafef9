"""Steps of a row's methods timed in turn: planned, kept, read back, set beside the paper's."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from piwsl_ocp.experiments.reproduction import published, reproduce, results, step_times
from piwsl_ocp.experiments.reproduction.comparison import FilledTable, fill
from piwsl_ocp.experiments.reproduction.plan import Plan, plan, select
from piwsl_ocp.experiments.reproduction.reproduce import Folders, Reproduction
from piwsl_ocp.experiments.reproduction.scales import DatasetRecipe, find_scale
from piwsl_ocp.experiments.reproduction.step_times import StepTimes
from piwsl_ocp.experiments.reproduction.trainings import Training
from piwsl_ocp.experiments.sweep.local import LocalLauncher
from tests.timed_steps import made_times

CPU = find_scale("cpu")
ROUNDS = {"supervised": (0.1, 0.2), "pitc": (0.25, 0.5), "pitc_trapezoid": (0.15, 0.3)}


@pytest.fixture(scope="module")
def needed() -> Plan:
    """Return what Table A9 needs with one model."""
    return plan(select("A9"), CPU).of_models(["painn"])


def made(row: tuple[Training, ...]) -> StepTimes:
    """Return times of supervised, PIWSL and trapezoid steps, the second round on a busy machine."""
    return made_times(row, list(ROUNDS.items()))


def filled(folder: Path) -> FilledTable:
    return fill(published.load("table_A9"), CPU, results.read_all(folder, "cpu"))


def test_a_table_of_times_is_not_trained_at_cpu_scale(needed: Plan) -> None:
    assert not needed.wanted
    assert [training.model for (training, *_) in needed.timed] == ["painn"]
    assert [len(row) for row in needed.timed] == [3]
    assert (needed.runs, needed.timed[0][0].data.name) == (1, "ani1x_n100")
    at_paper = plan(select("A9"), find_scale("paper"))
    assert at_paper.wanted and not at_paper.timed


def test_kept_times_stand_in_the_table_with_ratios_of_the_same_rounds(
    needed: Plan, tmp_path: Path
) -> None:
    (row,) = needed.timed
    nothing = results.read_all(tmp_path, "cpu")
    assert needed.finished(nothing) == 0
    assert needed.seconds(nothing)[0] > 0
    path = step_times.write(made(row), tmp_path)
    assert path.stem == step_times.times_name(row)
    found = results.read_all(tmp_path, "cpu")
    assert not found.problems
    assert needed.finished(found) == 1
    assert needed.seconds(found) == (0.0, 0)
    cells = {c.cell.column: c for c in filled(tmp_path).cells if c.cell.row == "painn"}
    supervised, piwsl, trapezoid = (cells[name].comparisons["seconds_per_epoch"] for name in cells)
    assert supervised.ours.mean == pytest.approx(0.15 * 17)
    assert piwsl.our_gain == pytest.approx(1.5)
    assert trapezoid.our_gain == pytest.approx(0.5)
    assert piwsl.seeds == 2
    assert cells["piwsl"].provenance.startswith("012345678; ani1x_n100 aaaaaaaa; ")
    assert not filled(tmp_path).warnings


def test_damaged_times_are_told_with_the_remedy(needed: Plan, tmp_path: Path) -> None:
    (row,) = needed.timed
    path = step_times.write(made(row), tmp_path)
    path.write_text(path.read_text()[:100])
    (problem,) = results.read_all(tmp_path, "cpu").problems
    assert str(path) in problem
    assert problem.endswith("remove it, and `piwsl reproduce` of its table makes it again")
    assert not filled(tmp_path).has_results


def test_the_plan_names_rows_to_time(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "runs", tmp_path / "results", tmp_path / "data")
    with (tmp_path / "printed").open("w") as file:
        console = Console(file=file, width=160)
        reproduction = Reproduction(select("A9"), CPU, folders, console, models=["painn"])
        reproduction.show_jobs()
        step_times.write(made(reproduction.plan.timed[0]), folders.results)
        reproduction.show_jobs()
    lines = (tmp_path / "printed").read_text().splitlines()
    assert lines[0] == "to time      cpu-ani1x_n100-painn-steps"
    assert lines[1].startswith("no data set ani1x_n100: give --data-source")
    assert lines[2:] == ["timed        cpu-ani1x_n100-painn-steps"]


def changed(row: tuple[Training, ...]) -> StepTimes:
    """Return times of which one method had another configuration."""
    times = made(row)
    first, *others = times.methods
    other = first.model_copy(update={"settings": "0" * 12})
    return times.model_copy(update={"methods": (other, *others)})


@pytest.mark.parametrize(
    ("kept", "options", "timed"),
    [
        (None, {}, True),
        (made, {}, False),
        (changed, {}, True),
        (made, {"missing_only": True}, False),
        (made, {"time_again": True}, True),
    ],
)
def test_steps_are_timed_once_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: object, options: dict, timed: bool
) -> None:
    measured = []

    def measure(row: tuple[Training, ...], data: Path) -> StepTimes:
        measured.append(row)
        return made(row)

    monkeypatch.setattr(reproduce, "measure", measure)
    monkeypatch.setattr(DatasetRecipe, "provide", lambda *_: None)
    folders = Folders(tmp_path / "runs", tmp_path / "results", tmp_path / "data")
    said = io.StringIO()
    console = Console(file=said, width=160)
    reproduction = Reproduction(select("A9"), CPU, folders, console, models=["painn"], **options)
    (row,) = reproduction.plan.timed
    if kept is not None:
        step_times.write(kept(row), folders.results)
    reproduction.show_jobs()
    assert said.getvalue().startswith("to time" if timed else "timed")
    assert reproduction.run(LocalLauncher(1))
    assert measured == [row] * timed
    assert ("times of 1 rows are kept: --time-again" in said.getvalue()) is not timed
