"""The ways into a training, as a user types them."""

from __future__ import annotations

from piwsl_ocp.compat import stand_ins

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from ase.io import read

from piwsl_ocp.cli import main
from piwsl_ocp.ocp.run import Runner
from tests.integration.training import small_config

ROOT = Path(__file__).resolve().parents[2]


def call(
    arguments: Sequence[str | Path], folder: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and check its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture
def config(ethanol: Path, tmp_path: Path) -> Path:
    settings = small_config(ethanol, {"optim.max_steps": 6, "optim.eval_every": 3})
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


def fairchem_checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("*/best_checkpoint.pt"))


def test_main_trains_by_default_and_every_run_gets_its_own_folder(
    config: Path, tmp_path: Path
) -> None:
    command = [sys.executable, ROOT / "main.py", "--config-yml", config, "--cpu", "--seed", "1"]
    call(command, tmp_path)
    call([*command, "--mode", "train"], tmp_path)
    first, second = fairchem_checkpoints(tmp_path)
    assert first.parent != second.parent
    a, b = (torch.load(path, weights_only=True)["state_dict"] for path in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_fairchems_command_line_behind_the_stand_ins(config: Path, tmp_path: Path) -> None:
    piwsl = [sys.executable, "-m", "piwsl_ocp", "fairchem"]
    call([*piwsl, "--mode", "train", "--config-yml", config], tmp_path)  # without --cpu
    (checkpoint,) = fairchem_checkpoints(tmp_path)
    predict = ["--mode", "predict", "--config-yml", config, "--checkpoint", checkpoint]
    call([*piwsl, *predict], tmp_path)
    assert list((tmp_path / "results").glob("*/ocp_predictions.npz"))
    assert "kcal/mol" in call([*piwsl[:-1], "validate", checkpoint], tmp_path).stdout


def test_two_processes_by_fairchems_command_line(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "main.py", "--config-yml", config, "--cpu"]
    call([*command, "--num-gpus", "2"], tmp_path)
    assert len(fairchem_checkpoints(tmp_path)) == 1


def test_the_stock_command_line_with_the_same_file(config: Path, tmp_path: Path) -> None:
    if not all(stand_ins()[name].startswith("real") for name in ("torch_scatter", "torch_sparse")):
        pytest.skip("the compiled torch_scatter and torch_sparse are not installed")
    stock = [sys.executable, "-m", "fairchem.core._cli", "--mode", "train", "--cpu"]
    call([*stock, "--config-yml", config], tmp_path)
    assert len(fairchem_checkpoints(tmp_path)) == 1


def test_train_validate_predict(config: Path, ethanol: Path, tmp_path: Path) -> None:
    piwsl = [sys.executable, "-m", "piwsl_ocp"]
    run = tmp_path / "run"
    call([*piwsl, "train", config, "--run-folder", run, "--set", "optim.max_steps=4"], tmp_path)
    assert yaml.safe_load((run / "config.yml").read_text())["optim"]["max_steps"] == 4
    shown = call([*piwsl, "validate", run, "--split", "test"], tmp_path).stdout
    assert "kcal/mol" in shown
    assert (run / "results" / "test.json").is_file()
    structures = tmp_path / "water@2.xyz"
    structures.write_text("3\n\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n" * 2)
    predict = [*piwsl, "predict", run, structures, "--out", tmp_path / "out.extxyz"]
    call(predict, tmp_path)
    images = read(tmp_path / "out.extxyz", index=":")
    assert len(images) == 2
    assert images[0].get_potential_energy() < -10.0
    again = call(predict, tmp_path, code=2)
    assert again.stderr.startswith("error: ")
    assert "--overwrite" in again.stderr
    bracketed = tmp_path / "out[/a].extxyz"
    assert (
        f"2 structures predicted: {bracketed}" in call([*predict[:-1], bracketed], tmp_path).stdout
    )
    positions = "nan 0 0\nH 0 0 0.96\n"
    (tmp_path / "nan.xyz").write_text(f"2\n\nH 0 0 0\nH 0 0 0.7\n2\n\nO {positions}")
    odd = call([*predict[:-3], tmp_path / "nan.xyz", "--out", "nan.extxyz"], tmp_path, code=2)
    assert "structure 1 of" in odd.stderr and "are not finite numbers" in odd.stderr
    assert odd.stderr.count("error:") == 1 and "Traceback" not in odd.stderr
    assert not (tmp_path / "nan.extxyz").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nowhere.yml"], "no configuration at 'nowhere.yml'"),
        (["train", "{config}", "--set", "optim.batch_sise=4"], "did you mean 'batch_size'?"),
        (["train", "{config}", "--set", "model.cutoff=0"], "model.cutoff: found 0"),
        (["train", "{config}", "--set", "dataset.train.src=no.lmdb"], "no file 'no.lmdb'"),
        (["train", "{config}", "--set", "steps"], "expected key=value"),
        (["train", "{config}", "--set", "model=[painn"], "the value is no YAML"),
        (["train", "{config}", "--set", "model=painn"], "model: found 'painn', expected a mapping"),
        (["train", "{config}", "--set", "optim.lr_initial=1e-4"], "YAML takes 1e-4 for text"),
        (["train", "{config}", "--set", "optim.num_workers=two"], "optim.num_workers: found 'two'"),
        (["train", "{config}", "--set", "dataset.trian.src=x"], "did you mean 'train'?"),
        (
            ["train", "{config}", "--set", "loss_functions=[{energy: {fn: maee, coefficient: 1}}]"],
            "did you mean 'mae'?",
        ),
        (["train", "{config}", "--set", "model.otf_graph=true"], "set model.otf_graph: false"),
        (["train", "{config}", "--set", "amp=true"], "set amp: false,"),
        (["train", "{config}", "--set", "seed=-1"], "seed: found -1"),
        (["train", "{config}", "--amp"], "set amp: false, or optim.piwsl.allow_amp: true"),
        (["resume", "nowhere"], "'nowhere' is no run folder"),
        (["validate", "nowhere"], "no checkpoint at 'nowhere'"),
        (["predict", "nowhere", "a.xyz", "--out", "b.xyz"], "no file 'a.xyz'"),
    ],
)
def test_a_mistake_ends_in_one_line(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [argument.replace("{config}", str(config)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["piwsl", *filled])
    assert main() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty or holds no keys"),
        (b"# nothing\n", "is empty or holds no keys"),
        (b"includes: [empty.yml]\n", "is empty or holds no keys"),
        (b"\x90\xff\x00", "cannot be read: "),
        (b"- optim\n", "cannot be read: "),
    ],
)
@pytest.mark.parametrize("command", [["train"], ["fairchem", "--mode", "train", "--config-yml"]])
def test_a_configuration_that_is_none_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    content: bytes,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.yml").touch()
    Path("odd.yml").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["piwsl", *command, "odd.yml"])
    assert main() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: configuration 'odd.yml' ") and said in line


def test_a_training_data_file_that_is_cut_off_is_named(
    config: Path, ethanol: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "train"
    broken.mkdir(parents=True)
    whole = (ethanol / "train" / "data.lmdb").read_bytes()
    (broken / "data.lmdb").write_bytes(whole[:4096])
    source = f"dataset.train.src={broken / 'data.lmdb'}"
    command = [sys.executable, "-m", "piwsl_ocp", "train", config, "--set", source]
    done = call(command, tmp_path, code=2)
    assert str(broken / "data.lmdb") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_unpickles_a_runner_of_this_package() -> None:
    assert b"piwsl_ocp.ocp.run" in pickle.dumps(Runner())
