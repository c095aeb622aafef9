"""What fairchem takes is not refused, but where it drowns the weak losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from piwsl_ocp.ocp.config import check_config
from tests.contract.configurations import NORMALIZER, REFERENCES, Configuration, loss, refusal


@pytest.mark.parametrize(
    "values",
    [
        {"optim.checkpoint_every": -1},
        {"optim.clip_grad_norm": None},
        {"optim.clip_grad_norm": 0},
        {"optim.ema_decay": None},
        {"optim.ema_decay": 0},
        {"optim.load_balancing": False},
        {"optim.load_balancing": "atoms", "optim.load_balancing_on_error": "warn_and_balance"},
        {"optim.scheduler": "Null"},
        {"optim.scheduler": "ReduceLROnPlateau", "optim.patience": 3, "optim.factor": 0.8},
        {"optim.scheduler": "OneCycleLR", "optim.max_lr": 0.1, "optim.total_steps": 100},
        {"optim.optimizer": "SGD", "optim.optimizer_params": {"momentum": 0.9, "nesterov": True}},
        {"optim.optimizer_params": {"betas": [0.9, 0.95], "weight_decay": 0, "foreach": None}},
        {"optim.weight_decay": 0.01},
        {"loss_functions": [{"energy": {"fn": "per_atom_mae", "coefficient": 0}}]},
        {"loss_functions": [{"forces": {"fn": "l2norm", "coefficient": 1, "reduction": "sum"}}]},
        {"loss_functions": loss(fn="fairchem.core.modules.loss.MSELoss")},
        {"evaluation_metrics": {}},
        {"evaluation_metrics.metrics.misc": ["energy_forces_within_threshold"]},
        {"evaluation_metrics.metrics.forces": ["forcesx_mae", "cosine_similarity", "rmse"]},
        {"evaluation_metrics.primary_metric": "pitc"},
        {"outputs.energy.shape": 1},
        {"outputs.stress": {"level": "system", "decomposition": {"iso": {"irrep_dim": 0}}}},
        {"logger": "tensorboard"},
        {"logger": {"name": "wandb", "project": "x", "entity": "y", "group": "z", "watch": 100}},
        {"logger.name": "wandb_singleton", "logger.entity": "y"},
        {"task.description": "any text", "task.type": "regression"},
        {"trainer": "piwsl"},
        {"seed": 0, "gp_gpus": None, "checkpoint": None, "timestamp_id": None},
        {"mode": "predict", "dataset.val": {}},
        {"dataset.test": None},
        {"dataset.train.key_mapping": {"y": "energy", "force": ["forces", "other"]}},
        {"dataset.train.format": "lmdb", "dataset.train.src": "{files}"},
        {"dataset.train.format": "ase_db", "dataset.train.a2g_args": {"r_energy": True}},
        {"dataset.val.use_train_settings": False, "dataset.val.sample_n": 3},
        {"dataset.train.train_split_settings": {"first_n": 3}},
        {"dataset.train.transforms": {"decompose_tensor": {"tensor": "stress", "rank": 2}}},
        {REFERENCES: {"fit": {"targets": ["energy"], "batch_size": 4, "driver": "gelsd"}}},
        {REFERENCES + ".energy.file": "{files}/statistics.pt"},
        {"model.max_neighbors": 20, "model.num_elements": 100, "model.rbf": {"name": "gaussian"}},
    ],
    ids=str,
)
def test_what_fairchem_takes_is_not_refused(
    configuration: Configuration, values: dict[str, Any]
) -> None:
    check_config(configuration(values))


@pytest.mark.parametrize(
    "values",
    [
        {NORMALIZER: {"energy": {"mean": 0, "stdev": 2}, "forces": {"mean": 0.0, "rmsd": 1}}},
        {NORMALIZER: {"fit": {"targets": {"forces": {"mean": 0.0}}, "batch_size": 4}}},
        {NORMALIZER + ".energy.file": "{files}/statistics.npz"},
        {NORMALIZER + ".file": "{files}/statistics.pt"},
    ],
    ids=str,
)
def test_a_normalizer_is_taken_unless_the_target_scale_makes_one(
    configuration: Configuration, values: dict[str, Any]
) -> None:
    scale = "optim.piwsl.target_scale"
    check_config(configuration({**values, scale: "none"}))
    assert "leave this one out" in refusal(configuration({**values, scale: "force_rms"}))


def test_fairchems_trainer_has_no_target_scale_of_its_own(configuration: Configuration) -> None:
    stock = {"trainer": "ocp", "optim.piwsl": {"target_scale": "force_rms"}, "optim.max_epochs": 3}
    metrics = {"metrics": {"energy": ["mae"]}, "primary_metric": "energy_mae"}
    scale = {"fit": {"targets": ["energy"], "batch_size": 4}}
    check_config(configuration({**stock, "evaluation_metrics": metrics, NORMALIZER: scale}))


def test_the_other_way_to_write_a_dataset(configuration: Configuration, files: Path) -> None:
    split = {"src": str(files / "data.lmdb")}
    check_config(configuration({"dataset": [split, split]}))
    assert "dataset.val.src is not set" in refusal(configuration({"dataset": [split]}))


WEAK = [
    ("painn", {"model.otf_graph": True}, "set model.otf_graph: false"),
    ("painn", {"-model.otf_graph": None}, "set model.otf_graph: false"),
    ("spinconv", {"model.otf_graph": True}, "set model.otf_graph: false"),
    ("painn", {"model": {"name": "escn"}}, "use model.name: piwsl_ocp.models.escn.ESCN"),
    (
        "painn",
        {"model": {"name": "fairchem.core.models.escn.eSCN"}},
        "use model.name: piwsl_ocp.models.escn.ESCN",
    ),
    (
        "painn",
        {"model": {"name": "equiformer_v2", "otf_graph": False}},
        "use model.name: piwsl_ocp.models.equiformer_v2.EquiformerV2",
    ),
    ("painn", {"amp": True}, "set amp: false, or optim.piwsl.allow_amp: true"),
]


@pytest.mark.parametrize(("model", "values", "said"), WEAK, ids=str)
def test_what_drowns_the_weak_losses_is_refused_where_there_are_some(
    configuration: Configuration, model: str, values: dict[str, Any], said: str
) -> None:
    assert said in refusal(configuration(values, model))
    for terms in ({}, {"pitc": 0}):
        check_config(configuration({**values, "optim.piwsl.terms": terms}, model))
    supervised = {"optim.piwsl.terms": {}, "optim.piwsl.noisy_nodes": 1.0}
    check_config(configuration({**values, **supervised}, model))


def test_mixed_precision_with_weak_losses_can_be_asked_for(configuration: Configuration) -> None:
    check_config(configuration({"amp": True, "optim.piwsl.allow_amp": True}))
