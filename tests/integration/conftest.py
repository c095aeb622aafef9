"""Small converted data sets and real trainings on them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.ocp import run
from tests.integration.training import small_config


def converted(name: str, folder: Path, **options: object) -> Path:
    """Convert 20 + 8 + 8 structures of the data that come with the project."""
    sizes = {"train": 20, "validation": 8, "test": 8}
    convert("embedded", [name], folder, ConversionOptions(**{**sizes, **options}))
    return folder


@pytest.fixture(scope="session")
def ethanol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of one molecule, in kcal/mol."""
    return converted("ethanol", tmp_path_factory.mktemp("data") / "ethanol")


@pytest.fixture(scope="session")
def ethanol_in_ev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same data set in eV."""
    return converted("ethanol", tmp_path_factory.mktemp("data") / "ethanol", unit="eV")


@pytest.fixture(scope="session")
def oxide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a periodic data set."""
    return converted("oxide", tmp_path_factory.mktemp("data") / "oxide")


@pytest.fixture
def trained() -> Callable[..., Path]:
    """Return a function that trains a small model in a run folder."""

    def train(
        data: Path,
        folder: Path,
        overrides: Mapping[str, Any] | None = None,
        model: str = "painn",
        **keywords: object,
    ) -> Path:
        return run.train(small_config(data, overrides, model), folder, **keywords)

    return train


@pytest.fixture
def mounted_disk(tmp_path: Path) -> Callable[[str], AbstractContextManager[Path]]:
    """Return a function that mounts a disk with given options for the time of a block."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting needs root")

    @contextmanager
    def mounted(options: str) -> Iterator[Path]:
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "piwsl", str(disk)]).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    return mounted
