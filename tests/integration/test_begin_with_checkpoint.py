"""A training that begins with the checkpoint of another one (`checkpoint:` in a configuration)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.state import read_checkpoint
from tests.integration.training import make_trainer

Train = Callable[..., Path]


@pytest.fixture
def first(ethanol: Path, tmp_path: Path, trained: Train) -> Path:
    """Return the checkpoints of a finished training of twelve steps."""
    return trained(ethanol, tmp_path / "first", {"optim.max_steps": 12}) / "checkpoints"


def test_weights_alone_begin_at_step_0_and_are_averaged_from_there(
    ethanol: Path, first: Path
) -> None:
    trainer = make_trainer(ethanol)
    trainer.load_checkpoint(str(first / "best_checkpoint.pt"))
    stored = read_checkpoint(first / "best_checkpoint.pt")["state_dict"]
    assert trainer.step == 0
    assert trainer.ema is not None
    trainable = [(n, p) for n, p in trainer.model.named_parameters() if p.requires_grad]
    for (name, weight), shadow in zip(trainable, trainer.ema.shadow_params, strict=True):
        assert torch.equal(weight, stored[name])
        assert torch.equal(shadow, stored[name])


def test_a_training_state_goes_on_and_finds_a_best_checkpoint_of_its_own(
    ethanol: Path, first: Path, tmp_path: Path, trained: Train
) -> None:
    settings = {"optim.max_steps": 15, "checkpoint": str(first / "checkpoint.pt")}
    settings["print_every"] = 1
    run = trained(ethanol, tmp_path / "second", settings)
    assert (run / "checkpoints" / "best_checkpoint.pt").is_file()
    log = (run / "logs" / "piwsl" / "metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, log) if line["split"] == "train"]
    assert sorted(set(steps)) == [13, 14, 15]


def test_a_training_without_a_step_to_do_is_refused(
    ethanol: Path, first: Path, tmp_path: Path, trained: Train
) -> None:
    settings = {"optim.max_steps": 12, "checkpoint": str(first / "checkpoint.pt")}
    with pytest.raises(UserError, match=r"is at step 12 and optim.max_steps is 12: set it higher"):
        trained(ethanol, tmp_path / "second", settings)


def test_labels_in_another_unit_are_refused(ethanol_in_ev: Path, first: Path) -> None:
    trainer = make_trainer(ethanol_in_ev)
    with pytest.raises(UserError, match=r"trained on labels in kcal/mol, the data set holds eV"):
        trainer.load_checkpoint(str(first / "best_checkpoint.pt"))
