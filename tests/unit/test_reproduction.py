"""Cells of published tables become trainings; results are kept, read back and compared."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner

from piwsl_ocp.cli import build
from piwsl_ocp.cli import reproduce as cli
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments import grid
from piwsl_ocp.experiments.plots import plain_log_axis
from piwsl_ocp.experiments.reproduction import (
    by_model,
    published,
    results,
    scales,
    step_times,
    summary,
    trainings,
)
from piwsl_ocp.experiments.reproduction.comparison import fill
from piwsl_ocp.experiments.reproduction.figures import (
    cost,
    error_against_time,
    figures,
    step_seconds,
)
from piwsl_ocp.experiments.reproduction.pages import csv_text, html, markdown, terminal_tables
from piwsl_ocp.experiments.reproduction.plan import duration, jobs_of, plan, select
from piwsl_ocp.experiments.reproduction.reproduce import Folders
from piwsl_ocp.experiments.reproduction.results import Provenance, RunResult
from piwsl_ocp.experiments.reproduction.scales import find_scale
from piwsl_ocp.experiments.reproduction.step_times import StepTimes
from piwsl_ocp.experiments.reproduction.trainings import RunName, Training, training
from piwsl_ocp.experiments.reproduction.write import write_report, write_summary
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.run_record import RunRecord, SlurmJob
from piwsl_ocp.ocp.config import load_config
from tests.run_folders import make_run
from tests.timed_steps import made_times

CPU, PAPER = find_scale("cpu"), find_scale("paper")
ROOT = Path(__file__).resolve().parents[2]


def trained(table: str, row: str, column: str, scale: str = "cpu") -> Training:
    """Return the training of a cell."""
    content = published.load(table)
    cell = next(c for c in content.cells if (c.row, c.column) == (row, column))
    return training(cell, content, find_scale(scale))


def made_result(of: Training, seed: int = 0, scale: float = 1.0, **changes: object) -> RunResult:
    """Return a result as if a training had given it, with errors proportional to `scale`."""
    word = trainings.method_word(of.config)
    name = RunName(of.scale, of.data.name, of.model, word, seed).text
    return RunResult(
        **{
            "run": f"{name}-{of.key[3][:8]}",
            "scale": of.scale,
            "data": of.data.name,
            "model": of.model,
            "settings": of.key[3],
            "seed": seed,
            "method": word,
            "detail": "",
            "steps": of.steps,
            "train": 100,
            "test": 700,
            "batch_size": 6,
            "epsilon_angstrom": of.config["optim"]["piwsl"]
            .get("displacement", {})
            .get("epsilon_max_angstrom"),
            "unit": "kcal/mol",
            "errors": {"energy_rmse": 50 * scale, "force_rmse": 25 * scale},
            "consistency_error": 5 * scale,
            "seconds_per_step": 0.1,
            "curve": {"step": [100, 200], "energy_rmse": [60, 50], "force_rmse": [30, 25]},
            "provenance": Provenance(
                commit="0123456789ab",
                versions={"torch": "2.13.0"},
                started="2026-01-02T03:04:05+00:00",
                train_data="a" * 64,
                test_data="b" * 64,
            ),
            **changes,
        }
    )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return a folder with results of two seeds for PaiNN in Table 4."""
    folder = tmp_path / "results"
    for column, scale in {"supervised": 1.0, "pitc": 0.7, "pisc": 1.0, "piwsl": 0.6}.items():
        for seed in (0, 1):
            made = made_result(trained("table_4", "painn", column), seed, scale + 0.02 * seed)
            results.write(made, folder)
    return folder


def test_the_published_scale_is_that_of_the_experiment_files() -> None:
    for number, folder in (("1", "ani1x_n1000"), ("2", "tio2_n1000"), ("A7", "lmnto_n1000")):
        for model in grid.MODELS:
            for method in ("supervised", "noisy_nodes", "trapezoid"):
                ours = trained(f"table_{number}", f"{model}_n1000", method, "paper").config
                theirs = load_config(f"experiments/{folder}/{model}_{method}.yml")
                ours["optim"].pop("T_max", None)
                if method == "supervised":
                    theirs["optim"]["piwsl"].pop("displacement", None)
                for section in ("model", "optim", "loss_functions", "outputs"):
                    assert ours[section] == theirs[section], (number, model, method)


def test_a_case_of_table_a3_is_taken_for_piwsl() -> None:
    options = trained("table_1", "painn_n1000", "piwsl", "paper").config["optim"]["piwsl"]
    assert options["terms"] == {"pitc": 1.2, "pisc": 0.01}
    assert options["displacement"]["epsilon_max_angstrom"] == 0.025


def test_a_smaller_training_set_keeps_the_weights_of_the_published_cell() -> None:
    for number, model, expected in (
        ("table_4", "painn", {"pitc": 1.2, "pisc": 0.01}),
        ("table_6", "painn", {"pitc": 1.2, "pisc": 0.01}),
        ("table_A9", "schnet", {"pitc": 1.0}),
    ):
        column = "random" if number == "table_6" else "piwsl"
        small = trained(number, model, column, "cpu")
        assert small.data.options.train == 100
        assert small.config["optim"]["piwsl"]["terms"] == expected


def test_a_cosine_schedule_ends_with_the_training() -> None:
    optim = trained("table_1", "equiformer_v2_n1000", "piwsl", "paper").config["optim"]
    assert optim["T_max"] == optim["max_steps"] == 40000


def test_twice_the_iterations_are_twice_the_steps() -> None:
    for scale, steps in (("cpu", 1000), ("paper", 40000)):
        assert trained("table_A15", "once", "piwsl", scale).steps == steps
        twice = trained("table_A15", "twice", "piwsl", scale)
        assert twice.steps == 2 * steps
        assert twice.config["optim"].get("T_max", 2 * steps) == 2 * steps


