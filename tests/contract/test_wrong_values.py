"""A wrong value in any section of a configuration is told in one line before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp import fairchem_cli
from piwsl_ocp.ocp.config import check_config
from tests.contract.configurations import NORMALIZER, REFERENCES, Configuration, loss, refusal

NAN = float("nan")
WARMUP = {"warmup_steps": 10, "warmup_factor": 0.2, "lr_gamma": 0.1, "lr_milestones": [200]}

TARGETS = [
    ("loss_functions", {"energy": {"fn": "mae"}}, "expected a list such as"),
    ("loss_functions", "mae", "loss_functions: found 'mae', expected a list"),
    ("loss_functions", [{}], "loss_functions[0]: found {}"),
    ("loss_functions", ["energy"], "loss_functions[0]: found 'energy'"),
    ("loss_functions", [{"enrgy": {"fn": "mae", "coefficient": 1}}], "did you mean 'energy'?"),
    ("loss_functions", [{"stress": {"fn": "mae", "coefficient": 1}}], "unknown target 'stress'"),
    ("loss_functions", [{"energy": "mae"}], "loss_functions[0].energy: found 'mae'"),
    ("loss_functions", [{"energy": {"coefficient": 1}}], "loss_functions[0].energy.fn is missing"),
    ("loss_functions", [{"energy": {"fn": "mae"}}], "energy.coefficient is missing"),
    ("loss_functions", loss(fn="maee"), "unknown loss 'maee', did you mean 'mae'?"),
    ("loss_functions", loss(fn="torch.nn.L3Loss"), "'torch.nn.L3Loss' cannot be imported"),
    ("loss_functions", loss(fn="l2mae"), "the loss 'l2mae' cannot be taken of energy"),
    ("loss_functions", loss(coefficient="big"), "energy.coefficient: found 'big'"),
    ("loss_functions", loss(coefficient="1e2"), "YAML takes 1e2 for text: write 100.0"),
    ("loss_functions", loss(coefficient=-1), "found -1, expected a number of at least 0"),
    ("loss_functions", loss(coefficient=NAN), "energy.coefficient: found nan"),
    ("loss_functions", loss(coefficient=True), "energy.coefficient: found True"),
    ("loss_functions", loss(reduction="median"), "energy.reduction: found 'median'"),
    ("loss_functions", loss(coeficient=1), "coeficient: unknown key, did you mean 'coefficient'?"),
    ("loss_functions", [], "has no 'loss_functions'"),
    ("outputs", ["energy", "forces"], "outputs: found ['energy', 'forces']"),
    ("outputs", {"forces": {"level": "atom"}}, "needs predicted energy"),
    (
        "outputs.energy",
        "system",
        "found 'system', expected a mapping with keys such as level",
    ),
    ("outputs.energy.level", "sistem", "outputs.energy.level: found 'sistem', did you mean"),
    ("outputs.energy.level", "atom", "outputs.energy.level: found 'atom', expected 'system'"),
    ("outputs.energy", {"shape": 1}, "outputs.energy.level is missing"),
    ("outputs.energy.shape", "one", "outputs.energy.shape: found 'one'"),
    ("outputs.energy.type", 1, "outputs.energy.type: found 1, expected text"),
    ("outputs.forces.lvl", "atom", "outputs.forces.lvl: unknown key, did you mean 'level'?"),
    ("outputs.forces", {"level": "atom"}, "outputs.forces.eval_on_free_atoms is missing"),
    ("outputs.forces.train_on_free_atoms", None, "forces.train_on_free_atoms is missing"),
    ("outputs.forces.prediction_dtype", "float8", "forces.prediction_dtype: found 'float8'"),
    ("outputs.stress", {"level": "system", "decomposition": {"a": 1}}, "decomposition.a: found 1"),
    ("evaluation_metrics", None, "evaluation_metrics: found None, expected a mapping"),
    ("evaluation_metrics.metric", {}, "unknown key, did you mean 'metrics'?"),
    ("evaluation_metrics.primary_metric", None, "primary_metric is missing"),
    ("evaluation_metrics.primary_metric", "energy_ma", "did you mean 'energy_mae'?"),
    ("evaluation_metrics.primary_metric", "forces_rmse", "no metric 'forces_rmse'"),
    ("evaluation_metrics.metrics", ["mae"], "metrics: found ['mae'], expected a mapping"),
    ("evaluation_metrics.metrics.energy", "mae", "metrics.energy: found 'mae', expected a list"),
    ("evaluation_metrics.metrics.energy", ["maee"], "unknown metric 'maee', did you mean 'mae'?"),
    ("evaluation_metrics.metrics.energy", ["min_diff"], "unknown metric 'min_diff'"),
    ("evaluation_metrics.metrics.energy", ["magnitude_error"], "cannot be taken of energy"),
    ("evaluation_metrics.metrics.misc", ["mae"], "cannot be taken of misc"),
    ("evaluation_metrics.metrics.force", ["mae"], "unknown target, did you mean 'forces'?"),
]

OPTIM = [
    ("optim", [1], "optim: found [1], expected a mapping"),
    ("optim.batch_size", 2.5, "optim.batch_size: found 2.5, expected a whole number"),
    ("optim.batch_size", 0, "optim.batch_size: found 0, expected a number above 0"),
    ("optim.batch_size", -1, "optim.batch_size: found -1"),
    ("optim.batch_size", "four", "optim.batch_size: found 'four'"),
    ("optim.batch_size", "4", "write 4 without quotes"),
    ("optim.batch_size", True, "optim.batch_size: found True"),
    ("optim.batch_size", None, "optim.batch_size: found None"),
    ("optim.eval_batch_size", 0, "optim.eval_batch_size: found 0"),
    ("optim.eval_batch_size", "x", "optim.eval_batch_size: found 'x'"),
    ("optim.ema_decay", 1.5, "optim.ema_decay: found 1.5, expected a number of at most 1"),
    ("optim.ema_decay", "slow", "optim.ema_decay: found 'slow'"),
    ("optim.ema_decay", 1, "optim.ema_decay: found 1, expected a number such as 0.999"),
    ("optim.num_workers", -1, "optim.num_workers: found -1"),
    ("optim.num_workers", "two", "optim.num_workers: found 'two'"),
    ("optim.max_steps", 2.5, "optim.max_steps: found 2.5, expected a whole number"),
    ("optim.max_steps", 0, "optim.max_steps: found 0"),
    ("optim.max_epochs", "ten", "optim.max_epochs: found 'ten'"),
    ("optim.eval_every", 0, "optim.eval_every: found 0"),
    ("optim.eval_every", None, "optim.eval_every: found None"),
    ("optim.checkpoint_every", 0, "optim.checkpoint_every: found 0, expected a number above 0, or"),
    ("optim.checkpoint_every", "x", "optim.checkpoint_every: found 'x'"),
    ("optim.lr_initial", "1e-4", "YAML takes 1e-4 for text: write 0.0001"),
    ("optim.lr_initial", "1e-5", "YAML takes 1e-5 for text: write 1.0e-05"),
    ("optim.lr_initial", "fast", "optim.lr_initial: found 'fast', expected a number"),
    ("optim.lr_initial", -0.1, "optim.lr_initial: found -0.1"),
    ("optim.lr_initial", NAN, "optim.lr_initial: found nan"),
    ("optim.clip_grad_norm", -1, "optim.clip_grad_norm: found -1"),
    ("optim.clip_grad_norm", "ten", "optim.clip_grad_norm: found 'ten'"),
    ("optim.weight_decay", -0.1, "optim.weight_decay: found -0.1"),
    ("optim.load_balancing", "atom", "optim.load_balancing: found 'atom'"),
    ("optim.load_balancing_on_error", "rise", "found 'rise', did you mean 'raise'?"),
    ("optim.optimizer", "AdmW", "torch.optim has no 'AdmW', did you mean 'AdamW'?"),
    ("optim.optimizer", "adam", "torch.optim has no 'adam', did you mean 'Adam'?"),
    ("optim.optimizer", "lr_scheduler", "torch.optim has no 'lr_scheduler'"),
    ("optim.optimizer", "LBFGS", "fairchem's trainer cannot use LBFGS"),
    ("optim.optimizer", 3, "optim.optimizer: found 3, expected text"),
    ("optim.optimizer_params", None, "optim.optimizer_params: found None"),
    ("optim.optimizer_params", {"amsgard": True}, "amsgard: unknown key, did you mean 'amsgrad'?"),
    ("optim.optimizer_params", {"lr": 0.1}, "set optim.lr_initial"),
    ("optim.optimizer_params", {"eps": "1e-8"}, "YAML takes 1e-8 for text: write 1.0e-08"),
    ("optim.optimizer_params", {"amsgrad": "yes"}, "amsgrad: found 'yes', expected true or false"),
    ("optim.optimizer_params", {"weight_decay": -1}, "AdamW does not take them"),
    ("optim.optimizer_params", {"betas": [0.9, 2.0]}, "AdamW does not take them"),
    ("optim.scheduler", "CosineAnealingLR", "did you mean 'CosineAnnealingLR'?"),
    ("optim.scheduler", None, "'Null' in quotes"),
    ("optim.scheduler", "LambdaLR", "LambdaLR takes functions"),
    ("optim.scheduler", "StepLR", "optim.step_size is missing: StepLR needs it"),
    ("optim.scheduler_params", {}, "optim.scheduler_params: unknown key"),
    ("optim.T_max", "long", "optim.T_max: found 'long'"),
    ("optim.T_max", 0, "optim.T_max: found 0"),
    ("optim.eta_min", "1e-5", "YAML takes 1e-5 for text"),
    ("optim.patience", 3, "optim.patience: unknown key"),
    ("optim.lr_gama", 0.1, "optim.lr_gama: unknown key, did you mean 'lr_gamma'?"),
    ("optim.lr_milestones", 100, "optim.lr_milestones: found 100, expected a list"),
    ("optim.warmup_factor", "x", "optim.warmup_factor: found 'x'"),
    ("optim.loss_energy", "mae", "optim.loss_energy: unknown key"),
    ("optim.energy_coefficient", 1, "optim.energy_coefficient: unknown key"),
]

TOP = [
    ("task", None, "task: found None, expected a mapping"),
    ("task", "s2ef", "task: found 's2ef', expected a mapping"),
    ("task.strict_lod", True, "task.strict_lod: unknown key, did you mean 'strict_load'?"),
    ("task.strict_load", "no", "task.strict_load: found 'no', expected true or false"),
    ("logger", None, "logger: found None, expected a mapping"),
    ("logger", ["wandb"], "logger: found ['wandb'], expected a mapping"),
    ("logger", "tensorbord", "unknown logger 'tensorbord', did you mean 'tensorboard'?"),
    ("logger", {}, "logger.name is missing"),
    ("logger.name", "piwls", "unknown logger 'piwls', did you mean 'piwsl'?"),
    ("logger.name", "wandb_singleton", "wandb_singleton needs project and entity"),
    ("logger.wandb", "ofline", "logger.wandb: found 'ofline', did you mean 'offline'?"),
    ("logger.tensorboard", "no", "logger.tensorboard: found 'no', expected true or false"),
    ("logger.projct", "x", "logger.projct: unknown key, did you mean 'project'?"),
    ("trainer", "piwls", "trainer: unknown trainer 'piwls', did you mean 'piwsl'?"),
    ("trainer", "piwsl_ocp.ocp.trainr.PIWSLTrainer", "did you mean 'piwsl_ocp.ocp.trainer.PIWSL"),
    ("trainer", "piwsl_ocp.ocp.trainer.Trainer", "Could not import class `Trainer`"),
    ("trainer", "nowhere.Trainer", "trainer: 'nowhere.Trainer' cannot be imported"),
    ("trainer", "torch.nn.Linear", "is no trainer of fairchem"),
    ("trainer", "torch.nn.functional", "'torch.nn.functional' is no class"),
    ("trainer", 3, "trainer: found 3, expected text"),
    ("trainer", "ocp", "trainer: 'ocp' knows no weak losses: use piwsl_ocp.ocp.trainer"),
    ("print_every", 0, "print_every: found 0, expected a number above 0"),
    ("print_every", "often", "print_every: found 'often'"),
    ("seed", "one", "seed: found 'one', expected a whole number"),
    ("seed", None, "seed: found None"),
    ("seed", -1, "seed: found -1"),
    ("seed", 2**32, "seed: found 4294967296"),
    ("seed", 1.5, "seed: found 1.5"),
    ("amp", "no", "amp: found 'no', expected true or false"),
    ("cpu", "yes", "cpu: found 'yes', expected true or false"),
    ("identifier", 3, "identifier: found 3, expected text"),
    ("run_dir", 3, "run_dir: found 3, expected text"),
    ("mode", "trian", "mode: found 'trian', did you mean 'train'?"),
    ("gp_gpus", 0, "gp_gpus: found 0"),
]

DATASET = [
    ("dataset", "data.lmdb", "dataset: found 'data.lmdb', expected the splits train, val"),
    ("dataset.trian", {"src": "x"}, "dataset.trian: unknown key, did you mean 'train'?"),
    ("dataset.train", "data.lmdb", "dataset.train: found 'data.lmdb', expected a mapping"),
    ("dataset.test", "data.lmdb", "dataset.test: found 'data.lmdb', expected a mapping"),
    ("dataset.train", None, "dataset.train.src is not set"),
    ("dataset.train.src", 3, "dataset.train.src: found 3, expected the path of an LMDB"),
    ("dataset.val.src", ["a.lmdb"], "dataset.val.src: found ['a.lmdb']"),
    ("dataset.val.src", "nowhere.lmdb", "dataset.val.src: no file 'nowhere.lmdb'"),
    ("dataset.test.src", None, "dataset.test.src is not set"),
    ("dataset.train.src", "{files}", "dataset.train.src: no file"),
    ("dataset.train.sorce", "x", "dataset.train.sorce: unknown key, did you mean 'src'?"),
    ("dataset.train.transform", {}, "unknown key, did you mean 'transforms'?"),
    ("dataset.train.format", "lmbd", "unknown dataset 'lmbd', did you mean 'lmdb'?"),
    ("dataset.train.format", "torch.nn.Linear", "'torch.nn.Linear' is no data set"),
    ("dataset.train.first_n", 0, "dataset.train.first_n: found 0"),
    ("dataset.train.key_mapping", "energy", "dataset.train.key_mapping: found 'energy'"),
    ("dataset.train.key_mapping", {"y": 1}, "key_mapping.y: found 1, expected the new name"),
    ("dataset.train.transforms", ["normalizer"], "train.transforms: found ['normalizer']"),
    ("dataset.train.transforms.normaliser", {}, "did you mean 'normalizer'?"),
    ("dataset.train.transforms.normalizer", 2.0, "transforms.normalizer: found 2.0"),
    ("dataset.train.transforms.decompose_tensor", 2, "decompose_tensor: found 2"),
]


def normalizer(target: str = "energy", **values: Any) -> dict[str, Any]:
    return {target: values}


STATISTICS = [
    (NORMALIZER, normalizer("enrgy", mean=0, rmsd=1), "enrgy: unknown key, did you mean 'energy'?"),
    (NORMALIZER, normalizer(mean=0, rmsd=0), "energy.rmsd: found 0, expected a number above 0"),
    (NORMALIZER, normalizer(mean=0, stdev=0.0), "energy.stdev: found 0.0"),
    (NORMALIZER, normalizer(mean=0, rmsd=-2), "energy.rmsd: found -2"),
    (NORMALIZER, normalizer(mean=0, stdev="big"), "energy.stdev: found 'big'"),
    (NORMALIZER, normalizer(mean="low", rmsd=1), "energy.mean: found 'low'"),
    (NORMALIZER, normalizer(mean=0), "normalizer.energy.rmsd is missing"),
    (NORMALIZER, normalizer(rmsd=1), "normalizer.energy.mean is missing"),
    (NORMALIZER, normalizer(mean=0, rsmd=1), "rsmd: unknown key, did you mean 'rmsd'?"),
    (NORMALIZER, normalizer(file="no.pt"), "normalizer.energy.file: no file 'no.pt'"),
    (NORMALIZER, {"file": "no.pt"}, "normalizer.file: no file 'no.pt'"),
    (NORMALIZER, {"file": 3}, "normalizer.file: found 3, expected text"),
    (NORMALIZER, {"fit": {"batch_size": 4}}, "normalizer.fit.targets is missing"),
    (NORMALIZER, {"fit": {"targets": ["energy"]}}, "normalizer.fit.batch_size is missing"),
    (NORMALIZER, {"fit": {"targets": ["e"], "batch_size": 4}}, "unknown target 'e'"),
    (NORMALIZER, {"fit": {"targets": "energy", "batch_size": 4}}, "expected a list of targets"),
    (REFERENCES, {"file": "no.pt"}, "element_references.file: no file 'no.pt'"),
    (REFERENCES, {"energy": {}}, "element_references.energy.file is missing"),
    (REFERENCES, {"energy": {"file": "no.npz"}}, "energy.file: no file 'no.npz'"),
    (REFERENCES, {"fit": {"targets": ["energy"], "batch": 4}}, "fit.batch: unknown key"),
]

MODEL = [
    ("model", "painn", "model: found 'painn', expected a mapping with the key name"),
    ("model.name", None, "model.name: found None, expected the name of a model"),
    ("model.name", "pain", "unknown model 'pain', did you mean 'painn'?"),
    ("model.name", "piwsl_ocp.models.painn.Painn", "did you mean 'piwsl_ocp.models.painn.PaiNN'?"),
    ("model.name", "nowhere.Model", "model.name: 'nowhere.Model' cannot be imported"),
    ("model.name", "collections.OrderedDict", "is no model"),
    ("model", {"name": "hydra", "otf_graph": False}, "'hydra' has no cutoff of its own"),
    ("model", {"name": "scn", "otf_graph": False}, "use model.name: piwsl_ocp.models.escn.ESCN"),
    ("model", {"name": "escn_export"}, "use model.name: piwsl_ocp.models.escn.ESCN"),
    ("model.hidden_channels", "wide", "model.hidden_channels: found 'wide'"),
    ("model.hidden_channels", 2.5, "model.hidden_channels: found 2.5, expected a whole number"),
    ("model.num_layers", 0, "model.num_layers: found 0, expected a number above 0"),
    ("model.num_layers", 2.5, "model.num_layers: found 2.5, expected a whole number"),
    ("model.cutoff", "5", "YAML takes 5 for text: write 5.0"),
    ("model.cutoff", NAN, "model.cutoff: found nan"),
    ("model.use_pbc", "no", "model.use_pbc: found 'no', expected true or false"),
    ("model.scale_file", 3, "model.scale_file: found 3, expected text"),
]

MODELS = [
    ("painn_gf", "model.forces", "gradeint", "model.forces: found 'gradeint', expected"),
    ("painn_gf", "model.num_rbf", 0, "model.num_rbf: found 0"),
    ("schnet", "model.num_interactions", 0, "model.num_interactions: found 0"),
    ("schnet", "model.num_gaussians", 2.5, "model.num_gaussians: found 2.5"),
    ("schnet_fb", "model.forces", 1, "model.forces: found 1"),
    ("spinconv", "model.hidden_channels", 12.0, "model.hidden_channels: found 12.0"),
    ("spinconv", "model.force_estimator", "rand", "model.force_estimator: found 'rand'"),
    ("spinconv", "model.num_interactions", 0, "model.num_interactions: found 0"),
    ("spinconv", "model.basis_width_scalar", "x", "model.basis_width_scalar: found 'x'"),
    ("escn", "model.lmax_list", 2, "model.lmax_list: found 2, expected a list"),
    ("escn", "model.lmax_list", [2.5], "model.lmax_list.0: found 2.5"),
    ("escn", "model.sphere_channels", 0, "model.sphere_channels: found 0"),
    ("escn", "model.frames", "rotated", "model.frames: found 'rotated'"),
    ("escn", "model.energy_scale", "1e-3", "YAML takes 1e-3 for text: write 0.001"),
    ("equiformer_v2", "model.num_heads", 0, "model.num_heads: found 0"),
    ("equiformer_v2", "model.alpha_drop", 1.5, "model.alpha_drop: found 1.5"),
    ("equiformer_v2", "model.max_radius", -1.0, "model.max_radius: found -1.0"),
    ("equiformer_v2", "model.norm_type", 3, "model.norm_type: found 3, expected text"),
]


@pytest.mark.parametrize(
    ("key", "value", "said"), [*TARGETS, *OPTIM, *TOP, *DATASET, *STATISTICS, *MODEL]
)
def test_a_wrong_value_is_told_in_one_line(
    configuration: Configuration, key: str, value: object, said: str
) -> None:
    assert said in refusal(configuration({key: value}))


@pytest.mark.parametrize(("model", "key", "value", "said"), MODELS)
def test_a_wrong_option_of_each_model_is_told_in_one_line(
    configuration: Configuration, model: str, key: str, value: object, said: str
) -> None:
    assert said in refusal(configuration({key: value}, model))


@pytest.mark.parametrize("missing", ["lr_initial", "num_workers"])
def test_a_value_that_fairchem_cannot_do_without_is_named(
    configuration: Configuration, missing: str
) -> None:
    assert f"optim.{missing} is missing" in refusal(configuration({f"-optim.{missing}": None}))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("warmup_steps", 0, "optim.warmup_steps: found 0"),
        ("warmup_steps", "many", "optim.warmup_steps: found 'many'"),
        ("lr_gamma", "x", "optim.lr_gamma: found 'x'"),
        ("lr_milestones", [10, 20], "define lr_milestones in steps not epochs"),
        ("lr_milestones", ["x"], "optim.lr_milestones.0: found 'x'"),
        (None, "warmup_factor", "optim.warmup_factor is missing: without `scheduler`"),
    ],
)
def test_fairchems_own_schedule(
    configuration: Configuration, key: str | None, value: object, said: str
) -> None:
    config = configuration({"-optim.scheduler": None})
    config["optim"].update(WARMUP)
    check_config(config)
    if key is None:
        del config["optim"][value]
    else:
        config["optim"][key] = value
    assert said in refusal(config)


@pytest.mark.parametrize(
    ("scheduler", "options", "said"),
    [
        ("ReduceLROnPlateau", {"factor": 2.0}, "ReduceLROnPlateau does not take these options"),
        ("ReduceLROnPlateau", {"patience": "long"}, "optim.patience: found 'long'"),
        ("ReduceLROnPlateau", {"mode": "least"}, "ReduceLROnPlateau does not take these options"),
        ("StepLR", {"step_size": 0}, "optim.step_size: found 0"),
        ("MultiStepLR", {"milestones": "x"}, "optim.milestones: found 'x', expected a list"),
        ("OneCycleLR", {"max_lr": 0.1}, "OneCycleLR does not take these options"),
    ],
)
def test_the_options_of_a_schedule_of_torch(
    configuration: Configuration, scheduler: str, options: dict[str, Any], said: str
) -> None:
    values = {f"optim.{key}": value for key, value in options.items()}
    assert said in refusal(configuration({"optim.scheduler": scheduler, **values}))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mode", "train", "--num-gpus", "0"], "--num-gpus: found 0, expected a number above 0"),
        (["--mode", "validate"], "--checkpoint is missing: --mode validate needs the checkpoint"),
        (["--mode", "predict"], "--checkpoint is missing: --mode predict needs the checkpoint"),
    ],
)
def test_a_flag_of_fairchem_that_it_would_stop_at_is_told_in_one_line(
    flags: list[str], said: str
) -> None:
    config = "configs/experiments/embedded_ethanol/painn_piwsl.yml"
    with pytest.raises(UserError, match=said):
        fairchem_cli.main([*flags, "--config-yml", config])


def test_a_cosine_without_an_end_is_named(configuration: Configuration) -> None:
    config = configuration({"-optim.max_steps": None, "optim.max_epochs": 3})
    assert "optim.T_max is missing: CosineAnnealingLR needs it" in refusal(config)


def test_fairchems_trainer_needs_epochs_and_a_primary_metric(
    configuration: Configuration,
) -> None:
    stock = {"trainer": "ocp", "optim.piwsl": {}}
    assert "optim.max_epochs is missing" in refusal(configuration(stock))
    stock["optim.max_epochs"] = 3
    assert "no metric 'relative_rmse'" in refusal(configuration(stock))
    stock["evaluation_metrics"] = {"metrics": {"energy": ["mae"]}}
    assert "primary_metric is missing" in refusal(configuration(stock))
    check_config(configuration({**stock, "evaluation_metrics.primary_metric": "energy_mae"}))
