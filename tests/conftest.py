"""What all tests share: float tolerances, the real data, the profile of property tests."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    import tblite.interface  # noqa: F401  (before torch 2.4, whose OpenMP library is older)

import piwsl_ocp.compat  # noqa: F401  (before fairchem, which tests import too)

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

#: Tolerances for numbers of order 1 after a handful of operations: the one place for them.
TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}

# Examples follow from the test alone, so that a run can be repeated; no test has a time limit.
hypothesis.settings.register_profile(
    "piwsl", deadline=None, derandomize=True, max_examples=30, print_blob=True
)
hypothesis.settings.load_profile("piwsl")

# A shell starts what runs in its background deaf to Ctrl-C, which tests send to their programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Let no test inherit flushed denormal numbers, which a trainer sets for its process."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Return a comparison of two tensors with the tolerance of their dtype."""

    def compare(actual: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> None:
        tolerance = TOLERANCES[actual.dtype]
        torch.testing.assert_close(
            actual, expected, rtol=tolerance["rtol"], atol=scale * tolerance["atol"]
        )

    return compare


@pytest.fixture(scope="session")
def tblite_program() -> None:
    """Skip the test where the program that labels the shipped data cannot be loaded."""
    pytest.importorskip("tblite.ase", exc_type=ImportError)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the published raw files; skip the test where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PIWSL_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no raw data at {folder}: set PIWSL_SHARED_DATA to the folder that holds it")
    return folder
