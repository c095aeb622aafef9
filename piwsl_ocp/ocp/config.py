"""Training configurations: composed from YAML files, overridden, checked before anything runs."""

from __future__ import annotations

import piwsl_ocp.compat

import difflib
import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from fairchem.core.common import utils
from fairchem.core.common.registry import registry

import piwsl_ocp
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.options import PIWSLOptions, nearest

#: Keys that a configuration may hold at the top; fairchem drops others without a word.
TOP_LEVEL = (
    "amp",
    "checkpoint",
    "cpu",
    "dataset",
    "distributed_backend",
    "evaluation_metrics",
    "gp_gpus",
    "hide_eval_progressbar",
    "identifier",
    "is_debug",
    "local_rank",
    "logger",
    "loss_functions",
    "mode",
    "model",
    "optim",
    "outputs",
    "print_every",
    "run_dir",
    "seed",
    "slurm",
    "submit",
    "summit",
    "task",
    "timestamp_id",
    "trainer",
    "world_size",
)

#: Keys of `optim` that fairchem's trainer, its schedules or this package read.
OPTIM = (
    "batch_size",
    "checkpoint_every",
    "clip_grad_norm",
    "ema_decay",
    "eval_batch_size",
    "eval_every",
    "load_balancing",
    "load_balancing_on_error",
    "load_datasets_and_model_then_exit",
    "lr_gamma",
    "lr_initial",
    "lr_milestones",
    "max_epochs",
    "max_steps",
    "num_workers",
    "optimizer",
    "optimizer_params",
    "piwsl",
    "scheduler",
    "warmup_factor",
    "warmup_steps",
    "weight_decay",
)


def configs_folder() -> Path:
    """Return the folder of the configurations that come with the project."""
    return Path(piwsl_ocp.__file__).parent / "configs"


def find_config(path: Path | str) -> Path:
    """Return the file of a configuration: a path, or one relative to the project's `configs`.

    Raises:
        UserError: if there is no such file; names the nearest one.
    """
    path = Path(path)
    folder = configs_folder()
    for candidate in (path, folder.parent / path, folder / path):
        if candidate.is_file():
            return candidate
    known = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*.yml"))]
    wanted = str(path).split("configs/")[-1]
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.3)
    hint = f", nearest is 'configs/{close[0]}'" if close else ""
    raise UserError(f"no configuration at '{path}'{hint}")


def load_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a configuration with the files it includes.

    Args:
        path: see `find_config`.
        overrides: values by dotted key, such as `{"optim.max_steps": 100}`.

    Raises:
        UserError: if a file is missing or no YAML, or two included files set the same key.
    """
    path = find_config(path)
    try:
        config, _, conflicts = utils.load_config(path)
    except (yaml.YAMLError, ValueError, AttributeError, OSError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"configuration '{path}' cannot be read: {text}") from error
    if conflicts:
        raise UserError(f"'{path}' includes files that both set {', '.join(conflicts)}")
    for key, value in (overrides or {}).items():
        set_value(config, key, value)
    return config


def compose(parts: Sequence[Path | str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put configurations together as a file that includes them would.

    Args:
        parts: files, see `find_config`.
        overrides: values by dotted key.

    Raises:
        UserError: as `load_config`, or if two parts set the same key.
    """
    config: dict[str, Any] = {}
    for part in parts:
        config, conflicts = utils.merge_dicts(config, load_config(part))
        if conflicts:
            raise UserError(f"'{part}' sets {', '.join(conflicts)}, as a part before it does")
    for key, value in overrides.items():
        set_value(config, key, value)
    return config


def set_value(config: dict[str, Any], dotted_key: str, value: Any) -> None:
    """Set one value of a nested configuration in place by its dotted key."""
    *parents, last = dotted_key.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
        if not isinstance(config, dict):
            raise UserError(f"'{dotted_key}': '{parent}' is a value, not a section")
    config[last] = value


