"""A checkpoint is a plain fairchem checkpoint that runs in ASE."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from fairchem.core.datasets.lmdb_dataset import LmdbDataset

from piwsl_ocp import PIWSLCalculator
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.predictor import Predictor
from piwsl_ocp.ocp.state import cannot_save, read_checkpoint
from tests.integration.conftest import converted
from tests.integration.training import make_trainer, small_config

# Nothing of the package but its stand-ins may be loaded by this program.
OCP_PROGRAM = """
import sys
import piwsl_ocp.compat
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
import json
from ase.io import read
results = []
calculator = OCPCalculator(checkpoint_path=sys.argv[1])
for atoms in read(sys.argv[2], index=":"):
    atoms.calc = calculator
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    results.append([energy, forces.tolist()])
loaded = [name for name in sys.modules if name.startswith("piwsl_ocp.")]
print("RESULT" + json.dumps({"results": results, "loaded": loaded}))
"""


def stored_atoms(data: Path, split: str, count: int) -> list[Atoms]:
    records = LmdbDataset({"src": str(data / split / "data.lmdb")})
    structures = []
    for index in range(count):
        record = records[index]
        structures.append(
            Atoms(
                numbers=record.atomic_numbers.numpy(),
                positions=record.pos.numpy(),
                cell=record.cell.numpy()[0],
                pbc=record.pbc.numpy()[0],
            )
        )
    return structures


@pytest.mark.parametrize("name", ["ethanol", "oxide"])
def test_fairchems_calculator_gives_the_predictions(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    data = request.getfixturevalue(name)
    run = trained(data, tmp_path / "run", {"optim.max_steps": 12})
    atoms = stored_atoms(data, "test", 3)
    from ase.io import write

    write(tmp_path / "atoms.extxyz", atoms)
    checkpoint = run / "checkpoints" / "best_checkpoint.pt"
    command = [sys.executable, "-c", OCP_PROGRAM, str(checkpoint), str(tmp_path / "atoms.extxyz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.split("RESULT")[1])
    assert {module.split(".")[1] for module in answer["loaded"]} == {"compat"}

    predictions = Predictor.load(run).predict(data, "test")
    start = 0
    info = DatasetInfo.read(data)
    assert info.unit == "kcal/mol"
    for index, (energy, forces) in enumerate(answer["results"]):
        stop = start + int(predictions.natoms[index])
        assert energy == pytest.approx(predictions.energy[index], rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(
            forces, predictions.forces[start:stop], rtol=1e-5, atol=1e-5 * np.abs(forces).max()
        )
        ours = atoms[index].copy()
        ours.calc = PIWSLCalculator(run)
        reference = sum(info.references[number] for number in ours.numbers.tolist())
        to_ev = units.kcal / units.mol
        total = (energy + reference) * to_ev
        assert ours.get_potential_energy() == pytest.approx(total, rel=1e-9, abs=1e-5)
        np.testing.assert_allclose(
            ours.get_forces(), np.array(forces) * to_ev, rtol=1e-4, atol=1e-5
        )
        start = stop


def test_best_and_last_hold_the_averaged_weights(
    ethanol: Path, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    run = trained(ethanol, tmp_path / "run", {"optim.max_steps": 12})
    raw = read_checkpoint(run / "checkpoints" / "checkpoint.pt")
    last = read_checkpoint(run / "checkpoints" / "last_ema.pt")
    parameters = make_trainer(ethanol).model.named_parameters()
    trainable = [name for name, parameter in parameters if parameter.requires_grad]
    assert len(trainable) == len(raw["ema"]["shadow_params"])
    for key, shadow in zip(trainable, raw["ema"]["shadow_params"], strict=True):
        assert torch.equal(last["state_dict"][key], shadow), key
    a, b = last["state_dict"], raw["state_dict"]
    assert any(not torch.equal(a[key], b[key]) for key in trainable)
    assert raw["config"]["trainer"] == "ocp"
    assert last["config"]["piwsl"]["unit"] == "kcal/mol"


def test_the_checkpoint_of_another_model_is_refused(
    ethanol: Path, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    run = trained(ethanol, tmp_path / "run", {"optim.max_steps": 2})
    other = make_trainer(ethanol, {"model.hidden_channels": 32})
    with pytest.raises(UserError, match="does not fit PaiNN"):
        other.load_checkpoint(str(run / "checkpoints" / "checkpoint.pt"))
    other = make_trainer(ethanol, model="schnet")
    with pytest.raises(UserError, match=r"model 'painn'.*does not fit SchNetWrap"):
        other.load_checkpoint(str(run / "checkpoints" / "checkpoint.pt"))


def test_a_checkpoint_that_carries_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {}, "config": Evil()}, path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "touched").exists()


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"status": "finished"}')
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"'{path}' cannot be read as a checkpoint: it is none, is damaged, or holds more than "
        "tensors and plain values; give a run folder or its checkpoints/best_checkpoint.pt"
    )


def test_an_empty_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    path.touch()
    with pytest.raises(UserError, match=r"cannot be read as a checkpoint: \w"):
        read_checkpoint(path)
    assert "(EOFError; " in str(cannot_save(path, EOFError()))


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"state_dict": {"a": torch.zeros(1000)}, "config": {}}, path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("references", ["least_squares", "none"])
def test_an_element_that_the_model_was_not_trained_on_is_named(
    tmp_path: Path, trained: Callable[..., Path], references: str
) -> None:
    data = converted("ethanol", tmp_path / "data", references=references)
    run = trained(data, tmp_path / "run", {"optim.max_steps": 2})
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.calc = PIWSLCalculator(run)
    with pytest.raises(UserError, match=r"atomic number 12: the model was trained on \[1, 6, 8\]"):
        atoms.get_potential_energy()


def test_a_run_does_not_depend_on_the_configuration_object(ethanol: Path) -> None:
    config = small_config(ethanol)
    before = json.dumps(config, sort_keys=True)
    make_trainer(ethanol)
    assert json.dumps(config, sort_keys=True) == before
