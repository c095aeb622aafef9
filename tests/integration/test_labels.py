"""Labels of a training: not finite, and less fairchem's own element references."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from piwsl_ocp.cli import main
from piwsl_ocp.consistency.potential import Labels
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.labels import check_labels, reference_labels
from piwsl_ocp.ocp.predictor import Predictor
from piwsl_ocp.ocp.provenance import of_run
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


def with_facts(data: Path, folder: Path, change: Callable[[dict], object]) -> Path:
    """Return a copy of a converted data set whose `dataset.json` is changed."""
    path = shutil.copytree(data, folder) / "dataset.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: facts["units"].update(energy="eV"), "holds labels in eV, the training"),
        (lambda facts: facts["elements"].append(7), "holds atomic number 7, the training data"),
        (
            lambda facts: facts["references"]["energies"].update({"1": -1.0}),
            r"the reference energy of atomic number 1 is -1\.000000",
        ),
    ],
    ids=["unit", "elements", "references"],
)
def test_a_split_with_other_labels_than_the_training_split_is_refused(
    ethanol: Path, tmp_path: Path, change: Callable[[dict], object], said: str
) -> None:
    other = with_facts(ethanol, tmp_path / "other", change)
    with pytest.raises(UserError, match=rf"^dataset\.val\.src '.*other.*'.* {said}"):
        make_trainer(ethanol, {"dataset.val.src": f"{other}/val/data.lmdb"})


def test_a_declared_unit_holds_for_every_split(ethanol: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(ethanol, tmp_path / "bare")
    (bare / "dataset.json").unlink()
    settings = {"dataset.val.src": f"{ethanol}/val/data.lmdb", "optim.piwsl.energy_unit": "eV"}
    with pytest.raises(UserError, match=r"says 'eV', but dataset\.val\.src '.*' holds .* kcal/mol"):
        make_trainer(bare, settings)


def test_statistics_of_a_split_that_nothing_tells_are_measured(
    ethanol: Path, tmp_path: Path
) -> None:
    less = with_facts(ethanol, tmp_path / "less", lambda facts: facts["splits"].pop("val"))
    expected = make_trainer(ethanol).label_statistics.splits["val"]
    found = make_trainer(less).label_statistics.splits["val"]
    assert found.count == expected.count == 8
    assert found.energy_mean == pytest.approx(expected.energy_mean, rel=1e-5)
    assert found.energy_std == pytest.approx(expected.energy_std, rel=1e-4)
    assert found.force_rms == pytest.approx(expected.force_rms, rel=1e-5)


def test_statistics_are_those_of_the_records_that_are_trained_on(ethanol: Path) -> None:
    trainer = make_trainer(ethanol, {"dataset.train.train_split_settings": {"first_n": 5}})
    energies = [float(trainer.train_dataset[number].energy) for number in range(5)]
    found = trainer.label_statistics.splits
    assert found["train"].count == len(trainer.train_dataset) == 5
    assert found["train"].energy_mean == pytest.approx(np.mean(energies), rel=1e-6)
    assert found["val"].count == 8


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


def test_predictions_have_element_references_added(
    ethanol: Path, total_energies: tuple[Path, dict[int, float]]
) -> None:
    trainer = make_trainer(ethanol, {**SUPERVISED, **with_references(total_energies[0])})
    config = {**trainer.config, "piwsl": of_run(trainer)}
    model = trainer.model.eval()
    predictor = Predictor(model, trainer.normalizers, config, trainer.elementrefs)
    batch = trainer.collater([trainer.val_dataset.dataset[number] for number in range(8)])
    with torch.no_grad():
        energy = model(batch)["energy"].reshape(-1, 1)
    expected = trainer._denorm_preds("energy", energy, batch).reshape(-1)
    found = predictor.predict(ethanol, "val").energy
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


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
