"""Several processes train as one: the same loss and gradient, one answer to a signal or error."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from fairchem.core.common.distutils import get_free_port

from piwsl_ocp.ocp import run
from piwsl_ocp.ocp.interruption import TrainingInterrupted, stop_on_signal
from piwsl_ocp.ocp.processes import run_ranks
from piwsl_ocp.ocp.state import read_checkpoint
from tests.integration.test_resume import check_equal
from tests.integration.training import make_trainer, small_config, with_label

OPTIONS = {"optim.piwsl.terms": {"pitc": 1.2, "pisc": 0.8}}
#: No supervised loss of the forces, and weak losses in some steps alone.
ENERGIES_ALONE = {
    **OPTIONS,
    "loss_functions": [{"energy": {"fn": "mae", "coefficient": 1}}],
    "optim.piwsl.every_probability": 0.5,
}
RECORDS = (0, 1, 2, 3, 4, 5)


def loss_and_gradient(
    trainer, records: tuple[int, ...], steps: Sequence[int]
) -> tuple[float, torch.Tensor]:
    """Return those of the last of some steps on the same weights."""
    dataset = trainer.train_dataset.dataset
    batch = trainer.collater([dataset[record] for record in records])
    trainer.model.train()
    for step in steps:
        trainer.step = step
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer._forward(batch), batch)
        loss.backward()
    gradients = [p.grad.reshape(-1) for p in trainer.model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


def one_rank(
    rank: int, port: int, data: str, out: str, options: dict, steps: Sequence[int]
) -> None:
    """Run one of two ranks; uneven shares, so that a mean of means would be wrong."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    trainer = make_trainer(Path(data), options)
    share = RECORDS[:4] if rank == 0 else RECORDS[4:]
    loss, gradient = loss_and_gradient(trainer, share, steps)
    torch.save({"loss": loss, "gradient": gradient}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def check_two_ranks(data: Path, folder: Path, options: dict, steps: Sequence[int]) -> None:
    """Compare two ranks with one process on the joined batch."""
    arguments = (get_free_port(), str(data), str(folder), options, steps)
    torch.multiprocessing.spawn(one_rank, arguments, nprocs=2)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    loss, gradient = loss_and_gradient(make_trainer(data, options), RECORDS, steps)
    assert abs(sum(r["loss"] for r in ranks) / 2 - loss) < 1e-4 * abs(loss)
    for found in ranks:
        torch.testing.assert_close(
            found["gradient"], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())
        )


def test_two_ranks_equal_one_process_on_the_joined_batch(ethanol: Path, tmp_path: Path) -> None:
    check_two_ranks(ethanol, tmp_path, OPTIONS, [1])


@pytest.mark.parametrize("applies", [False, True])
def test_two_ranks_train_on_energies_alone(ethanol: Path, tmp_path: Path, applies: bool) -> None:
    """The weights of the force head have a gradient in the steps with weak losses alone."""
    objective = make_trainer(ethanol, ENERGIES_ALONE).copies.objective
    without = [step for step in range(1, 12) if not objective.applies(step)]
    last = [step for step in range(1, 12) if objective.applies(step) == applies][-1]
    check_two_ranks(ethanol, tmp_path, ENERGIES_ALONE, [*without[:2], last])


def asked_twice(folder: Path) -> None:
    """Stop as a training does, and be asked again on the way out."""
    rank = os.environ["RANK"]
    with stop_on_signal() as request:
        (folder / f"ready_{rank}").touch()
        while not request.asked:
            time.sleep(0.01)
    (folder / f"saved_{rank}").touch()
    wait_for(folder / "asked_again")
    time.sleep(2)
    raise TrainingInterrupted("everything is saved")


def wait_for(*files: Path) -> None:
    while not all(file.exists() for file in files):
        time.sleep(0.01)


def test_ranks_that_have_saved_are_not_disturbed_when_they_are_asked_again(tmp_path: Path) -> None:
    def terminal() -> None:
        wait_for(tmp_path / "ready_0", tmp_path / "ready_1")
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGINT)
        wait_for(tmp_path / "saved_0", tmp_path / "saved_1")
        os.kill(os.getpid(), signal.SIGINT)
        (tmp_path / "asked_again").touch()

    threading.Thread(target=terminal, daemon=True).start()
    with pytest.raises(TrainingInterrupted, match="everything is saved"):
        run_ranks(asked_twice, tmp_path, 2)


def train_command(data: Path, folder: Path, options: dict) -> list[str]:
    config = folder.with_suffix(".yml")
    config.write_text(yaml.safe_dump(small_config(data, options)))
    return ["train", str(config), "--run-folder", str(folder), "--processes", "2"]


def signalled(
    arguments: Sequence[str], folder: Path, send: Callable[[int], None]
) -> subprocess.CompletedProcess:
    """Run the command in a process group of its own, and send a signal after its next step."""
    command = [sys.executable, "-m", "piwsl_ocp", *arguments]
    settings = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "start_new_session": True}
    metrics = folder / "logs" / "piwsl" / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.is_file() else 0
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, **settings) as process:
        while process.poll() is None and not (
            metrics.is_file() and metrics.stat().st_size > before
        ):
            time.sleep(0.05)
        send(process.pid)
        out, error = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def check_interrupted(done: subprocess.CompletedProcess, folder: Path) -> int:
    """Check that everything is as after the interruption of one process; return the step."""
    step = read_checkpoint(folder / "checkpoints" / "checkpoint.pt")["step"]
    assert done.returncode == 130, done.stderr
    assert done.stderr == (
        f"error: interrupted after step {step}, everything is saved; "
        f"go on with `piwsl resume {folder}`\n"
    )
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    return step


def test_signals_save_on_every_rank_and_the_training_goes_on_to_the_same_result(
    ethanol: Path, tmp_path: Path
) -> None:
    options = {**OPTIONS, "optim.max_steps": 200, "optim.eval_every": 100}
    folder = tmp_path / "parts"
    ctrl_c = signalled(
        train_command(ethanol, folder, options),
        folder,
        lambda number: os.killpg(number, signal.SIGINT),
    )
    first = check_interrupted(ctrl_c, folder)
    terminated = signalled(
        ["resume", str(folder)],
        folder,
        lambda number: os.kill(number, signal.SIGTERM),
    )
    assert first < check_interrupted(terminated, folder) < 200
    run.train({}, folder, resume=True)
    whole = run.train(small_config(ethanol, options), tmp_path / "whole", processes=2)
    check_equal(whole, folder)


def test_a_mistake_found_by_a_rank_ends_in_its_line_alone(ethanol: Path, tmp_path: Path) -> None:
    data = with_label(ethanol, tmp_path / "data", "train", 5, energy=float("nan"))
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "piwsl_ocp", *train_command(data, folder, OPTIONS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the label 'energy' of record 5 of the split 'train'")
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
