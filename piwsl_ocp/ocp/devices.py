"""Which device a model runs on, and which there are."""

from __future__ import annotations

import os

import torch

from piwsl_ocp.errors import UserError


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, each as an entry of CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return named[:count] if any(named) else [str(number) for number in range(count)]


def find_device(name: str | None = None) -> torch.device:
    """Return a device by its name; without one, the GPU if there is one, and else the CPU.

    Args:
        name: `cpu`, `cuda`, or `cuda:` and a number.

    Raises:
        UserError: if it is none of them, or this machine does not have it.
    """
    gpus = len(visible_gpus())
    if name is None:
        return torch.device("cuda" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{name}' is not known: expected cpu, cuda or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(f"device '{name}': {gpus} CUDA devices are visible: use another, or cpu")
    return device
