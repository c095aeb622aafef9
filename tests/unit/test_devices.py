"""The device of a trained model."""

from __future__ import annotations

import pytest
import torch

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.devices import find_device


def test_the_gpu_is_taken_where_there_is_one() -> None:
    assert find_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "", "cuda:x"])
def test_an_unknown_device_is_told(name: str) -> None:
    with pytest.raises(UserError, match="is not known: expected cpu, cuda or cuda:NUMBER"):
        find_device(name)


def test_a_device_that_is_not_there_is_told() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"device 'cuda:{count}': {count} CUDA devices are visible"):
        find_device(f"cuda:{count}")
