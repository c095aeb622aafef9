"""Small runs of fairchem that show whether it works on this machine.

Each check returns one line on what it found, and raises when something does not work.
"""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)
from piwsl_ocp.compat import stand_ins

import contextlib
import importlib
import io
import pickle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from ase.build import molecule
from fairchem.core.common.registry import registry
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.common.utils import setup_imports
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from fairchem.core.preprocessing import AtomsToGraphs
from torch_geometric.data import Batch, Data

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.processes import run_ranks

#: Models small enough to be built and run in a fraction of a second.
SMALL_MODELS: dict[str, dict[str, Any]] = {
    "painn": {"hidden_channels": 16, "num_layers": 2, "num_rbf": 8, "max_neighbors": 20},
    "schnet": {
        "hidden_channels": 16, "num_filters": 16, "num_interactions": 2, "num_gaussians": 8,
    },
}  # fmt: skip
CUTOFF_ANGSTROM = 5.0

_FULL_MODELS = ("gemnet_oc.gemnet_oc", "escn.escn", "equiformer_v2.equiformer_v2")
_LABELS = {"energy": {"level": "system"}, "forces": {"level": "atom"}}


def ethanol() -> Data:
    """Return one molecule as a record without edges."""
    atoms = molecule("CH3CH2OH")
    data = AtomsToGraphs(r_edges=False, r_pbc=True).convert(atoms)
    data.tags = torch.zeros(len(atoms), dtype=torch.long)
    data.sid = 0
    return data


def model_settings(name: str) -> dict[str, Any]:
    """Return the settings of a small model that builds its own graph of molecules."""
    graph = {"cutoff": CUTOFF_ANGSTROM, "use_pbc": False, "otf_graph": True}
    return {"name": name, "regress_forces": True, **graph, **SMALL_MODELS[name]}


def build_model(name: str) -> torch.nn.Module:
    """Build a small fairchem model from its registered name."""
    setup_imports()
    settings = model_settings(name)
    return registry.get_model_class(settings.pop("name"))(**settings)


def import_models() -> str:
    """Import fairchem's models, those that need compiled packages among them."""
    for name in _FULL_MODELS:
        importlib.import_module(f"fairchem.core.models.{name}")
    setup_imports()
    standing_in = [name for name, kind in stand_ins().items() if kind.startswith("stand-in")]
    return f"all models import; standing in: {', '.join(standing_in) or 'nothing'}"


def training_step(name: str) -> str:
    """Forward and backward of energy and forces; every gradient must be finite."""
    torch.manual_seed(0)
    model = build_model(name)
    output = model(Batch.from_data_list([ethanol(), ethanol()]))
    loss = output["energy"].square().mean() + output["forces"].square().mean()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients or not all(bool(g.isfinite().all()) for g in gradients):
        raise ArithmeticError(f"the gradient of {name} is not finite")
    count = sum(p.numel() for p in model.parameters())
    return f"forward and backward, {count} parameters"


def write_records(path: Path, count: int) -> Path:
    """Write an LMDB of `count` molecules as fairchem reads it, with the sizes beside it."""
    record = ethanol()
    environment = lmdb.open(str(path), subdir=False, map_size=2**26, meminit=False)
    with environment, environment.begin(write=True) as transaction:
        for number in range(count):
            transaction.put(str(number).encode(), pickle.dumps(record))
        transaction.put(b"length", pickle.dumps(count))
    np.savez(path.parent / "metadata.npz", natoms=np.full(count, int(record.natoms)))
    return path


def read_records(folder: Path) -> str:
    """Write an LMDB and read it with fairchem's own data set."""
    dataset = LmdbDataset({"src": str(write_records(folder / "data.lmdb", 3))})
    atoms = [int(dataset[number].natoms) for number in range(len(dataset))]
    if atoms != [9, 9, 9]:
        raise ValueError(f"3 molecules of 9 atoms were written, {atoms} read")
    return "3 records written and read"


def loader_worker(folder: Path) -> str:
    """Read fairchem's own data set in a worker of a data loader."""
    path = write_records(folder / "data.lmdb", 4)
    loader = torch.utils.data.DataLoader(
        LmdbDataset({"src": str(path)}),
        batch_size=2,
        num_workers=1,
        multiprocessing_context="fork",
        collate_fn=Batch.from_data_list,
    )
    sizes = [int(batch.natoms.sum()) for batch in loader]
    if sizes != [18, 18]:
        raise ValueError(f"2 batches of 18 atoms were expected, {sizes} came")
    return f"{len(sizes)} batches through a worker"


def process_group() -> str:
    """Let two ranks add up their numbers, in processes as a training has them."""
    run_ranks(_add_ranks, 3.0, 2)
    return "2 processes agree"


def _add_ranks(expected: float) -> None:
    try:
        torch.distributed.init_process_group("gloo")
        total = torch.tensor(torch.distributed.get_rank() + 1.0)
        torch.distributed.all_reduce(total)
        torch.distributed.destroy_process_group()
    except RuntimeError as error:
        raise UserError(str(error)) from error
    if float(total) != expected:
        raise UserError(f"the ranks 1 and 2 add up to {float(total)}")


def save_checkpoint(path: Path, name: str) -> Path:
    """Write an untrained model as a checkpoint that fairchem's calculator loads."""
    torch.manual_seed(0)
    settings = model_settings(name)
    config = {
        "trainer": "ocp",
        "model": settings,
        "dataset": {"src": "none", "format": "lmdb"},
        "outputs": _LABELS,
        "loss_functions": [{"energy": {"fn": "mae"}}, {"forces": {"fn": "l2mae"}}],
        "evaluation_metrics": {"metrics": {"energy": ["mae"]}},
        "optim": {"batch_size": 1, "eval_batch_size": 1, "num_workers": 0, "lr_initial": 0.001},
        "task": {},
        "cmd": {"seed": 0},
    }
    state = {"epoch": 0, "step": 0, "config": config, "normalizers": {}, "elementrefs": {}}
    torch.save({**state, "state_dict": build_model(name).state_dict()}, path)
    return path


def ase_calculator(folder: Path) -> str:
    """Energy and forces of a molecule through fairchem's ASE calculator."""
    atoms = molecule("CH3CH2OH")
    path = save_checkpoint(folder / "model.pt", "painn")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its configuration
        atoms.calc = OCPCalculator(checkpoint_path=path)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    if not np.isfinite(energy) or forces.shape != (len(atoms), 3):
        raise ValueError(f"energy {energy} and forces of shape {forces.shape}")
    return "OCPCalculator gives energy and forces"
