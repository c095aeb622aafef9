"""Training configurations: composed from YAML files, overridden, checked before anything runs."""

from __future__ import annotations

import piwsl_ocp.compat

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from fairchem.core.common import utils

import piwsl_ocp
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.dataset import GraphLmdbDataset
from piwsl_ocp.ocp.options import PIWSLOptions
from piwsl_ocp.ocp.sections.dataset import check_dataset, check_one_scale
from piwsl_ocp.ocp.sections.model import check_has_cutoff, check_model
from piwsl_ocp.ocp.sections.optim import check_length, check_optim
from piwsl_ocp.ocp.sections.section import parse
from piwsl_ocp.ocp.sections.targets import (
    LEVELS,
    OWN_METRICS,
    check_losses,
    check_metrics,
    check_outputs,
)
from piwsl_ocp.ocp.sections.weak import check_weak_losses
from piwsl_ocp.ocp.sections.whole import (
    OWN_TRAINER,
    Whole,
    check_logger,
    check_task,
    check_trainer,
)
from piwsl_ocp.ocp.trainer import PIWSLTrainer

#: Keys that a configuration may hold at the top; fairchem drops others without a word.
TOP_LEVEL = tuple(Whole.model_fields)


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
    except TypeError:
        raise UserError(
            f"configuration '{path}' cannot be read: it, or a file that it includes, is empty or "
            "holds no keys"
        ) from None
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
    """Split `key=value` from the command line; the value is read as YAML.

    Raises:
        UserError: if there is no key, or the value is no YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"override '{text}': expected key=value, such as optim.max_steps=100")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(
            f"override '{text}': the value is no YAML, expected one such as 100, word or [1, 2]"
        ) from None


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
    whole = parse(Whole, config, "")
    own = issubclass(check_trainer(whole.trainer), PIWSLTrainer)
    check_task(config.get("task", {}))
    if "logger" in config:
        check_logger(config["logger"])
    outputs, optim = config["outputs"], config["optim"]
    targets = check_outputs(outputs, LEVELS if own else ())
    check_optim(optim)
    options = PIWSLOptions.parse(optim.get("piwsl"), outputs)
    if options.weak_terms and not own:
        raise UserError(f"trainer: '{whole.trainer}' knows no weak losses: use {OWN_TRAINER}")
    check_length(optim, own)
    check_losses(config["loss_functions"], outputs, targets)
    metrics = (*OWN_METRICS, *options.weak_terms) if own else None
    check_metrics(config.get("evaluation_metrics", {}), outputs, targets, metrics)
    needed = ("train", "val") if whole.mode == "train" else ("train",)
    check_dataset(config["dataset"], needed, targets, GraphLmdbDataset if own else None)
    model = check_model(config["model"])
    if own:
        check_one_scale(config["dataset"], options.target_scale)
        check_has_cutoff(model)
    check_weak_losses(options, config, model)


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
