"""One training step of the trainer: units, scales, displacements, determinism."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from fairchem.core.trainers import BaseTrainer

from piwsl_ocp.consistency.displacement import (
    DisplacementOptions,
    adversarial,
    displace,
    generators,
)
from piwsl_ocp.consistency.residuals import pitc
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp import progress
from piwsl_ocp.ocp.labels import common_scale, reference_labels
from piwsl_ocp.ocp.potential import FairchemPotential, records_of, structures_of
from piwsl_ocp.ocp.trainer import PIWSLTrainer
from tests.integration.training import make_trainer, one_batch

PIWSL = {"optim.piwsl.terms": {"pitc": 1.2, "pisc": 0.8}}
SQUARED = {
    "loss_functions": [
        {"energy": {"fn": "mse", "coefficient": 1}},
        {"forces": {"fn": "mse", "coefficient": 100}},
    ]
}


def gradient(trainer: PIWSLTrainer, step: int = 1) -> torch.Tensor:
    """Return the gradient of one step on a fixed batch as one vector."""
    batch = one_batch(trainer)
    trainer.model.train()
    trainer.step = step
    loss = trainer._compute_loss(trainer._forward(batch), batch)
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
    return torch.cat([g.reshape(-1) for g in gradients if g is not None]).double()


def after_backward(data: Path, settings: dict, model: str) -> PIWSLTrainer:
    trainer = make_trainer(data, settings, model)
    batch = one_batch(trainer)
    trainer.model.train()
    trainer.step = 1
    trainer._compute_loss(trainer._forward(batch), batch).backward()
    return trainer


def force_head(trainer: PIWSLTrainer) -> list[torch.nn.Parameter]:
    """Return the parameters that the forces alone depend on; none for gradient forces."""
    return [p for name, p in trainer.model.named_parameters() if "out_forces" in name]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_the_logged_pitc_is_the_residual_of_the_model_in_kcal_per_mol(ethanol: Path) -> None:
    trainer = make_trainer(ethanol, {"optim.piwsl.terms": {"pitc": 1.0}})
    trainer.normalizers["energy"].rmsd.fill_(7.0)
    trainer.normalizers["forces"].rmsd.fill_(3.0)
    batch = one_batch(trainer)
    trainer.model.train()
    trainer.step = 5
    trainer._forward(batch)
    structures = structures_of(batch)
    draw = generators(0, 5, records_of(batch), 0)
    options = DisplacementOptions(**trainer.options.displacement.model_dump())
    displacement = displace(structures, options, draw)
    potential = FairchemPotential(trainer.model, trainer.normalizers, batch)
    clean, moved = potential(batch.pos), potential(batch.pos + displacement)
    residual = pitc(moved.energy, clean.energy, clean.forces, displacement, batch.batch)
    assert residual.abs().max() > 1e-3
    torch.testing.assert_close(
        trainer.evaluation.losses["pitc"], residual.square(), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("metric", ["mse", "mae"])
@pytest.mark.parametrize("losses", [{}, SQUARED], ids=["absolute", "squared"])
def test_the_unit_of_the_labels_does_not_change_the_gradient(
    ethanol: Path, ethanol_in_ev: Path, metric: str, losses: dict
) -> None:
    options = {**PIWSL, **losses, "optim.piwsl.metric": metric}
    a = gradient(make_trainer(ethanol, options))
    b = gradient(make_trainer(ethanol_in_ev, options))
    assert cosine(a, b) == pytest.approx(1.0, abs=1e-5)
    assert float(a.norm() / b.norm()) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("losses", [{}, SQUARED], ids=["absolute", "squared"])
def test_a_common_scale_divides_the_whole_loss(ethanol: Path, losses: dict) -> None:
    """With the same physical model, loss / s has the gradient of the loss up to the factor s."""
    raw = make_trainer(ethanol, {**PIWSL, **losses, "optim.piwsl.target_scale": "none"})
    scaled = make_trainer(ethanol, {**PIWSL, **losses})
    scale = common_scale(scaled.normalizers)
    mean = scaled.normalizers["energy"].mean.item()
    output_layers_scaled_up(raw, scale, mean)
    a, b = physical_loss(raw), physical_loss(scaled)
    assert scale > 1.0
    assert a == pytest.approx(b * scale, rel=1e-4)


def output_layers_scaled_up(trainer: PIWSLTrainer, scale: float, mean: float) -> None:
    """Make a model on raw labels predict what the same model predicts on scaled labels."""
    forward = trainer.model.forward

    def physical(batch):
        outputs = forward(batch)
        return {"energy": outputs["energy"] * scale + mean, "forces": outputs["forces"] * scale}

    trainer.model.forward = physical


def physical_loss(trainer: PIWSLTrainer) -> float:
    batch = one_batch(trainer)
    trainer.model.train()
    trainer.step = 1
    return float(trainer._compute_loss(trainer._forward(batch), batch).detach())


def test_different_scales_of_energy_and_forces_are_balanced(ethanol: Path) -> None:
    trainer = make_trainer(ethanol, {"optim.piwsl.target_scale": "none"})
    trainer.config["dataset"]["transforms"] = {
        "normalizer": {"energy": {"mean": 0.0, "rmsd": 8.0}, "forces": {"mean": 0.0, "rmsd": 2.0}}
    }
    trainer.load_references_and_normalizers()
    trainer.load_loss()
    coefficients = {target: loss["coefficient"] for target, loss in trainer.loss_functions}
    assert coefficients == {"energy": pytest.approx(4.0), "forces": pytest.approx(100.0)}


def test_squared_losses_count_in_kcal_per_mol_as_weak_losses_do(
    ethanol: Path, ethanol_in_ev: Path
) -> None:
    """The whole loss in eV is that in kcal/mol over the unit, so squares are multiplied by it."""
    options = {**PIWSL, **SQUARED, "optim.piwsl.target_scale": "none"}
    a, b = make_trainer(ethanol, options), make_trainer(ethanol_in_ev, options)
    unit = b.label_statistics.kcal_per_mol
    coefficients = [[loss["coefficient"] for _, loss in each.loss_functions] for each in (a, b)]
    assert coefficients == [[1, 100], [pytest.approx(unit), pytest.approx(100 * unit)]]
    assert unit > 23


def test_validation_and_predictions_carry_no_weak_terms(ethanol: Path) -> None:
    weak = make_trainer(ethanol, PIWSL)
    supervised = make_trainer(ethanol, {"optim.piwsl.terms": {}})
    a, b = weak.validate(), supervised.validate()
    assert a["loss"]["metric"] == pytest.approx(b["loss"]["metric"], rel=1e-6)
    assert a["pitc"]["metric"] > 0
    assert "pitc" not in b
    assert a["consistency_error"]["metric"] == pytest.approx(
        b["consistency_error"]["metric"], rel=1e-5
    )


def test_validation_is_the_same_for_every_run_seed_and_step(ethanol: Path) -> None:
    options = {**PIWSL, "optim.ema_decay": None}
    a = make_trainer(ethanol, options, seed=0)
    b = make_trainer(ethanol, options, seed=1)
    b.model.load_state_dict(a.model.state_dict())
    b.step = 77
    assert a.validate()["pitc"]["metric"] == pytest.approx(b.validate()["pitc"]["metric"], rel=1e-6)


def test_displacements_depend_on_seed_and_step(ethanol: Path) -> None:
    trainer = make_trainer(ethanol, PIWSL)
    assert torch.equal(gradient(trainer, step=3), gradient(trainer, step=3))
    assert not torch.equal(gradient(trainer, step=3), gradient(trainer, step=4))


def test_one_forward_and_separate_forwards_agree(ethanol: Path) -> None:
    a = gradient(make_trainer(ethanol, PIWSL))
    b = gradient(make_trainer(ethanol, {**PIWSL, "optim.piwsl.copies": "separate"}))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize("model", ["painn", "schnet"])
def test_a_step_changes_no_input(ethanol: Path, model: str) -> None:
    trainer = make_trainer(ethanol, PIWSL, model=model)
    batch = one_batch(trainer)
    before = {key: batch[key].clone() for key in batch.keys() if torch.is_tensor(batch[key])}  # noqa: SIM118
    trainer.model.train()
    trainer.step = 1
    trainer._compute_loss(trainer._forward(batch), batch).backward()
    assert set(before) == {key for key in batch.keys() if torch.is_tensor(batch[key])}  # noqa: SIM118
    for key, value in before.items():
        assert torch.equal(batch[key], value), key
    assert not batch.pos.requires_grad


def test_a_non_finite_prediction_stops_and_names_the_record(ethanol: Path) -> None:
    trainer = make_trainer(ethanol, PIWSL)
    batch = one_batch(trainer)
    with torch.no_grad():
        next(iter(trainer.model.parameters())).fill_(float("nan"))
    trainer.model.train()
    with pytest.raises(UserError, match=f"record {records_of(batch)[0]}"):
        trainer._forward(batch)


def test_fairchems_painn_refuses_a_structure_without_edges(ethanol: Path) -> None:
    settings = {"model.cutoff": 0.5, "model.name": "piwsl_ocp.models.painn.PaiNN"}
    assert one_batch(make_trainer(ethanol, settings)).edge_index.shape == (2, 0)
    with pytest.raises(UserError, match=r"record \d+ of '.*' has no two atoms within the cutoff"):
        one_batch(make_trainer(ethanol, {**settings, "model.name": "painn"}))


@pytest.mark.parametrize("model", ["painn", "schnet"])
def test_training_lowers_the_loss(
    ethanol: Path, model: str, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    options = {**PIWSL, "optim.max_steps": 100, "optim.lr_initial": 0.01}
    run = trained(ethanol, tmp_path / "run", options, model=model)
    log = pd.read_json(run / "logs" / "piwsl" / "metrics.jsonl", lines=True)
    loss = log[log.split == "train"]["loss"]
    assert loss.iloc[-5:].mean() < 0.95 * loss.iloc[:5].mean()
    for name in ("pitc", "pisc", "energy_mae", "forces_mae", "lr", "grad_norm"):
        assert log[log.split == "train"][name].notna().all(), name


def test_noisy_nodes_is_the_supervised_loss_at_the_displaced_structure(ethanol: Path) -> None:
    plain = make_trainer(ethanol, {"optim.piwsl.terms": {}})
    noisy = make_trainer(ethanol, {"optim.piwsl.terms": {}, "optim.piwsl.noisy_nodes": 0.5})
    noisy.model.load_state_dict(plain.model.state_dict())
    batch = one_batch(plain)
    options = DisplacementOptions(**noisy.options.displacement.model_dump())
    moved = batch.clone()
    moved.pos = batch.pos + displace(
        structures_of(batch), options, generators(0, 3, records_of(batch), 0)
    )
    losses = []
    for trainer, structures in ((plain, batch), (plain, moved), (noisy, batch)):
        trainer.model.train()
        trainer.step = 3
        losses.append(trainer._compute_loss(trainer._forward(structures), structures))
    clean, displaced, both = losses
    assert abs(displaced - clean) > 1e-4
    torch.testing.assert_close(both, clean + 0.5 * displaced, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(noisy.evaluation.logged["noisy_nodes"], displaced.reshape(1))


@pytest.mark.parametrize("copies", ["concatenated", "separate"])
def test_adversarial_displacements_follow_the_error_of_the_model(
    ethanol: Path, copies: str
) -> None:
    displacement = {"name": "adversarial", "epsilon_max_angstrom": 0.05}
    settings = {**PIWSL, "optim.piwsl.displacement": displacement, "optim.piwsl.copies": copies}
    trainer = make_trainer(ethanol, settings)
    batch = one_batch(trainer)
    trainer.model.train()
    trainer.step = 1
    trainer._compute_loss(trainer._forward(batch), batch)
    found = trainer.evaluation.losses["pitc"]

    structures, records = structures_of(batch), records_of(batch)
    potential = FairchemPotential(trainer.model, trainer.normalizers, batch)
    clean, labels = potential(structures.positions), reference_labels(batch)
    moves = adversarial(structures, 0.05, generators(0, 1, records, 0), clean, labels)
    displaced = potential(structures.positions + moves)
    index = structures.structure_index
    expected = pitc(displaced.energy, clean.energy, clean.forces, moves, index).square()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("model", ["painn", "schnet"])
def test_energies_alone_train_forces_through_consistency(ethanol: Path, model: str) -> None:
    """With a force coefficient of 0 the direct force head of PaiNN learns from PIWSL alone."""
    energy = {"energy": {"fn": "mae", "coefficient": 1}}
    without = {"loss_functions": [energy]}
    with_zero = {"loss_functions": [energy, {"forces": {"fn": "l2mae", "coefficient": 0}}]}
    supervised, weak = {"optim.piwsl.terms": {}}, PIWSL
    of_forces = {
        name: [p.grad is not None and bool(p.grad.abs().sum()) for p in force_head(trainer)]
        for name, settings in {"supervised": supervised, "weak": weak}.items()
        for trainer in [after_backward(ethanol, {**with_zero, **settings}, model)]
    }
    assert all(of_forces["weak"])
    if model == "painn":
        assert of_forces["supervised"] and not any(of_forces["supervised"])
    left_out = gradient(make_trainer(ethanol, {**without, **weak}, model))
    zero = gradient(make_trainer(ethanol, {**with_zero, **weak}, model))
    assert torch.isfinite(zero).all()
    assert cosine(zero, left_out) > 1 - 1e-6


def test_copies_of_a_structure_carry_one_noise_key_that_follows_the_record(ethanol: Path) -> None:
    trainer = make_trainer(ethanol, PIWSL)
    batch = one_batch(trainer)
    trainer.model.train()
    seen = []
    trainer.copies.training(lambda b: seen.append(b) or fake_outputs(b), batch, 7)
    trainer.copies.training(lambda b: seen.append(b) or fake_outputs(b), batch, 8)
    keys = seen[0].noise_key.reshape(3, -1)
    assert (keys == keys[0]).all()
    assert keys[0].unique().numel() == 4
    assert not set(keys[0].tolist()) & set(seen[1].noise_key.tolist())
    assert "noise_key" not in batch


def fake_outputs(batch) -> dict[str, torch.Tensor]:
    return {"energy": torch.zeros(batch.natoms.numel()), "forces": torch.zeros_like(batch.pos)}


@pytest.mark.parametrize("terms", [{"pitc": 1.0}, {}], ids=["weak", "supervised"])
def test_records_without_edges_are_refused(ethanol: Path, tmp_path: Path, terms: dict) -> None:
    """fairchem would build a graph for each displaced copy."""
    data = shutil.copytree(ethanol, tmp_path / "data")
    stock = {"optim.piwsl.terms": terms, "dataset.train.format": "lmdb"}
    with pytest.raises(UserError, match=r"^dataset\.train: its records hold no edge_index"):
        make_trainer(data, stock)
    data = shutil.copytree(ethanol, tmp_path / "validation")
    stock = {"optim.piwsl.terms": terms, "dataset.val.format": "single_point_lmdb"}
    with pytest.raises(UserError, match=r"^dataset\.val: its records hold no edge_index"):
        make_trainer(data, stock)


def test_every_split_has_edges_with_settings_of_its_own_too(ethanol: Path) -> None:
    own = {"dataset.val.use_train_settings": False, "dataset.test.use_train_settings": False}
    trainer = make_trainer(ethanol, {**PIWSL, **own})
    for loader in (trainer.train_loader, trainer.val_loader, trainer.test_loader):
        assert "edge_index" in loader.dataset[0]


def test_the_workers_of_a_loader_live_on_from_epoch_to_epoch(ethanol: Path) -> None:
    trainer = make_trainer(ethanol, {"optim.num_workers": 1})
    assert trainer.train_loader.persistent_workers
    assert trainer.val_loader.persistent_workers
    assert not make_trainer(ethanol).train_loader.persistent_workers


def test_the_time_of_saving_is_no_training_time(
    ethanol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(ethanol)
    trainer.is_debug, trainer.config["cmd"]["checkpoint_dir"] = False, str(tmp_path)
    now = [0.0]

    def slow(self: BaseTrainer, metrics: dict | None, name: str, training_state: bool) -> None:
        now[0] += 10.0
        (tmp_path / name).touch()

    monkeypatch.setattr(BaseTrainer, "save", slow)
    with monkeypatch.context() as patch:
        patch.setattr(progress.time, "perf_counter", lambda: now[0])
        trainer.progress.start(0, 1)
        trainer.save()
        with trainer.progress.paused():
            trainer.save()
        now[0] += 1.0
        trainer.progress.step(1, torch.zeros(()))
    assert trainer.progress.train_seconds == pytest.approx(1.0)


def test_a_trainer_of_its_own_refuses_what_drowns_the_weak_losses(ethanol: Path) -> None:
    with pytest.raises(UserError, match=r"set model.otf_graph: false"):
        make_trainer(ethanol, {**PIWSL, "model.otf_graph": True})
    make_trainer(ethanol, {"optim.piwsl.terms": {}, "model.otf_graph": True})
