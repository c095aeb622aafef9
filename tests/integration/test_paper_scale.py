"""The configurations at the published size: one training step of two structures."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from piwsl_ocp.ocp.config import load_config
from piwsl_ocp.ocp.trainer import build_trainer

#: Parameters by model; the paper names EquiformerV2 with 31 million.
PARAMETERS = {
    "schnet": 9_088_513,
    "schnet_fb": 9_500_930,
    "painn": 20_073_481,
    "painn_gf": 18_695_175,
    "spinconv": 8_473_371,
    "spinconv_gf": 6_816_265,
    "escn": 51_844_608,
    "escn_gf": 51_811_456,
    "equiformer_v2": 31_058_690,
    "equiformer_v2_gf": 27_929_345,
}


@pytest.fixture(autouse=True)
def give_memory_back() -> Iterator[None]:
    """Free each model: a trainer refers to itself, and glibc keeps what is freed."""
    yield
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.mark.slow
@pytest.mark.parametrize("model", PARAMETERS)
def test_a_step_at_the_published_size(model: str, ethanol: Path) -> None:
    settings = {
        **{f"dataset.{s}.src": f"{ethanol}/{s}/data.lmdb" for s in ("train", "val", "test")},
        "optim.batch_size": 2,
        "optim.piwsl.copies": "separate",
        "logger.wandb": "disabled",
        "logger.tensorboard": False,
        "cpu": True,
    }
    trainer = build_trainer(
        load_config(f"configs/experiments/ani1x_n100/{model}_piwsl.yml", settings)
    )
    count = sum(p.numel() for p in trainer.model.parameters())
    assert count == PARAMETERS[model]

    dataset = trainer.train_dataset.dataset
    batch = trainer.collater([dataset[0], dataset[1]])
    trainer.model.train()
    trainer.step = 1
    loss = trainer._compute_loss(trainer._forward(batch), batch)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert gradients and all(bool(torch.isfinite(g).all()) for g in gradients)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.optimizer.step()
    after = trainer.model.parameters()
    assert any(not torch.equal(b, a) for b, a in zip(before, after, strict=True))