def parse_override(text: str) -> tuple[str, Any]:
    """Split `key=value` from the command line; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"override '{text}': expected key=value, such as optim.max_steps=100")
    return key, yaml.safe_load(value)


def check_config(config: Mapping[str, Any]) -> None:
    """Check a configuration before a data set or device is touched.

    Raises:
        UserError: for the first unknown key, missing section, or value out of its range.
    """
    for section in ("dataset", "model", "optim", "outputs", "loss_functions"):
        if not config.get(section):
            raise UserError(
                f"the configuration has no '{section}': "
                "include a file of configs/_base, configs/datasets and configs/models"
            )
    _check_keys(config, TOP_LEVEL, "")
    _check_optim(config["optim"])
    _check_model(config["model"])
    _check_data(config["dataset"], config.get("mode", "train"))
    PIWSLOptions.parse(config["optim"].get("piwsl"), config["outputs"])


def _check_keys(section: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in section:
        if key not in known:
            raise UserError(f"{prefix}{key}: unknown key{nearest(str(key), known)}")


def _check_optim(optim: Mapping[str, Any]) -> None:
    optimizer = getattr(torch.optim, str(optim.get("optimizer", "AdamW")), None)
    if optimizer is None:
        raise UserError(f"optim.optimizer: torch.optim has no '{optim['optimizer']}'")
    known = list(OPTIM)
    scheduler = optim.get("scheduler", "LambdaLR")
    if scheduler != "Null":
        kind = getattr(torch.optim.lr_scheduler, str(scheduler), None)
        if kind is None:
            raise UserError(f"optim.scheduler: torch.optim.lr_scheduler has no '{scheduler}'")
        known += [name for name in inspect.signature(kind).parameters if name != "optimizer"]
    _check_keys(optim, tuple(known), "optim.")
    positive = ("batch_size", "eval_batch_size", "lr_initial", "max_steps", "max_epochs")
    for key in (*positive, "eval_every", "clip_grad_norm"):
        value = optim.get(key)
        if value is not None and not (_is_number(value) and value > 0):
            raise UserError(f"optim.{key}: found {value!r}, expected a number above 0")
    if "max_steps" not in optim and "max_epochs" not in optim:
        raise UserError("optim has neither max_steps nor max_epochs: set one of them")


def _check_model(model: Mapping[str, Any]) -> None:
    utils.setup_imports({"skip_experimental_imports": True})
    name = model.get("name")
    known = registry.mapping["model_name_mapping"]
    if name not in known and "." not in str(name):
        raise UserError(f"model.name: unknown model '{name}'{nearest(str(name), known)}")
    parameters = inspect.signature(registry.get_model_class(name).__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        allowed = ("name", *(key for key in parameters if key != "self"))
        _check_keys(model, allowed, "model.")
    for key in ("cutoff", "max_neighbors", "hidden_channels"):
        if key in model and not (_is_number(model[key]) and model[key] > 0):
            raise UserError(f"model.{key}: found {model[key]!r}, expected a number above 0")
    if not model.get("regress_forces", True):
        raise UserError("model.regress_forces is false: PIWSL needs a model that predicts forces")


def _check_data(dataset: Mapping[str, Any], mode: str) -> None:
    needed = ("train", "val") if mode == "train" else ("train",)
    for split in needed:
        source = (dataset.get(split) or {}).get("src")
        if source is None:
            raise UserError(f"dataset.{split}.src is not set: name the LMDB of that split")
        if not Path(source).exists():
            raise UserError(
                f"dataset.{split}.src: no file '{source}'; make it with `piwsl data convert` "
                "(the head of the data set's file in configs/datasets shows the command)"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def fairchem_config(config: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """Return a copy with every key that fairchem's runner expects of its command line."""
    defaults = {
        "mode": "train",
        "identifier": "",
        "timestamp_id": None,
        "seed": 0,
        "is_debug": False,
        "run_dir": "./",
        "print_every": 10,
        "amp": False,
        "checkpoint": None,
        "cpu": not torch.cuda.is_available(),
        "submit": False,
        "summit": False,
        "world_size": 1,
        "gp_gpus": None,
    }
    merged = {**defaults, **deepcopy(dict(config)), **settings}
    merged.setdefault("distributed_backend", "gloo" if merged["cpu"] else "nccl")
    return merged
