"""Labels of a training: not finite, and less fairchem's own element references."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from piwsl_ocp.cli import main
from piwsl_ocp.consistency.potential import Labels
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.labels import check_labels, reference_labels
from piwsl_ocp.ocp.trainer import PIWSLTrainer
from tests.integration.training import make_trainer, one_batch, small_config, with_label

SUPERVISED = {"optim.piwsl.terms": {}}
WEAK_LABEL = {"optim.piwsl.terms": {"weak_label": 1.0}}


@pytest.mark.parametrize(
    ("split", "label", "value"),
    [
        ("train", "energy", math.nan),
        ("train", "forces", math.nan),
        ("train", "forces", math.inf),
        ("val", "energy", math.nan),
        ("val", "forces", -math.inf),
    ],
)
def test_a_label_that_is_not_finite_ends_the_training_in_one_line(
    ethanol: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    split: str,
    label: str,
    value: float,
) -> None:
    data = with_label(ethanol, tmp_path / "data", split, 5, **{label: value})
    config, folder = tmp_path / "config.yml", tmp_path / "run"
    config.write_text(yaml.safe_dump(small_config(data, SUPERVISED)))
    monkeypatch.setattr(sys, "argv", ["piwsl", "train", str(config), "--run-folder", str(folder)])
    assert main() == 2
    out, error = capsys.readouterr()
    assert f"error: the label '{label}' of record 5 of the split '{split}' is not" in error
    assert "best checkpoint" not in out
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"


def test_a_label_that_is_not_finite_is_found_before_it_enters_a_mean(
    ethanol: Path, tmp_path: Path
) -> None:
    data = with_label(ethanol, tmp_path / "data", "train", 5, energy=math.nan)
    (data / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"label 'energy' of record 5 of the split 'train'"):
        make_trainer(data, {"optim.piwsl.energy_unit": "kcal/mol"})


def test_records_without_labels_are_let_through(ethanol: Path) -> None:
    batch = one_batch(make_trainer(ethanol))
    check_labels(batch, "test")
    del batch["energy"], batch["forces"]
    check_labels(batch, "test")


@pytest.fixture
def total_energies(ethanol: Path, tmp_path: Path) -> tuple[Path, dict[int, float]]:
    """Return a file of element references in fairchem's layout, and the references."""
    references = {1: -11.0, 6: -37.0, 8: -75.0}
    table = np.zeros(119)
    table[list(references)] = list(references.values())
    np.savez(tmp_path / "references.npz", element_references=table)
    return tmp_path / "references.npz", references


def with_references(file: Path, **options: object) -> dict[str, object]:
    references = {"energy": {"file": str(file)}}
    return {**options, "dataset.train.transforms.element_references": references}


def exact_model(trainer: PIWSLTrainer, labels: Labels, forces: torch.Tensor) -> None:
    """Make the model predict the labels of one batch exactly, wherever the atoms are."""
    normalizers = trainer.normalizers

    def forward(batch) -> dict[str, torch.Tensor]:
        copies = batch.natoms.numel() // len(labels.energy)
        outputs = {"energy": labels.energy.repeat(copies), "forces": forces.repeat(copies, 1)}
        return {
            name: normalizers[name].norm(value) if name in normalizers else value
            for name, value in outputs.items()
        }

    trainer.model.forward = forward


@pytest.mark.parametrize("target_scale", ["none", "force_rms"])
def test_weak_labels_are_less_element_references(
    ethanol: Path, total_energies: tuple[Path, dict[int, float]], target_scale: str
) -> None:
    """A model that predicts energy and (vanishing) forces exactly has no weak-label residual."""
    file, references = total_energies
    settings = {**WEAK_LABEL, "optim.piwsl.target_scale": target_scale}
    trainer = make_trainer(ethanol, {**settings, **with_references(file)})
    batch = one_batch(trainer)
    batch.forces = torch.zeros_like(batch.forces)
    composition = torch.tensor([references[int(number)] for number in batch.atomic_numbers])
    sums = torch.zeros(4).index_add(0, batch.batch, composition)
    exact = Labels(torch.as_tensor(batch.energy) - sums, batch.forces)
    exact_model(trainer, exact, batch.forces)
    trainer.model.train()
    trainer.step = 1
    out = trainer._forward(batch)
    assert trainer.evaluation.losses["weak_label"].max() < 1e-5
    prediction = trainer._denorm_preds("energy", out["energy"].reshape(-1, 1), batch)
    torch.testing.assert_close(prediction.reshape(-1), torch.as_tensor(batch.energy))


def test_targets_less_element_references_have_mean_zero(
    ethanol: Path, total_energies: tuple[Path, dict[int, float]]
) -> None:
    file, references = total_energies
    plain = make_trainer(ethanol, {"optim.piwsl.target_scale": "force_rms"})
    scaled = make_trainer(
        ethanol, {"optim.piwsl.target_scale": "force_rms", **with_references(file)}
    )
    ethanol_references = 2 * references[6] + 6 * references[1] + references[8]
    before, after = (trainer.normalizers["energy"].mean.item() for trainer in (plain, scaled))
    assert after == pytest.approx(before - ethanol_references, rel=1e-5)
    assert scaled.label_statistics.splits["train"].energy_mean == pytest.approx(after, rel=1e-5)
    found = scaled.label_statistics.constant_predictor("val")
    assert found == pytest.approx(plain.label_statistics.constant_predictor("val"), rel=1e-4)


def test_the_sign_of_an_adversarial_displacement_is_less_element_references(
    ethanol: Path, total_energies: tuple[Path, dict[int, float]]
) -> None:
    file, _ = total_energies
    settings = {
        "optim.piwsl.terms": {"pitc": 1.0},
        "optim.piwsl.displacement": {"name": "adversarial", "epsilon_max_angstrom": 0.05},
    }
    trainer = make_trainer(ethanol, {**settings, **with_references(file)})
    batch = one_batch(trainer)
    _, labels = trainer.copies._clean(trainer.model, batch)
    expected = reference_labels(batch, trainer.elementrefs)
    torch.testing.assert_close(labels.energy, expected.energy)
    assert (reference_labels(batch).energy - labels.energy).abs().min() > 100
