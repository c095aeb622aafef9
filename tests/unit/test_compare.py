"""Comparison of runs: grouping, averages, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from ase import units as ase_units
from rich.console import Console

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.compare import compare
from piwsl_ocp.experiments.method import method_of
from piwsl_ocp.experiments.tables import csv_text, format_change, markdown, terminal_table
from tests.run_folders import make_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of two methods: energy RMSE 4 and 6, 3 and 3; the better one listed first."""
    return [
        make_run(tmp_path / "p1", "piwsl", 1, scale=0.75, seconds_per_step=0.2),
        make_run(tmp_path / "p0", "piwsl", 0, scale=0.75, seconds_per_step=0.2),
        make_run(tmp_path / "s0", "supervised", 0, scale=1.0),
        make_run(tmp_path / "s1", "supervised", 1, scale=1.5),
    ]


def test_runs_are_grouped_by_method_with_supervised_first(runs: list[Path]) -> None:
    comparison = compare(runs)
    assert [row.label for row in comparison.rows] == ["supervised", "PIWSL"]
    assert [row.seeds for row in comparison.rows] == [(0, 1), (0, 1)]
    assert comparison.notes == ()
    assert comparison.unit == "kcal/mol"


def test_mean_deviation_and_change(runs: list[Path]) -> None:
    supervised, piwsl = compare(runs).rows
    assert supervised.statistics["energy_rmse"].mean == pytest.approx(5.0, rel=1e-12)
    assert supervised.statistics["energy_rmse"].std == pytest.approx(math.sqrt(2), rel=1e-12)
    assert supervised.change == {}
    assert piwsl.statistics["energy_rmse"].std == 0
    assert piwsl.change["energy_rmse"] == pytest.approx(-0.4, rel=1e-12)
    assert piwsl.change["consistency_error"] == pytest.approx(-0.4, rel=1e-12)
    assert piwsl.change["seconds_per_step"] == pytest.approx(1.0, rel=1e-12)


def test_the_best_run_is_chosen_on_validation(runs: list[Path]) -> None:
    assert compare(runs).best.folder.path in runs[:2]
    # its validation errors stay those of scale 1.5, its test errors become the lowest
    result = runs[3] / "results" / "test.json"
    content = json.loads(result.read_text())
    content["errors"]["relative_rmse"] = 0.01
    result.write_text(json.dumps(content))
    assert compare(runs).best.folder.path in runs[:2]


def test_a_single_run_has_no_deviation(runs: list[Path]) -> None:
    (row,) = compare(runs[:1]).rows
    assert math.isnan(row.statistics["energy_rmse"].std)
    assert row.change == {}
    assert "±" not in markdown(compare(runs[:1])).split("Mean ±")[0]


def test_two_settings_of_one_method_are_two_rows(runs: list[Path], tmp_path: Path) -> None:
    changes = {"optim.piwsl.displacement.epsilon_max_angstrom": 0.05}
    other = make_run(tmp_path / "wide", "piwsl", 0, changes=changes)
    labels = [row.label for row in compare([*runs, other]).rows]
    assert labels == [
        "supervised",
        "PIWSL (pisc 0.01, pitc 1.2, uniform ε 0.015 Å)",
        "PIWSL (pisc 0.01, pitc 1.2, uniform ε 0.05 Å)",
    ]


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        ({}, "supervised"),
        ({"pitc": 0.0}, "supervised"),
        ({"pitc": 1.0}, "PIWSL"),
        ({"pitc": 1.2, "pisc": 0.01}, "PIWSL"),
        ({"pitc_trapezoid": 1.2}, "trapezoid"),
        ({"weak_label": 1.0}, "weak labels"),
        ({"pitc": 1.0, "closed_loop": 1.0}, "closed_loop + pitc"),
    ],
)
def test_methods_are_named_by_their_terms(terms: dict[str, float], name: str) -> None:
    assert method_of({"optim": {"piwsl": {"terms": terms}}}).name == name