def test_every_column_of_a_row_has_the_same_steps() -> None:
    for name in published.names():
        content = published.load(name)
        steps: dict[str, set[int]] = {}
        for wanted in plan([content], CPU).wanted:
            for cell in wanted.cells:
                if cell.column.endswith("equal_time"):
                    assert cell.ours and cell.settings.steps_times > 1
                else:
                    steps.setdefault(cell.row, set()).add(wanted.training.steps)
        assert all(len(found) == 1 for found in steps.values()), name


def test_without_reference_forces_the_loss_has_none_and_weights_are_smaller() -> None:
    config = trained("table_5", "painn_without_forces", "pitc").config
    losses = {k: v["coefficient"] for loss in config["loss_functions"] for k, v in loss.items()}
    assert losses == {"energy": 1, "forces": 0}
    assert config["optim"]["piwsl"]["terms"] == {"pitc": 0.1}
    with_forces = trained("table_5", "painn_with_forces", "pitc").config
    losses = {
        k: v["coefficient"] for loss in with_forces["loss_functions"] for k, v in loss.items()
    }
    assert losses == {"energy": 1, "forces": 100}
    assert with_forces["optim"]["piwsl"]["terms"] == {"pitc": 1.0}


def test_the_forms_of_pisc_metrics_and_displacements_are_those_of_the_columns() -> None:
    forms = [trained("table_A10", "painn", f"form_{number}") for number in (1, 2, 3)]
    terms = [set(form.config["optim"]["piwsl"]["terms"]) for form in forms]
    assert terms == [{"pitc", "pisc"}, {"pitc", "pisc_case2"}, {"pitc", "pisc_case3"}]
    metrics = {
        column: trained("table_A12", "painn", column).config["optim"]["piwsl"]["metric"]
        for column in ("mae", "mse", "relu_as_printed", "relu_of_absolute")
    }
    assert list(metrics.values()) == ["mae", "mse", "relu_literal", "relu"]
    swept = trained("table_A13", "painn", "pitc_0.05").config["optim"]["piwsl"]["displacement"]
    assert swept["name"] == "unit_per_atom"
    assert swept["epsilon_max_angstrom"] == 0.05
    part = trained("table_A14", "painn", "atoms_20").config["optim"]["piwsl"]["displacement"]
    assert part["atom_fraction"] == 0.2


def test_cells_of_several_tables_share_their_runs() -> None:
    keys = {
        trained(*cell).key
        for cell in (
            ("table_1", "painn_n100", "supervised"),
            ("table_4", "painn", "supervised"),
            ("table_5", "painn_with_forces", "supervised"),
            ("table_A9", "painn", "supervised"),
        )
    }
    assert len(keys) == 1
    second = trained("table_A10", "painn", "supervised")
    assert second.data.name == "ani1x_n100_second"
    assert second.data.options.split_seed != 0
    wanted = plan(select("A9") + select("A18") + select("1"), CPU).wanted
    assert len({w.training.key for w in wanted}) == len(wanted)


