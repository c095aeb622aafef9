"""Configurations of the project with some values set."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piwsl_ocp.ocp.config import load_config, set_value
from tests.contract.configurations import Configuration

EXPERIMENT = "experiments/embedded_aspirin/{}_piwsl.yml"


@cache
def loaded(model: str) -> dict[str, Any]:
    return load_config(EXPERIMENT.format(model))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an empty file of each kind that a configuration may name."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("data.lmdb", "statistics.pt", "statistics.txt"):
        (folder / name).touch()
    np.savez(folder / "statistics.npz", mean=0.0, rmsd=1.0)
    return folder


@pytest.fixture
def configuration(files: Path) -> Configuration:
    """Return a function that gives a valid configuration with some values set."""

    def make(values: dict[str, Any], model: str = "painn") -> dict[str, Any]:
        config = deepcopy(loaded(model))
        for split in ("train", "val", "test"):
            config["dataset"][split]["src"] = str(files / "data.lmdb")
        for key, value in values.items():
            if key.startswith("-"):
                parent, name = key[1:].rsplit(".", 1)
                del config[parent][name]
                continue
            text = isinstance(value, str)
            set_value(config, key, value.replace("{files}", str(files)) if text else value)
        return config

    return make