@pytest.mark.parametrize(
    ("terms", "weight", "name", "detail"),
    [
        ({}, 0.0, "supervised", ""),
        ({}, 1.0, "NoisyNodes", "noisy_nodes 1, uniform ε 0.025 Å"),
        ({"pitc": 1.2}, 0.5, "PIWSL + NoisyNodes", "pitc 1.2, noisy_nodes 0.5, uniform ε 0.025 Å"),
    ],
)
def test_noisy_nodes_is_a_method(
    terms: dict[str, float], weight: float, name: str, detail: str
) -> None:
    displacement = {"name": "uniform", "epsilon_max_angstrom": 0.025}
    options = {"terms": terms, "noisy_nodes": weight, "displacement": displacement}
    method = method_of({"optim": {"piwsl": options}})
    assert (method.name, method.detail) == (name, detail)
    assert method.is_supervised == (name == "supervised")


def test_noisy_nodes_is_no_seed_of_supervised(runs: list[Path], tmp_path: Path) -> None:
    noisy = [
        make_run(tmp_path / f"n{seed}", "noisy_nodes", seed, scale=scale)
        for seed, scale in ((0, 2.0), (2, 3.0))
    ]
    comparison = compare([*runs, *noisy])
    assert [row.label for row in comparison.rows] == ["supervised", "PIWSL", "NoisyNodes"]
    assert comparison.rows[0].seeds == (0, 1)
    assert comparison.rows[2].change["energy_rmse"] == pytest.approx(1.0, rel=1e-12)
    assert comparison.notes == ()


