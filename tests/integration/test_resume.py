"""An interrupted training goes on to the identical result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch_geometric.data import Batch
from typer.testing import CliRunner

from piwsl_ocp.cli import build
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp import interruption, run
from piwsl_ocp.ocp.config import fairchem_config
from piwsl_ocp.ocp.interruption import TrainingInterrupted
from piwsl_ocp.ocp.ranks import Ranks
from piwsl_ocp.ocp.run_lock import RunFolderBusy, is_locked, only_process
from piwsl_ocp.ocp.run_status import earlier_code, read_status
from piwsl_ocp.ocp.state import read_checkpoint
from piwsl_ocp.ocp.trainer import PIWSLTrainer
from tests.integration.training import small_config

OPTIONS = {"optim.piwsl.terms": {"pitc": 1.2, "pisc": 0.01}, "optim.max_steps": 20}


def weights(folder: Path, name: str = "last_ema.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]


def check_equal(whole: Path, parts: Path) -> None:
    for name in ("last_ema.pt", "best_checkpoint.pt", "checkpoint.pt"):
        expected, found = weights(whole, name), weights(parts, name)
        assert expected.keys() == found.keys()
        for key in expected:
            assert torch.equal(expected[key], found[key]), (name, key)


def interrupt_before(step: int, patch: pytest.MonkeyPatch) -> None:
    """Ask trainings to stop before a step."""
    between_steps = PIWSLTrainer._between_steps

    def interrupt(self: PIWSLTrainer) -> None:
        self.stop_request.asked = self.step == step
        between_steps(self)

    patch.setattr(PIWSLTrainer, "_between_steps", interrupt)


def test_a_training_leaves_its_address_and_port_to_nobody(
    ethanol: Path, tmp_path: Path, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are started later must not take its address and port for theirs."""
    monkeypatch.setenv("MASTER_PORT", "1234")
    for name in ("MASTER_ADDR", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    trained(ethanol, tmp_path / "run", {"optim.max_steps": 1})
    assert os.environ["MASTER_PORT"] == "1234"
    assert not {"MASTER_ADDR", "RANK", "LOCAL_RANK"} & os.environ.keys()


@pytest.mark.parametrize(("stop", "workers"), [(6, 0), (7, 0), (11, 0), (8, 1), (11, 1)])
def test_a_resumed_training_equals_an_uninterrupted_one(
    ethanol: Path,
    tmp_path: Path,
    trained: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
    workers: int,
) -> None:
    options = {**OPTIONS, "optim.num_workers": workers}
    whole = trained(ethanol, tmp_path / "whole", options)
    with monkeypatch.context() as patch:
        interrupt_before(stop, patch)
        with pytest.raises(TrainingInterrupted):
            trained(ethanol, tmp_path / "parts", options)
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["status"] == "interrupted"
    run.train({}, tmp_path / "parts", resume=True)
    check_equal(whole, tmp_path / "parts")
    for folder in (whole, tmp_path / "parts"):
        command = json.loads((folder / "run.json").read_text())["command"]
        assert command == f"piwsl train {folder / 'config.yml'}"


@pytest.mark.parametrize("stop", [3, 7, 13])
def test_a_training_that_died_goes_on_from_its_last_checkpoint(
    ethanol: Path,
    tmp_path: Path,
    trained: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    whole = trained(ethanol, tmp_path / "whole", OPTIONS)
    forward = PIWSLTrainer._forward

    def die(self: PIWSLTrainer, batch: Batch) -> dict:
        outputs = forward(self, batch)
        if self.model.training and self.step == stop:
            raise ConnectionAbortedError
        return outputs

    with monkeypatch.context() as patch:
        patch.setattr(PIWSLTrainer, "_forward", die)
        with pytest.raises(ConnectionAbortedError):
            trained(ethanol, tmp_path / "parts", OPTIONS)
    saved = tmp_path / "parts" / "checkpoints" / "checkpoint.pt"
    assert saved.is_file() == (stop > 6)
    if stop > 6:
        assert torch.load(saved, weights_only=True)["step"] == stop - stop % 6
    run.train({}, tmp_path / "parts", resume=True)
    check_equal(whole, tmp_path / "parts")


def test_a_signal_after_the_last_step_changes_nothing(
    ethanol: Path, tmp_path: Path, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(ethanol, tmp_path / "whole", OPTIONS)
    finish = PIWSLTrainer._finish

    def interrupted(self: PIWSLTrainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        finish(self)

    monkeypatch.setattr(interruption, "received", [])
    monkeypatch.setattr(PIWSLTrainer, "_finish", interrupted)
    folder = trained(ethanol, tmp_path / "signalled", OPTIONS)
    assert interruption.received == [signal.SIGINT]
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    check_equal(whole, folder)


def test_only_one_process_works_in_a_run_folder(ethanol: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom piwsl_ocp.ocp.run_lock import only_process\n"
        f"with only_process({str(tmp_path / 'run')!r}):\n    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert is_locked(tmp_path / "run")
        with pytest.raises(RunFolderBusy, match=r"^another process works in the run folder"):
            run.train(small_config(ethanol), tmp_path / "run")
        process.kill()
    assert not is_locked(tmp_path / "run")
    with only_process(tmp_path / "run"), only_process(tmp_path / "run"):
        assert is_locked(tmp_path / "run")


def test_ctrl_c_saves_and_says_how_to_go_on(ethanol: Path, tmp_path: Path) -> None:
    config = tmp_path / "long.yml"
    settings = small_config(ethanol, {**OPTIONS, "optim.max_steps": 100_000})
    config.write_text(yaml.safe_dump(settings))
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "piwsl_ocp", "train", str(config), "--run-folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        metrics = folder / "logs" / "piwsl" / "metrics.jsonl"
        while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    assert process.returncode == 130, error
    assert f"piwsl resume {folder}" in error
    assert "Traceback" not in error + out
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    checkpoint = torch.load(folder / "checkpoints" / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] > 0


def test_a_used_folder_is_not_trained_in_again(
    ethanol: Path, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    folder = trained(ethanol, tmp_path / "run", {"optim.max_steps": 2})
    with pytest.raises(UserError, match=r"is not empty: .* go on with `piwsl resume .*run`"):
        trained(ethanol, folder, {"optim.max_steps": 2})
    with pytest.raises(UserError, match="finished"):
        run.train({}, folder, resume=True)
    with pytest.raises(UserError, match="no run folder"):
        run.train({}, tmp_path / "nowhere", resume=True)


def test_another_number_of_processes_is_refused(ethanol: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump({**small_config(ethanol), "world_size": 2}))
    (tmp_path / run.CHECKPOINT_FILE).parent.mkdir()
    (tmp_path / run.CHECKPOINT_FILE).touch()
    for arguments in ({"processes": 1}, {"ranks": Ranks(0, 3)}):
        with pytest.raises(UserError, match=r"was trained by 2 processes and would go on with"):
            run.train({}, tmp_path, resume=True, **arguments)


def test_before_the_first_checkpoint_any_number_of_processes_will_do(
    ethanol: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yml"
    settings = small_config(ethanol, {"optim.max_steps": 2, "optim.eval_every": 2})
    config.write_text(yaml.safe_dump({**settings, "world_size": 2}))
    run.train({}, tmp_path, resume=True, processes=1)
    assert yaml.safe_load(config.read_text())["world_size"] == 1


def test_a_run_tells_the_other_code_that_its_first_steps_were_done_with(
    ethanol: Path,
    tmp_path: Path,
    trained: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    now = run.code_version()
    other = {**now, "commit": "abc"}
    with monkeypatch.context() as patch:
        interrupt_before(8, patch)
        patch.setattr(run, "code_version", lambda: other)
        with pytest.raises(TrainingInterrupted):
            trained(ethanol, folder, {"optim.max_steps": 9})
    assert "earlier" not in read_status(folder)
    shown = CliRunner().invoke(build(), ["resume", str(folder)], catch_exceptions=False).stdout
    assert (
        f"note: other code than before, the result may differ: commit abc, now {now['commit']}"
        in (shown)
    )
    status = read_status(folder)
    assert status["code"] == now
    assert status["earlier"] == [{"code": other, "until_step": 7}]
    assert earlier_code(folder, other, 7) == status["earlier"]
    assert earlier_code(folder, other, 9)[1:] == [{"code": now, "until_step": 9}]


def test_a_preempted_job_saves_in_the_midst_of_a_step_and_goes_on_with_this_packages_runner(
    ethanol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, left = run.Runner(), []
    settings = {"run_dir": str(tmp_path), "timestamp_id": ""}
    config = fairchem_config(small_config(ethanol), **settings)
    before = runner.checkpoint(config)
    assert type(before.function) is run.Runner
    assert before.args == (config,)
    forward = PIWSLTrainer._forward

    def preempted(self: PIWSLTrainer, batch: Batch) -> dict:
        outputs = forward(self, batch)
        if self.step == 5:
            left.append(runner.checkpoint(config))
            raise ConnectionAbortedError
        return outputs

    monkeypatch.setattr(PIWSLTrainer, "_forward", preempted)
    with run._only_rank(), pytest.raises(ConnectionAbortedError):
        runner(config)
    (submission,) = left
    assert type(submission.function) is run.Runner
    assert read_checkpoint(submission.args[0]["checkpoint"])["step"] == 5