def test_gradient_forces_are_another_model() -> None:
    assert trained("table_A16", "painn", "piwsl").model == "painn_gf"
    assert trained("table_3", "painn_gradient", "piwsl").config["model"]["forces"] == "gradient"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (("table_A4", "painn_n10000", "piwsl"), "N = 10 000: the sample holds 1000 structures"),
        (("table_A4", "escn_n10000", "piwsl"), "N = 10 000: the sample holds 1000 structures"),
        (("table_A7", "painn_n1000", "piwsl"), "N = 1000: the sample holds 824 structures"),
        (("table_A7", "escn_n1000", "piwsl"), "N = 1000: the sample holds 824 structures"),
        (("table_2", "escn_n1000", "piwsl"), "N = 1000: run with painn alone at this scale"),
        (("table_4", "equiformer_v2", "piwsl"), "run with painn alone at this scale"),
    ],
)
def test_a_cell_that_cannot_be_run_says_why(cell: tuple[str, str, str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        trained(*cell)


def test_a_name_of_a_run_is_read_back() -> None:
    name = RunName("cpu", "ani1x_n100_second", "painn_gf", "pisc+pitc+e0.025+adversarial", 3)
    assert RunName.parse(f"{name.text}-0123abcd") == name
    assert RunName.parse("painn_supervised_seed0") is None


def test_a_missing_data_set_comes_with_its_command(tmp_path: Path) -> None:
    jobs = jobs_of(plan(select("A10"), CPU), tmp_path, tmp_path / "runs")
    assert not jobs.jobs
    reason = jobs.missing_data["ani1x_n100_second"]
    command = "piwsl data convert ani1x ani1x[-_][rs]*.h5 --n-train 100 "
    assert reason.startswith(f"give --data-source FOLDER, or make it with {command}")
    assert "--split-seed 1 " in reason
    assert reason.endswith(f"--out {tmp_path}/cpu/ani1x_n100_second")


def test_a_dry_run_names_the_raw_files_of_a_missing_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scales, "convert", lambda *_, **__: pytest.fail("it was converted"))
    source = tmp_path / "raw"
    source.mkdir()
    words = ["reproduce", "4", "--dry-run", "--data", str(tmp_path), "--data-source", str(source)]
    said = CliRunner().invoke(build(), words).output
    assert "no data set ani1x_n100: 'ani1x[-_][rs]*.h5' below '" in said
    (source / "ani1x-release.h5").touch()
    said = CliRunner().invoke(build(), words).output
    file = source / "ani1x-release.h5"
    assert f"no data set ani1x_n100: it would be converted from {file}\n" in said


def test_a_raw_file_that_is_not_there_is_told_and_the_other_data_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    for name in ("train", "test"):
        (source / f"rmd17_aspirin_{name}_01.npz").touch()
    made = []
    monkeypatch.setattr(scales, "convert", lambda kind, *_, **__: made.append(kind))
    monkeypatch.setattr(Training, "job", lambda self, *_: self.data.name)
    jobs = jobs_of(plan(select("4") + select("A11"), CPU), tmp_path, tmp_path / "runs", source)
    assert list(jobs.missing_data) == ["ani1x_n100"]
    reason = jobs.missing_data["ani1x_n100"]
    assert re.match(r"'ani1x\[-_\]\[rs\]\*.h5' below .*: found none, expected", reason)
    assert set(made) == {"rmd17"}
    assert {name.split("_n")[0] for name in jobs.jobs} == {"rmd17_aspirin"}


def test_runs_with_a_kept_result_need_no_data(kept: Path, tmp_path: Path) -> None:
    needed = plan(select("4"), CPU)
    found = results.read_all(kept, "cpu")
    assert list(jobs_of(needed, tmp_path, tmp_path, kept=found).missing_data) == ["ani1x_n100"]
    for seed in (0, 1):
        results.write(made_result(trained("table_4", "painn", "trapezoid"), seed), kept)
    found = results.read_all(kept, "cpu")
    jobs = jobs_of(needed, tmp_path, tmp_path, kept=found)
    assert not jobs.jobs and not jobs.missing_data


def test_a_result_without_a_needed_measurement_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table A18 needs the curl of runs that Table 1 needs, too."""
    monkeypatch.setattr(scales.DatasetRecipe, "provide", lambda *_: None)
    monkeypatch.setattr(Training, "job", lambda self, seed, *_: (self.key, seed))
    needed = plan(select("A18"), CPU)
    first, *others = [(wanted.training, seed) for wanted in needed.wanted for seed in (0, 1)]
    for of, seed in (first, *others):
        measured = None if (of, seed) == first else CURL
        results.write(made_result(of, seed, curl=measured), tmp_path)
    found = results.read_all(tmp_path, "cpu")
    assert needed.finished(found) == needed.runs - 1
    assert needed.seconds(found)[0] > 0
    assert jobs_of(needed, tmp_path, tmp_path, kept=found).jobs == ((first[0].key, first[1]),)
    results.write(made_result(*first, curl=CURL), tmp_path)
    found = results.read_all(tmp_path, "cpu")
    assert needed.finished(found) == needed.runs
    assert not jobs_of(needed, tmp_path, tmp_path, kept=found).jobs


def test_the_kept_results_of_table_a18_have_all_that_it_needs() -> None:
    needed = plan(select("A18"), CPU)
    assert needed.finished(results.read_all(ROOT / "results", "cpu")) == needed.runs


def test_results_are_read_back_as_they_were_kept(kept: Path) -> None:
    found = results.read_all(kept, "cpu")
    assert len(found.runs) == 8
    assert not found.problems
    wanted = made_result(trained("table_4", "painn", "piwsl"), 1, 0.62)
    assert found.of(wanted.key)[1] == wanted


def test_ours_stand_beside_the_paper(kept: Path) -> None:
    filled = fill(published.load("table_4"), CPU, results.read_all(kept, "cpu"))
    cells = {(cell.cell.row, cell.cell.column): cell for cell in filled.cells}
    piwsl = cells["painn", "piwsl"].comparisons["energy_rmse"]
    assert piwsl.ours.mean == pytest.approx(30.5)
    assert piwsl.our_gain == pytest.approx(30.5 / 50.5 - 1)
    assert piwsl.printed.text == "24.53 ± 0.48"
    assert piwsl.printed_gain == pytest.approx(24.53 / 56.62 - 1)
    assert piwsl.agreement == "same sign"
    pisc = cells["painn", "pisc"].comparisons["energy_rmse"]
    assert pisc.agreement == "ours none (within spread)"
    assert cells["painn", "trapezoid"].missing == "not run yet"
    assert cells["equiformer_v2", "piwsl"].missing == "run with painn alone at this scale"
    assert cells["painn", "piwsl"].note == "N = 100 in place of 1000"
    assert not filled.warnings


def test_an_opposite_effect_is_called_so(kept: Path) -> None:
    for seed in (0, 1):
        worse = made_result(trained("table_4", "painn", "piwsl"), seed, 1.5)
        results.write(worse, kept)
    filled = fill(published.load("table_4"), CPU, results.read_all(kept, "cpu"))
    cell = next(c for c in filled.cells if (c.cell.row, c.cell.column) == ("painn", "piwsl"))
    assert cell.comparisons["energy_rmse"].agreement == "opposite"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 500}, "row painn: the runs have different numbers of steps: [500, 1000]"),
        (
            {"batch_size": 12},
            "row painn: the runs have different numbers of structures in a step: ",
        ),
        ({"seed": 7}, "row painn: the methods have different seeds"),
        ({"provenance": {"commit": "fedcba987654+12345678"}}, "different versions of the code"),
        ({"provenance": {"commit": "0123456789ab+12345678"}}, "2 runs come from code with changes"),
        (
            {"provenance": {"versions": {"torch": "2.4.0"}}},
            "different versions of torch: 2.13.0 (8 runs), 2.4.0 (2 runs)",
        ),
        ({"provenance": {"train_data": "c" * 64}}, "the runs on ani1x_n100 saw different data"),
    ],
)
def test_runs_that_are_not_alike_are_not_mixed_silently(
    kept: Path, changes: dict, said: str
) -> None:
    other = made_result(trained("table_4", "painn", "trapezoid"))
    if "provenance" in changes:
        facts = {**other.provenance.model_dump(), **changes["provenance"]}
        changes = {"provenance": Provenance(**facts)}
    for seed in (0, 1):
        seeds = {"seed": seed, **changes}
        made = other.model_copy(update={"run": f"{other.run}{seeds['seed']}", **seeds})
        results.write(made, kept)
    filled = fill(published.load("table_4"), CPU, results.read_all(kept, "cpu"))
    assert any(said in warning for warning in filled.warnings), filled.warnings
    assert f"- WARNING: {filled.warnings[0]}" in markdown(filled)


def test_the_markdown_names_numbers_reasons_and_provenance(kept: Path) -> None:
    text = markdown(fill(published.load("table_4"), CPU, results.read_all(kept, "cpu")))
    line = next(line for line in text.splitlines() if line.startswith("|  | piwsl |"))
    assert "30.5 ± 0.7 (2), -40 % | 24.53 ± 0.48, -57 % | same sign" in line
    assert "012345678; ani1x_n100 aaaaaaaa" in line
    assert "| not run: run with painn alone at this scale |" in text
    assert "trapezoid (ours)" in text
    assert "- Ours: N = 100 in place of 1000" in text
    assert "- Paper, equiformer_v2 pitc: five repeats" in text


@pytest.mark.parametrize(("width", "count"), [(80, 3), (200, 1)])
def test_the_terminal_shows_tables_uncut(kept: Path, width: int, count: int) -> None:
    (table,) = select("4")
    filled = fill(table, CPU, results.read_all(kept, "cpu"), seeds=2)
    console = Console(record=True, width=width, file=io.StringIO())
    tables = terminal_tables(filled, console.width)
    assert len(tables) == count
    console.print(*tables, summary.terminal_table([filled]))
    text = console.export_text()
    assert "…" not in text
    assert all(word in text for word in ("supervised", "equiformer", "kcal/mol/Å", "same sign"))


def test_the_summary_has_the_gains_the_signs_and_the_spread_of_each_method(kept: Path) -> None:
    table = fill(published.load("table_4"), CPU, results.read_all(kept, "cpu"))
    rows = summary.texts([table])
    assert [row[0] for row in rows] == ["4: PITC, PISC and both (ANI-1x, N = 1000)", "", ""]
    assert rows[2][1:] == (
        *("piwsl", "1 of 2", "-57 % / -12 %", "-40 % / -40 %"),
        *("1 of 1 / 1 of 1", "1 of 1 / 1 of 1"),
    )
    assert rows[1][1:3] == ("pisc", "1 of 2")
    assert rows[1][4:] == ("±0 % / ±0 %", "0 of 1 / 0 of 1", "0 of 1 / 0 of 1")
    text = summary.markdown([table])
    assert "|  | piwsl | 1 of 2 | -57 % / -12 % |" in text
    assert text.endswith("Not run yet: 4 (trapezoid (ours)).\n")


def keep_table_1(folder: Path, errors: dict[str, dict[str, float]]) -> None:
    """Keep two seeds for each model and column of Table 1, N = 100; they differ by 4 %."""
    for model, columns in errors.items():
        for column, scale in columns.items():
            of = trained("table_1", f"{model}_n100", column)
            for seed, factor in ((0, 0.98), (1, 1.02)):
                results.write(made_result(of, seed, scale * factor), folder)


def test_the_grid_has_the_gain_of_each_model_and_marks_those_beyond_the_spread(
    tmp_path: Path,
) -> None:
    keep_table_1(
        tmp_path,
        {
            "schnet": {"supervised": 1.0, "piwsl": 0.98},
            "painn": {"supervised": 1.0, "piwsl": 0.8, "trapezoid": 3.0},
            "escn": {"supervised": 1.0, "piwsl": 1.1},
        },
    )
    (kept,) = tmp_path.rglob("*escn-supervised-s1*.json")
    kept.unlink()  # so that no spread is known
    table = fill(published.load("table_1"), CPU, results.read_all(tmp_path, "cpu"))
    headings, rows = by_model.grid([table])
    assert headings == ("table", "data", "method", "schnet", "painn", "escn")
    assert rows == [
        ("1", "ani1x_n100", "piwsl", "-2 % / -2 %", "-20 %* / -20 %*", "+10 % / +10 %"),
        ("1", "ani1x_n100", "trapezoid (ours)", "–", "× 3.00* / × 3.00*", "–"),
    ]
    assert "\n| 1 | ani1x_n100 | piwsl | -2 % / -2 % | -20 %* / -20 %* | +10 % / +10 % |\n" in (
        by_model.markdown([table])
    )
    page = html([table], {}, title="Tables", command="piwsl report")
    assert '<td class="value">-20 %* / -20 %*</td>' in page


def test_tables_of_one_or_two_models_are_not_in_the_grid(tmp_path: Path) -> None:
    keep_table_1(
        tmp_path,
        {
            "schnet": {"supervised": 1.0, "piwsl": 0.98},
            "painn": {"supervised": 1.0, "piwsl": 0.8},
            "escn": {"supervised": 1.0},
        },
    )
    table = fill(published.load("table_1"), CPU, results.read_all(tmp_path, "cpu"))
    assert by_model.grid([table])[1] == []
    assert by_model.markdown([table]) == ""
    assert by_model.TITLE not in html([table], {}, title="Tables", command="piwsl report")


def test_a_gain_is_over_the_seeds_that_both_have(kept: Path) -> None:
    (first,) = kept.rglob("cpu-ani1x_n100-painn-pisc+pitc+e0.025-s0*.json")
    first.unlink()
    table = fill(published.load("table_4"), CPU, results.read_all(kept, "cpu"))
    (cell,) = (c for c in table.cells if (c.cell.row, c.cell.column) == ("painn", "piwsl"))
    energy = cell.comparisons["energy_rmse"]
    assert energy.seeds == 1
    assert energy.our_gain == pytest.approx(0.62 / 1.02 - 1)
    assert energy.within_spread is None


def test_the_readme_has_the_summary_of_the_kept_results(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    text = (ROOT / "README.md").read_text()
    readme.write_text(text)
    write_summary(readme, "cpu", ROOT / "results")
    assert readme.read_text() == text, "run scripts/write_readme_summary.py"


def test_a_readme_without_marks_is_left_alone(kept: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Something else\n")
    with pytest.raises(UserError, match="the README lacks the lines '<!-- summary -->'"):
        write_summary(readme, "cpu", kept)
    assert readme.read_text() == "# Something else\n"


def test_a_summary_is_not_written_of_damaged_or_missing_results(kept: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{summary.BEGIN}numbers\n{summary.END}")
    path = min(results.folder_of(kept, "cpu").glob("*.json"))
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=re.escape(f"'{path}' is damaged")):
        write_summary(readme, "cpu", kept)
    with pytest.raises(UserError, match="no results of scale 'cpu' in"):
        write_summary(readme, "cpu", tmp_path / "nowhere")
    assert "numbers" in readme.read_text()


def test_a_spread_that_is_not_known_is_not_counted(tmp_path: Path) -> None:
    for column, scale in {"supervised": 1.0, "piwsl": 0.6}.items():
        results.write(made_result(trained("table_4", "painn", column), 0, scale), tmp_path)
    table = fill(published.load("table_4"), CPU, results.read_all(tmp_path, "cpu"))
    (piwsl,) = summary.texts([table])
    assert piwsl[4:] == ("-40 % / -40 %", "1 of 1 / 1 of 1", "– / –")


def test_the_csv_has_a_line_for_each_cell_and_quantity(kept: Path) -> None:
    table = published.load("table_4")
    lines = csv_text([fill(table, CPU, results.read_all(kept, "cpu"))]).splitlines()
    assert len(lines) == 1 + 3 * len(table.cells)
    assert lines[0].startswith("table,row,column,ours,scale,quantity,unit,mean,std")


def test_the_page_holds_everything_itself(kept: Path) -> None:
    results.write(made_result(trained("table_1", "painn_n100", "piwsl"), 0, 0.6), kept)
    tables = [fill(t, CPU, results.read_all(kept, "cpu")) for t in select("all")]
    drawn = figures({table.table.name: table for table in tables})
    page = html(tables, drawn, title="Tables", command="piwsl report")
    assert len(drawn) == 2
    assert "<svg" in page
    assert 'src="http' not in page and 'href="http' not in page
    assert page.count("<section") == len(tables) + 1


CURL = {"curl": 3.0, "unit": "kcal/mol/Angstrom^2"}


def timed(row: tuple[Training, ...]) -> StepTimes:
    """Return times of 0.1 s and 0.1 s more for each displaced copy."""
    return made_times(row, [("", (0.1 * (1 + of.copies),)) for of in row])


def test_seconds_of_a_figure_are_those_of_steps_timed_in_turn(tmp_path: Path) -> None:
    for wanted in plan(select("1"), CPU).wanted:
        results.write(made_result(wanted.training, seconds_per_step=9.0), tmp_path)
    without = results.read_all(tmp_path, "cpu")
    assert error_against_time({"table_1": fill(published.load("table_1"), CPU, without)}) is None
    for row in plan(select("A9"), CPU).timed:
        step_times.write(timed(row), tmp_path)
    found = results.read_all(tmp_path, "cpu")
    tables = {name: fill(published.load(name), CPU, found) for name in ("table_1", "table_A9")}
    assert error_against_time(tables) is not None
    of_steps = step_seconds(tables)
    seconds = {
        (cell.cell.row, cell.cell.column): of_steps[cost(cell)]
        for cell in tables["table_1"].cells
        if cell.runs
    }
    assert len(seconds) == 25
    for model in ("schnet", "painn", "spinconv", "escn", "equiformer_v2"):
        row = f"{model}_n100"
        assert seconds[row, "supervised"] == seconds[row, "supervised_equal_time"]
        assert seconds[row, "noisy_nodes"] == seconds[row, "trapezoid"] == pytest.approx(0.2)
        assert seconds[row, "piwsl"] == pytest.approx(0.3)


@pytest.mark.parametrize(("low", "high"), [(0.9, 4.2), (28, 130), (1, 1000)])
def test_a_logarithmic_axis_has_three_labels_or_more(low: float, high: float) -> None:
    panel = Figure().subplots()
    panel.plot([0, 1], [low, high])
    panel.set_yscale("log")
    plain_log_axis(panel.yaxis)
    below, above = panel.get_ylim()
    assert sum(below <= tick <= above for tick in panel.get_yticks()) >= 3


def test_every_figure_is_drawn_where_there_are_results(tmp_path: Path) -> None:
    scan = {"distances_angstrom": [0.9, 1.1, 1.3], "energies": [5.0, 0.0, 9.0], "unit": "kcal/mol"}
    for wanted in plan(select("1") + select("A11") + select("A13") + select("A18"), CPU).wanted:
        made = made_result(wanted.training, 0, 1.0, bond_scan=scan, curl=CURL)
        results.write(made, tmp_path)
    for row in plan(select("A9"), CPU).timed:
        step_times.write(timed(row), tmp_path)
    found = results.read_all(tmp_path, "cpu")
    tables = {name: fill(published.load(name), CPU, found) for name in published.names()}
    drawn = figures(tables)
    assert len(drawn) == 6
    (curves,) = (svg for caption, svg in drawn.items() if "validation errors" in caption)
    assert all(f">{title} (kcal/mol" in curves for title in ("energy RMSE", "consistency error"))


CONSTANT = {
    "energy_rmse": 50,
    "force_rmse": 25,
    "energy_rmse_constant": 70.12,
    "force_rmse_constant": 50.03,
}


@pytest.mark.parametrize("width", [80, 200])
def test_the_constant_predictor_and_the_consistency_error_stand_in_every_form(
    kept: Path, width: int
) -> None:
    for seed in (0, 1):
        made = made_result(trained("table_4", "painn", "trapezoid"), seed, 0.4, errors=CONSTANT)
        results.write(made, kept)
    filled = fill(published.load("table_4"), CPU, results.read_all(kept, "cpu"))
    text = markdown(filled)
    assert "| painn | constant | 70.1 |  |  | 50.0 |  |  |  |  |" in text
    assert "| consistency error (kcal/mol): ours | code; data; configuration |" in text
    assert "| 3.05 ± 0.07 (2), -40 % | 012345678; ani1x_n100 aaaaaaaa; " in text
    page = html([filled], {}, title="Tables", command="piwsl report")
    assert '<td>constant</td>\n<td class="value ">70.1</td>' in page
    assert '<td class="value better">3.05 ± 0.07 (2), -40 %</td>' in page
    lines = list(csv.DictReader(io.StringIO(csv_text([filled]))))
    line = next(x for x in lines if (x["row"], x["column"]) == ("painn", "piwsl"))
    assert (line["quantity"], line["constant"]) == ("energy_rmse", "70.12")
    ours = [x for x in lines if x["quantity"] == "consistency_error" and x["column"] == "piwsl"]
    assert {x["paper_mean"] for x in ours} == {""}
    assert "3.05" in [x["mean"] for x in ours]
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(*terminal_tables(filled, width))
    shown = console.export_text()
    assert "…" not in shown
    assert all(word in shown for word in ("constant", "70.1", "consistency", "3.05 ± 0.07"))
    assert "70.1" in next(line for line in shown.splitlines() if "constant" in line)


def test_a_damaged_result_is_told_and_the_others_count(kept: Path) -> None:
    folder = results.folder_of(kept, "cpu")
    cut, wrong = sorted(folder.glob("*.json"))[:2]
    cut.write_text(cut.read_text()[:100])
    content = json.loads(wrong.read_text())
    del content["errors"]
    wrong.write_text(json.dumps(content))
    found = results.read_all(kept, "cpu")
    assert len(found.runs) == 6
    assert len(found.problems) == 2
    assert str(cut) in found.problems[0] and "damaged" in found.problems[0]
    assert "errors: field required" in found.problems[1]


SCAN = {"unit": "kcal/mol", "distances_angstrom": [1.0, 1.1], "energies": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"curl": {}}, "curl.unit: field required"),
        ({"curl": {**CURL, "curl": None}}, "curl.curl: input should be a valid number"),
        ({"curl": {**CURL, "unit": "eV/Angstrom^2"}}, "a measurement in eV/Angstrom^2 beside"),
        ({"bond_scan": {**SCAN, "energies": [1.0]}}, "as many energies as distances"),
        ({"bond_scan": {**SCAN, "unit": "eV"}}, "a measurement in eV beside energies in kcal/mol"),
        ({"curve": {"step": [1, 2], "energy_rmse": [1]}}, "have different lengths"),
        ({"errors": {"energy_rmse": 1.0}}, "there is no force_rmse"),
        ({"seconds_per_step": 0.0}, "seconds_per_step: input should be greater than 0"),
        ({"batch_size": 0}, "batch_size: input should be greater than 0"),
    ],
)
def test_a_result_that_can_not_be_shown_is_damaged(kept: Path, changes: dict, said: str) -> None:
    path = min(results.folder_of(kept, "cpu").glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    found = results.read_all(kept, "cpu")
    assert len(found.runs) == 7
    (problem,) = found.problems
    assert f"'{path}' is damaged (" in problem and said in problem


def test_a_run_without_a_start_is_the_earlier_of_two_versions(kept: Path) -> None:
    known = made_result(trained("table_4", "painn", "piwsl"))
    facts = {**known.provenance.model_dump(), "started": results.UNKNOWN}
    other = known.model_copy(
        update={"run": f"{known.run[:-8]}00000000", "provenance": Provenance(**facts)}
    )
    results.write(other, kept)
    assert results.read_all(kept, "cpu").of(known.key)[0].run == known.run


def test_of_two_versions_of_a_run_the_later_counts_and_both_are_named(kept: Path) -> None:
    early = made_result(trained("table_4", "painn", "piwsl"))
    facts = {**early.provenance.model_dump(), "started": "2026-02-03T00:00:00+00:00"}
    late = early.model_copy(
        update={"run": f"{early.run[:-8]}00000000", "provenance": Provenance(**facts)}
    )
    results.write(late, kept)
    found = results.read_all(kept, "cpu")
    assert found.of(late.key)[0].run == late.run
    assert len(found.problems) == 1
    assert early.run in found.problems[0] and late.run in found.problems[0]


def run_of_table(folder: Path, name: str, **keywords: object) -> Path:
    """Write a run folder with the name of a run of the tables."""
    make_run(folder / name, "piwsl", changes={"identifier": name}, **keywords)
    path = folder / name / "results" / "test.json"
    content = json.loads(path.read_text())
    content["errors"]["force_vector_rmse"] = 3.0
    path.write_text(json.dumps(content))
    return folder / name


def test_results_of_a_run_folder_are_kept_without_it(tmp_path: Path) -> None:
    run = run_of_table(tmp_path / "runs", "cpu-ani1x_n100-painn-pisc+pitc-s0-01234567")
    made = results.of_run(RunFolder(run))
    path = results.write(made, tmp_path / "results")
    assert path.name == "cpu-ani1x_n100-painn-pisc+pitc-s0-01234567.json"
    assert made.settings == trainings.settings_key(RunFolder(run).config)
    assert (made.data, made.model, made.seed) == ("ani1x_n100", "painn", 0)
    assert made.errors["energy_rmse"] == 4.0
    assert made.value("seconds_per_epoch") == pytest.approx(0.1 * 13)
    assert made.curve["step"] == [10, 20, 30, 40]
    assert results.read_all(tmp_path / "results", "cpu").of(made.key) == [made]


def test_what_was_measured_stays_when_the_run_folder_loses_it(tmp_path: Path) -> None:
    run = run_of_table(tmp_path / "runs", "cpu-ani1x_n100-painn-supervised-s0-01234567")
    (run / "results" / "curl.json").write_text(json.dumps(CURL))
    results.collect(tmp_path / "runs", tmp_path / "results")
    (run / "results" / "curl.json").unlink()
    assert results.collect(tmp_path / "runs", tmp_path / "results") == []
    (made,) = results.read_all(tmp_path / "results", "cpu").runs.values()
    assert made.value("curl") == 3.0


def test_a_kept_result_that_is_the_same_is_not_written_again(tmp_path: Path) -> None:
    run = run_of_table(tmp_path / "runs", "cpu-ani1x_n100-painn-supervised-s0-01234567")
    path = results.file_of(tmp_path / "results", "cpu", run.name)

    def collected() -> int:
        assert results.collect(tmp_path / "runs", tmp_path / "results") == []
        return path.stat().st_ino

    first = collected()
    assert collected() == first
    restart(run, started="2026-02-03T00:00:00+00:00")
    assert collected() != first


def test_a_result_that_is_being_written_is_not_read(kept: Path) -> None:
    (results.folder_of(kept, "cpu") / ".partial.0123abcd.cpu-some-run.json").write_text("{")
    found = results.read_all(kept, "cpu")
    assert (len(found.runs), found.problems) == (8, ())


def restart(run: Path, **status: object) -> None:
    """Change what a run folder says of its training."""
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **status}))


def test_what_was_measured_of_another_training_is_not_taken_over(tmp_path: Path) -> None:
    run = run_of_table(tmp_path / "runs", "cpu-ani1x_n100-painn-supervised-s0-01234567")
    (run / "results" / "curl.json").write_text(json.dumps(CURL))
    results.collect(tmp_path / "runs", tmp_path / "results")
    (run / "results" / "curl.json").unlink()
    restart(run, started="2026-02-03T00:00:00+00:00")
    assert results.collect(tmp_path / "runs", tmp_path / "results") == []
    (made,) = results.read_all(tmp_path / "results", "cpu").runs.values()
    assert made.curl is None
    assert made.provenance.started.startswith("2026-02-03")


def test_an_earlier_run_does_not_replace_a_kept_result(tmp_path: Path) -> None:
    run = run_of_table(tmp_path / "runs", "cpu-ani1x_n100-painn-supervised-s0-01234567")
    restart(run, started="2026-02-03T00:00:00+00:00")
    results.collect(tmp_path / "runs", tmp_path / "results")
    before = results.read_all(tmp_path / "results", "cpu")
    restart(run, started="2026-01-02T03:04:05+00:00")
    (problem,) = results.collect(tmp_path / "runs", tmp_path / "results")
    assert results.read_all(tmp_path / "results", "cpu") == before
    assert f"'{run}' was started 2026-01-02" in problem
    assert "before the run whose result is kept, 2026-02-03" in problem
    results.file_of(tmp_path / "results", "cpu", run.name).unlink()
    assert results.collect(tmp_path / "runs", tmp_path / "results") == []


def test_jobs_that_slurm_has_not_begun_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "runs" / ".slurm").mkdir(parents=True)
    RunRecord(tmp_path / "runs" / "waiting").keep_slurm_job(SlurmJob("12_0"))
    assert results.collect(tmp_path / "runs", tmp_path / "results") == []


def test_results_in_another_unit_are_not_mixed_in(kept: Path) -> None:
    made = made_result(trained("table_4", "painn", "trapezoid"), unit="eV")
    path = results.write(made, kept)
    found = results.read_all(kept, "cpu")
    assert made.key not in {key for key, _ in found.runs}
    assert found.problems == (
        f"'{path}' has errors in eV, the tables are in kcal/mol: convert the data with --unit "
        "kcal/mol and reproduce again",
    )


@pytest.mark.parametrize("name", ["errors.energy_rmse", "consistency_error"])
def test_a_number_that_is_not_finite_is_told_and_the_others_count(kept: Path, name: str) -> None:
    path = min(results.folder_of(kept, "cpu").glob("*.json"))
    content = json.loads(path.read_text())
    first, *second = name.split(".")
    content[first] = {**content[first], second[0]: math.nan} if second else math.nan
    path.write_text(json.dumps(content))
    found = results.read_all(kept, "cpu")
    assert len(found.runs) == 7
    assert f"{name}: input should be a finite number" in found.problems[0]


def test_a_run_folder_with_a_number_that_is_not_finite_is_told(tmp_path: Path) -> None:
    run = run_of_table(tmp_path / "runs", "cpu-ani1x_n100-painn-supervised-s0-01234567")
    path = run / "results" / "test.json"
    content = json.loads(path.read_text())
    content["consistency"]["rms"] = math.nan
    path.write_text(json.dumps(content))
    (problem,) = results.collect(tmp_path / "runs", tmp_path / "results")
    assert f"results of '{run}' are damaged (consistency_error: input should be a fin" in problem


def test_the_name_of_a_run_tells_what_is_not_usual() -> None:
    words = [
        trainings.method_word(trained(*cell).config)
        for cell in (
            ("table_1", "painn_n100", "supervised"),
            ("table_1", "painn_n100", "noisy_nodes"),
            ("table_6", "painn", "adversarial"),
            ("table_A12", "painn", "mae"),
            ("table_A14", "painn", "atoms_20"),
            ("table_5", "painn_without_forces", "weak_label"),
        )
    ]
    assert words == [
        "supervised",
        "noisy_nodes+e0.025",
        "pisc+pitc+e0.025+adversarial",
        "pitc+e0.005+unit_per_atom+mae",
        "pitc+e0.01+20pc",
        "weak_label+e0.025+no_forces",
    ]


def test_run_folders_that_give_nothing_are_told_and_the_others_are_kept(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    name = "cpu-ani1x_n100-painn-pisc+pitc-s{}-01234567".format
    good = run_of_table(runs, name(0))
    run_of_table(runs, name(1), status="running")
    (run_of_table(runs, name(2)) / "results" / "test.json").unlink()
    (run_of_table(runs, name(3)) / "results" / "test.json").write_text('{"errors": ')
    (runs / "half_written").mkdir()
    good.rename(runs / "a_copy")
    run_of_table(runs, name(0))
    problems = results.collect(runs, tmp_path / "results")
    assert len(results.read_all(tmp_path / "results", "cpu").runs) == 1
    text = "\n".join(problems)
    assert len(problems) == 5
    assert "are the same run" in text
    assert "is running at step 40: the same `piwsl reproduce` goes on" in text
    assert "has no results/test.json" in text
    assert "is cut off or no JSON" in text
    assert "'half_written' is no run folder" in text.replace(f"{runs}/", "")
    assert all("\n" not in problem for problem in problems)


def test_the_cost_comes_from_measured_steps_where_there_are_some(kept: Path) -> None:
    needed = plan(select("4"), CPU)
    nothing = results.read_all(kept / "none", "cpu")
    assert needed.finished(nothing) == 0
    guessed, guesses = needed.seconds(nothing)
    assert guesses == len(needed.wanted) == 5
    found = results.read_all(kept, "cpu")
    assert needed.finished(found) == 8
    left, guesses = needed.seconds(found)
    assert guesses == 1
    assert 0 < left < guessed
    more = replace(needed, seeds=3)
    measured = sum(0.1 * 1000 for _ in range(4))
    assert more.seconds(found)[0] == pytest.approx(measured + 1.5 * left)


def test_durations_are_told_in_the_unit_that_fits() -> None:
    assert [duration(seconds) for seconds in (90, 7200, 259200)] == ["2 min", "2.0 h", "3.0 days"]


def test_the_report_is_made_of_kept_results_alone(kept: Path, tmp_path: Path) -> None:
    folders = Folders(tmp_path / "no_runs", kept, tmp_path / "no_data")
    *lines, note = write_report("cpu", folders, tmp_path / "out").lines
    assert note == f"note: there is no folder '{folders.runs}': made of the kept results alone"
    assert [line.rsplit("/", 1)[1] for line in lines] == ["report.html", "report.md", "tables.csv"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "### Table 4: PITC, PISC and both" in text
    assert "- Table 2: TiO2" in text
    write_report("cpu", folders, tmp_path / "again")
    for page in (tmp_path / "out").iterdir():
        assert page.read_bytes() == (tmp_path / "again" / page.name).read_bytes()
        assert str(tmp_path) not in page.read_text()


def test_results_of_another_configuration_are_told(kept: Path, tmp_path: Path) -> None:
    other = made_result(trained("table_4", "painn", "piwsl"), settings="0" * 12, run="cpu-old")
    results.write(other, kept)
    written = write_report("cpu", Folders(tmp_path / "no", kept, tmp_path), tmp_path / "out")
    said = "1 results belong to no cell of this version"
    assert written.lines[0].startswith(f"note: {said}")
    assert f"- {said}" in (tmp_path / "out" / "report.md").read_text()


def test_runs_of_a_table_that_is_timed_belong_to_no_cell(kept: Path, tmp_path: Path) -> None:
    results.write(made_result(trained("table_A9", "schnet", "piwsl")), kept)
    written = write_report("cpu", Folders(tmp_path / "no", kept, tmp_path), tmp_path / "out")
    assert written.lines[0].startswith("note: 1 results belong to no cell of this version")


def test_pages_in_a_folder_of_the_user_are_not_replaced_unasked(kept: Path, tmp_path: Path) -> None:
    command = ["report", "--runs", str(tmp_path / "no"), "--results", str(kept)]
    mine = tmp_path / "out" / "report.md"
    mine.parent.mkdir()
    mine.write_text("mine")
    given = [*command, "--out", str(mine.parent)]
    refused = CliRunner().invoke(build(), given)
    assert str(refused.exception) == f"'{mine}' exists: give another name or --overwrite"
    assert [path.name for path in mine.parent.iterdir()] == ["report.md"]
    assert mine.read_text() == "mine"
    assert CliRunner().invoke(build(), [*given, "--overwrite"]).exit_code == 0
    assert mine.read_text() != "mine"
    assert CliRunner().invoke(build(), command).exit_code == 0
    assert CliRunner().invoke(build(), command).exit_code == 0


def test_no_results_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results of scale 'paper'"):
        write_report("paper", Folders(tmp_path, tmp_path, tmp_path), tmp_path)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print in 160 columns, whatever the width was when the command was imported."""
    monkeypatch.setattr(cli, "console", Console(highlight=False, width=160))


@pytest.mark.usefixtures("wide")
def test_the_command_shows_tables_without_run_folders(kept: Path) -> None:
    call = CliRunner().invoke(build(), ["reproduce", "4", "--report-only", "--results", str(kept)])
    assert call.exit_code == 0, call.output
    assert "24.53 ± 0.48" in call.output
    assert "30.5 ± 0.7 (2)" in call.output


@pytest.mark.usefixtures("wide")
def test_the_command_lists_tables_with_runs_and_costs(kept: Path) -> None:
    call = CliRunner().invoke(build(), ["reproduce", "--list", "--results", str(kept)])
    assert call.exit_code == 0, call.output
    line = next(line for line in call.output.splitlines() if "4: PITC, PISC" in line)
    assert "5/10" in line and "8/10" in line


@pytest.mark.usefixtures("wide")
def test_the_list_counts_the_asked_models_and_seeds_alone(kept: Path) -> None:
    arguments = ["reproduce", "1", "--list", "--results", str(kept), "--model", "painn"]
    call = CliRunner().invoke(build(), [*arguments, "--seeds", "1"])
    assert call.exit_code == 0, call.output
    whole, part = plan(select("1"), CPU), plan(select("1"), CPU, 1).of_models(["painn"])
    assert part.cells == sum(cell.settings.model == "painn" for cell in select("1")[0].cells)
    assert 0 < part.runnable < whole.runnable < whole.cells
    line = next(line for line in call.output.splitlines() if "all, each run once" in line)
    assert f"{part.runnable}/{part.cells}" in line
    assert f"/{len(part.wanted)}│" in line.replace(" ", "")


def test_models_that_a_table_does_not_train_are_told() -> None:
    arguments = ["reproduce", "A13", "--model", "escn", "--dry-run"]
    call = CliRunner().invoke(build(), arguments)
    assert isinstance(call.exception, UserError)
    assert str(call.exception) == "nothing to run with escn here at this scale"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reproduce"], "name a table"),
        (["reproduce", "7", "--dry-run"], "no table '7'"),
        (["reproduce", "1", "--scale", "gpu"], "unknown scale 'gpu'"),
        (["reproduce", "--list", "--scale", "gpu"], "unknown scale 'gpu'"),
        (["reproduce", "1", "--dry-run", "--profile", "a100"], "--profile is for SLURM jobs"),
    ],
)
def test_a_wrong_request_is_told(arguments: list[str], said: str) -> None:
    call = CliRunner().invoke(build(), arguments)
    assert isinstance(call.exception, UserError)
    assert said in str(call.exception)


def test_a_plan_can_be_narrowed_to_some_models() -> None:
    whole = plan(select("1"), CPU)
    part = whole.of_models(["painn"])
    assert {wanted.training.model for wanted in whole.wanted} == set(grid.MODELS)
    assert {wanted.training.model for wanted in part.wanted} == {"painn"}
    assert whole.of_models([]) is whole
    with pytest.raises(UserError, match="unknown model 'pain': did you mean 'painn'"):
        whole.of_models(["pain"])