def test_defaults_and_zero_weights_make_no_other_method() -> None:
    written = {
        "terms": {"pitc": 1, "pisc": 0},
        "metric": "mse",
        "displacement": {"epsilon_max_angstrom": 0.01},
        "copies": "separate",
    }
    left_out = {"terms": {"pitc": 1.0}}
    keys = {method_of({"optim": {"piwsl": options}}).key for options in (written, left_out)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checksum": "c" * 64}, r"test data \(checksum\) of .* is c{12}…"),
        ({"status": "interrupted"}, r"is interrupted at step 40: go on with `piwsl resume"),
        ({"changes": {"model.hidden_channels": 32}}, r"model.hidden_channels of .* is 32"),
        ({"changes": {"seed": 1}}, "same method with the same seed 1"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    runs: list[Path], tmp_path: Path, arguments: dict, message: str
) -> None:
    other = make_run(tmp_path / "other", "supervised", 2, **arguments)
    with pytest.raises(UserError, match=message):
        compare([*runs, other])


def test_another_number_of_steps_is_refused(runs: list[Path], tmp_path: Path) -> None:
    longer = make_run(tmp_path / "longer", "supervised", 2)
    with (longer / "logs" / "piwsl" / "metrics.jsonl").open("a") as file:
        file.write('{"relative_rmse": 0.1, "step": 50, "split": "val"}\n')
    with pytest.raises(UserError, match=r"number of steps of .* is 50"):
        compare([*runs, longer])


def test_a_run_without_result_is_refused(runs: list[Path]) -> None:
    (runs[2] / "results" / "test.json").unlink()
    with pytest.raises(UserError, match=r"has no results/test.json: run `piwsl validate"):
        compare(runs)


def test_other_tuning_is_marked(runs: list[Path], tmp_path: Path) -> None:
    tuned = make_run(tmp_path / "tuned", "trapezoid", 0, changes={"optim.lr_initial": 0.001})
    (note,) = compare([*runs, tuned]).notes
    assert note.startswith("the runs differ in optim.lr_initial: 0.0005 (p1), ")
    assert note.endswith("0.001 (tuned)")
    assert f"Note: {note}." in markdown(compare([*runs, tuned]))


@pytest.mark.parametrize(
    ("key", "value", "usual"),
    [
        ("optim.batch_size", 4, 8),
        ("optim.piwsl.target_scale", "force_rms", "none"),
        ("world_size", 2, 1),
        ("checkpoint", "other.pt", None),
        ("outputs", "other", None),
    ],
)
def test_trainings_with_other_settings_are_no_further_seeds(
    runs: list[Path], tmp_path: Path, key: str, value: object, usual: object
) -> None:
    changes = {key: value}
    others = [
        make_run(tmp_path / "o2", "supervised", 2, scale=3.0, changes=changes),
        make_run(tmp_path / "o3", "piwsl", 3, scale=1.5, changes=changes),
    ]
    comparison = compare([*runs, *others])
    assert [(row.label, row.seeds) for row in comparison.rows] == [
        (f"supervised ({key} {usual})", (0, 1)),
        (f"supervised ({key} {value})", (2,)),
        (f"PIWSL ({key} {usual})", (0, 1)),
        (f"PIWSL ({key} {value})", (3,)),
    ]
    changed = [row.change.get("energy_rmse") for row in comparison.rows]
    assert changed == [None, None, pytest.approx(-0.4), pytest.approx(-0.5)]
    (note,) = comparison.notes
    assert note.startswith(f"the runs differ in {key}: {usual} (p1), ")


def test_a_row_is_told_apart_by_the_weight_of_a_target(runs: list[Path], tmp_path: Path) -> None:
    losses = [{"energy": {"coefficient": 1}}, {"forces": {"coefficient": 10}}]
    changes = {"loss_functions": losses}
    other = make_run(tmp_path / "o2", "supervised", 2, changes=changes)
    labels = [row.label for row in compare([*runs, other]).rows]
    assert any("loss_functions.forces.coefficient 10" in label for label in labels)
    assert not any("[" in label for label in labels)


def test_settings_that_are_left_out_have_their_defaults(runs: list[Path], tmp_path: Path) -> None:
    changes = {
        "optim.piwsl.target_scale": "none",
        "optim.piwsl.allow_amp": True,
        "optim.piwsl.energy_unit": "kcal/mol",
        "dataset.train.format": "piwsl_ocp.ocp.dataset.GraphLmdbDataset",
        "world_size": 1,
        "optim.num_workers": 3,
    }
    same = make_run(tmp_path / "s2", "supervised", 2, changes=changes)
    comparison = compare([*runs, same])
    assert comparison.rows[0].seeds == (0, 1, 2)
    assert comparison.notes == ()


def test_nothing_to_compare() -> None:
    with pytest.raises(UserError, match="name at least one run folder"):
        compare([])


def test_markdown_holds_values_and_changes(runs: list[Path]) -> None:
    text = markdown(compare(runs))
    assert "| supervised | 0, 1 | 5.00 ± 1.41 |" in text
    assert "| PIWSL | 0, 1 | 3.00 ± 0.00 (-40 %) |" in text
    assert "painn on embedded_aspirin, 100 training structures, 40 steps; 700 test" in text
    assert text.count("\n| ") == 3


def test_csv_reads_back_and_converts_to_electronvolt(runs: list[Path]) -> None:
    supervised, piwsl = csv.DictReader(io.StringIO(csv_text(compare(runs))))
    assert float(supervised["energy_rmse_mean"]) == pytest.approx(5.0)
    factor = ase_units.kcal / ase_units.mol
    assert float(supervised["energy_rmse_mean_eV"]) == pytest.approx(5.0 * factor, rel=1e-12)
    assert float(piwsl["force_rmse_change"]) == pytest.approx(-0.4)
    assert supervised["force_rmse_change"] == ""


@pytest.mark.parametrize(("width", "heading"), [(140, "energy RMSE"), (80, "supervised")])
def test_the_terminal_shows_every_method_uncut(runs: list[Path], width: int, heading: str) -> None:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(terminal_table(compare(runs), console.width))
    text = console.export_text()
    assert all(word in text for word in ("supervised", "PIWSL", "(-40 %)", "kcal/mol/Å"))
    assert "…" not in text
    (first,) = (line for line in text.splitlines() if "┃" in line and "method" in line)
    assert first.split("┃")[2].strip() == heading


def test_changes_beyond_double_are_factors() -> None:
    changes = (-0.25, 0.3, -0.004, 1.6, None)
    shown = ["-25 %", "+30 %", "±0 %", "× 2.60", ""]
    assert [format_change(change) for change in changes] == shown
