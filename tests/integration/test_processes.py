"""Two processes give the loss and gradient of one process on the joined batch."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from fairchem.core.common.distutils import get_free_port

from tests.integration.training import make_trainer

OPTIONS = {"optim.piwsl.terms": {"pitc": 1.2, "pisc": 0.8}}
RECORDS = (0, 1, 2, 3, 4, 5)


def loss_and_gradient(trainer, records: tuple[int, ...]) -> tuple[float, torch.Tensor]:
    dataset = trainer.train_dataset.dataset
    batch = trainer.collater([dataset[record] for record in records])
    trainer.model.train()
    trainer.step = 1
    loss = trainer._compute_loss(trainer._forward(batch), batch)
    loss.backward()
    gradients = [p.grad.reshape(-1) for p in trainer.model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


def one_rank(rank: int, port: int, data: str, out: str) -> None:
    """Run one of two ranks; uneven shares, so that a mean of means would be wrong."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    trainer = make_trainer(Path(data), OPTIONS)
    share = RECORDS[:4] if rank == 0 else RECORDS[4:]
    loss, gradient = loss_and_gradient(trainer, share)
    torch.save({"loss": loss, "gradient": gradient}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one_process_on_the_joined_batch(ethanol: Path, tmp_path: Path) -> None:
    arguments = (get_free_port(), str(ethanol), str(tmp_path))
    torch.multiprocessing.spawn(one_rank, arguments, nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    loss, gradient = loss_and_gradient(make_trainer(ethanol, OPTIONS), RECORDS)
    assert abs(sum(r["loss"] for r in ranks) / 2 - loss) < 1e-4 * abs(loss)
    for found in ranks:
        torch.testing.assert_close(
            found["gradient"], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())
        )
