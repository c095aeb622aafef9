"""Evaluation and comparison of real small trainings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from piwsl_ocp.cli import build
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.curl import measure_curl
from piwsl_ocp.evaluation.evaluate import evaluate
from piwsl_ocp.experiments.compare import compare, compare_evaluated
from piwsl_ocp.experiments.measurements import MEASUREMENTS, measure
from piwsl_ocp.experiments.run_folder import RunFolder
from tests.integration.conftest import converted

SUPERVISED = {"optim.piwsl.terms": {}}
PIWSL = {"optim.piwsl.terms": {"pitc": 1.2, "pisc": 0.01}}


@pytest.fixture
def run(ethanol: Path, tmp_path: Path, trained: Callable[..., Path]) -> Path:
    return trained(ethanol, tmp_path / "run", PIWSL)


def test_it_repeats_what_the_training_logged_for_its_best_checkpoint(run: Path) -> None:
    found = evaluate(run, split="val")
    folder = RunFolder(run)
    logged = folder.metrics("val").set_index("step").loc[folder.best_step]
    assert found.errors.structures == 8
    assert found.errors.energy_rmse == pytest.approx(logged["energy_rmse"], rel=1e-4)
    assert found.errors.energy_mae == pytest.approx(logged["energy_mae"], rel=1e-4)
    assert found.errors.force_rmse == pytest.approx(logged["force_rmse"], rel=1e-4)
    assert found.errors.relative_rmse == pytest.approx(logged["relative_rmse"], rel=1e-4)
    assert found.consistency.rms == pytest.approx(logged["consistency_error"], rel=1e-3)
    assert found.noise_floor == pytest.approx(0.0, abs=1e-4)


def test_the_errors_follow_from_the_stored_predictions(run: Path, ethanol: Path) -> None:
    found = evaluate(run, ethanol, "test", batch_size=3)
    stored = json.loads((run / "results" / "test.json").read_text())
    predictions = np.load(run / "results" / "predictions_test.npz")
    assert found.to_dict() == stored
    error = predictions["energy"] - predictions["energy_reference"]
    assert np.sqrt(np.mean(error**2)) == pytest.approx(stored["errors"]["energy_rmse"], rel=1e-9)
    error = predictions["forces"] - predictions["forces_reference"]
    assert error.shape == (8 * 9, 3)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(stored["errors"]["force_rmse"], rel=1e-9)
    info = DatasetInfo.read(ethanol).splits
    assert stored["dataset"]["checksum"] == info["test"].checksum
    assert stored["training"] == {"checksum": info["train"].checksum, "structures": 20}
    expected = np.hypot(
        info["test"].energy_std, info["test"].energy_mean - info["train"].energy_mean
    )
    assert stored["errors"]["energy_rmse_constant"] == pytest.approx(expected, rel=1e-4)
    assert not list((run / "results").glob("*.partial"))


def test_other_checkpoints_do_not_replace_the_results_of_the_best(run: Path) -> None:
    evaluate(run)
    before = (run / "results" / "test.json").read_bytes()
    evaluate(run / "checkpoints" / "last_ema.pt")
    assert (run / "results" / "test.json").read_bytes() == before
    assert (run / "results" / "last_ema" / "test.json").is_file()


def test_results_on_other_data_are_kept_apart(run: Path, ethanol: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ethanol, copy)
    assert evaluate(run, copy).file == run / "results" / "test.json"
    before = (run / "results" / "test.json").read_bytes()
    other = converted("ethanol", tmp_path / "other", test=4)
    checksum = DatasetInfo.read(other).splits["test"].checksum
    result = CliRunner().invoke(build(), ["validate", str(run), "--data", str(other)])
    file = run / "results" / f"ethanol-{checksum[:8]}" / "test.json"
    assert f"results: {file}" in result.stdout.replace("\n", "")
    assert json.loads(file.read_text())["errors"]["structures"] == 4
    assert file.with_name("predictions_test.npz").is_file()
    assert measure_curl(run, other, structures=1).structures == 1
    assert file.with_name("curl.json").is_file()
    assert (run / "results" / "test.json").read_bytes() == before
    assert not (run / "results" / "curl.json").exists()


def test_data_that_were_made_anew_give_no_result_of_the_run(
    tmp_path: Path, trained: Callable[..., Path]
) -> None:
    data = converted("ethanol", tmp_path / "data")
    run = trained(data, tmp_path / "run", {**SUPERVISED, "optim.max_steps": 2})
    converted("ethanol", data, test=4, overwrite=True)
    with pytest.raises(UserError, match=r"'test' of '.*data' was made anew since the training"):
        compare_evaluated([run])
    with pytest.raises(UserError, match=r"as before, and the same command measures errors"):
        measure("errors", RunFolder(run), data)
    assert not (run / "results" / "test.json").exists()


def test_the_curl_of_direct_forces_and_of_a_gradient(
    ethanol: Path, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    options = {"optim.max_steps": 4, "optim.eval_every": 4}
    direct = trained(ethanol, tmp_path / "direct", options)
    gradient = trained(ethanol, tmp_path / "gradient", options, model="schnet")
    MEASUREMENTS["curl"].measure(RunFolder(direct), ethanol)
    stored = json.loads((direct / "results" / "curl.json").read_text())
    assert stored["unit"] == "kcal/mol/Angstrom^2"
    assert (stored["structures"], stored["estimated"]) == (8, 0)
    assert stored["curl"] > 0.01 * stored["jacobian"]
    conservative = measure_curl(gradient, structures=2)
    assert conservative.structures == 2
    assert conservative.curl < 1e-5 * conservative.jacobian


def test_data_with_other_labels_are_refused(run: Path, ethanol_in_ev: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds labels in eV, the training data in kcal/mol"):
        evaluate(run, ethanol_in_ev)
    molecules = converted("molecules", tmp_path / "molecules")
    with pytest.raises(UserError, match=r"holds atomic number 7, the training data"):
        evaluate(run, molecules)
    shifted = converted("ethanol", tmp_path / "shifted", references="none")
    with pytest.raises(UserError, match=r"reference energy of atomic number 1 is 0\.000000"):
        evaluate(run, shifted)
    with pytest.raises(UserError, match="has no split 'tset': use one of train, val, test"):
        evaluate(run, split="tset")
    assert not [path for path in (run / "results").rglob("*") if path.is_file()]


def test_two_methods_are_compared_and_shown_by_the_command(
    ethanol: Path, run: Path, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    other = trained(ethanol, tmp_path / "supervised", SUPERVISED)
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    command = ["compare", str(run), str(other), "--out", str(page), "--csv", str(table)]
    result = CliRunner().invoke(build(), command, catch_exceptions=False)
    assert "supervised" in result.stdout
    assert "PIWSL" in result.stdout
    assert page.read_text().count("<svg") == 1
    assert table.read_text().count("\n") == 3
    assert [row.label for row in compare([run, other]).rows] == ["supervised", "PIWSL"]
    with pytest.raises(UserError, match=r"page.html' exists: give another name or --overwrite"):
        CliRunner().invoke(build(), command, catch_exceptions=False)
