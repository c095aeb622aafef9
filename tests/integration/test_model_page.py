"""The page on the models, made for the two fastest of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from piwsl_ocp.cli import main
from piwsl_ocp.experiments import model_page
from piwsl_ocp.experiments.grid import FORCE_VARIANTS, MODELS
from piwsl_ocp.ocp.model_noise import noise_of_copies
from piwsl_ocp.ocp.predictor import Predictor


def test_every_model_stands_on_the_page() -> None:
    files = {variant.file for variant in model_page.VARIANTS}
    assert files == {*MODELS, *FORCE_VARIANTS}


@pytest.fixture
def piwsl(monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs the command and returns its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["piwsl", *arguments])
        try:
            return main()
        except SystemExit as leaving:
            return leaving.code or 0

    return run


def test_the_page_is_written_once(
    tmp_path: Path, piwsl, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("models", "--out", str(tmp_path), "--only")
    assert piwsl(*command, "schnet,painn") == 0
    page = (tmp_path / "models.md").read_text()
    assert page.count("| SchNet, gradient forces |") == 4
    assert page.count("| PaiNN, direct forces |") == 4
    assert (tmp_path / "models.svg").read_bytes().startswith(b"<?xml")
    capsys.readouterr()
    assert piwsl(*command, "schnet") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert piwsl(*command, "schnett", "--overwrite") == 2
    assert "no model 'schnett'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, piwsl, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_page, "measure", lambda *_: pytest.fail("it was measured"))
    (tmp_path / "models.svg").write_text("mine")
    assert piwsl("models", "--out", str(tmp_path / "models.svg")) == 2
    assert "is a file: name a folder with --out" in capsys.readouterr().err
    assert piwsl("models", "--out", str(tmp_path)) == 2
    assert "models.svg' exists" in capsys.readouterr().err


def test_a_wrong_path_of_a_trained_model_is_told_before_anything_is_measured(
    tmp_path: Path, piwsl, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_page, "measure", lambda *_: pytest.fail("it was measured"))
    assert piwsl("models", "--out", str(tmp_path), "--trained", str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err


def test_common_draws_leave_no_noise_in_a_model_with_dropout() -> None:
    options = model_page.options("equiformer_v2_cpu")
    predictor = Predictor.untrained(options)
    predictor.model.double()
    noise = noise_of_copies(predictor, model_page.structures(1), "equiformer_v2")
    assert noise.shared < 1e-10
    assert noise.independent > 1e3 * noise.shared
    assert noise.energy > 1e-4


def test_trained_models_are_measured_in_the_unit_of_their_labels(
    ethanol: Path, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    run = trained(ethanol, tmp_path / "run", {"optim.max_steps": 4, "optim.eval_every": 4})
    facts = model_page.measure_trained(run)
    assert (facts.label, facts.unit) == ("PaiNN, direct forces", "kcal/mol")
    assert facts.noise.energy == facts.noise.independent == facts.noise.shared == 0
    assert facts.noise.work > 0
    assert facts.rotation.energy < 1e-9 * facts.spread
    page = model_page.write_page([], tmp_path, [facts]).read_text()
    assert "Trained models" in page and "| PaiNN, direct forces | 0 | 0 | 0.0e+00 |" in page
