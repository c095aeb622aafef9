"""Try everything a training needs on this machine, and say how to mend what does not work."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)
from piwsl_ocp.compat import stand_ins

import logging
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "piwsl_ocp", "fairchem-core", "torch", "torch-geometric", "numpy", "scipy", "ase", "lmdb",
    "h5py", "vesin", "e3nn", "submitit", "optuna", "wandb", "tensorboard",
)  # fmt: skip
REINSTALL = "run `make install` in a fresh clone, or `pip install .` in a new environment"


@dataclass(frozen=True)
class Check:
    """One thing to try: `run` gets an empty folder, returns what it found, raises on failure."""

    name: str
    run: Callable[[Path], str]
    remedy: str
    required: bool = True


@dataclass(frozen=True)
class Finding:
    """What came of a check: status "ok", "failed" or, for what is not required, "absent"."""

    name: str
    status: str
    detail: str
    remedy: str


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def devices() -> dict[str, str]:
    """Return what torch can compute on."""
    found = {"cpu": f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"}
    for number in range(torch.cuda.device_count()):
        found[f"cuda:{number}"] = torch.cuda.get_device_name(number)
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


def _self_check(name: str, *arguments: str, folder: bool = False) -> Callable[[Path], str]:
    """A check of the room that speaks fairchem, loaded when it is run."""

    def run(path: Path) -> str:
        from piwsl_ocp.ocp import self_check

        return getattr(self_check, name)(*arguments, *([path] if folder else []))

    return run


def _neighbour_list(folder: Path) -> str:
    import numpy as np

    from piwsl_ocp.datasets.neighbours import edges

    edge_index, _ = edges(np.zeros((1, 3)), 3.0 * np.eye(3), np.ones(3, dtype=bool), 3.1)
    if edge_index.shape[1] != 6:
        raise ValueError(f"a simple cubic lattice has 6 neighbours, found {edge_index.shape[1]}")
    return "6 neighbours in a simple cubic lattice"


def _hdf5(folder: Path) -> str:
    import h5py

    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("energies", data=[1.5, 2.5], compression="gzip")
    with h5py.File(folder / "data.h5") as file:
        if file["energies"][()].tolist() != [1.5, 2.5]:
            raise ValueError("values read back differ from those written")
    return "written and read, compressed"


def _float64(folder: Path) -> str:
    x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(x.sin() * x, x)
    error = abs(float(slope.detach() - (x.cos() * x + x.sin()).detach()))
    if error > 1e-14:
        raise ArithmeticError(f"a derivative is off by {error:.1e}")
    return f"a derivative is right to {error:.0e}"


def _denormals(folder: Path) -> str:
    before = torch.tensor([1e-40]) * 1.0 != 0
    supported = torch.set_flush_denormal(True)
    flushed = bool((torch.tensor([1e-30]) * torch.tensor([1e-10]) == 0).all())
    torch.set_flush_denormal(not bool(before))
    if not (supported and flushed):
        raise ArithmeticError("this processor does not flush denormal numbers")
    return "flushed to zero on request"


def _answer(number: int) -> tuple[int, str]:
    return number + 1, stand_ins()["torch_scatter"]


def _submitted_job(folder: Path) -> str:
    import submitit

    executor = submitit.LocalExecutor(folder=str(folder))
    executor.update_parameters(timeout_min=5)
    number, scatter = executor.submit(_answer, 41).result()
    if number != 42:
        raise ValueError(f"the job returned {number} for 42")
    return f"a job ran in a process of its own, torch_scatter there: {scatter}"


def _slurm(folder: Path) -> str:
    path = shutil.which("sbatch")
    if path is None:
        raise FileNotFoundError("sbatch is not installed")
    return path


def _wandb(folder: Path) -> str:
    import wandb

    run = wandb.init(
        mode="offline", dir=str(folder), project="doctor", settings=wandb.Settings(silent=True)
    )
    run.log({"loss": 1.0})
    run.finish()
    if not list(folder.glob("**/*.wandb")):
        raise FileNotFoundError("no log file was written")
    return "a run was logged offline"


def _disk(folder: Path) -> str:
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
        file.write(b"x" * 2**20)
        file.flush()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return f"{Path.cwd()} can be written, {free:.0f} GB free"


def _embedded_data(folder: Path) -> str:
    from piwsl_ocp.datasets.sources.embedded import FILES, FOLDER
    from piwsl_ocp.evaluation.aspirin_scan import SCAN_FILE

    shipped = [FOLDER / entry.file_name for entry in FILES.values()]
    shipped += [SCAN_FILE, FOLDER / "provenance.json"]
    missing = [path.name for path in shipped if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"missing: {', '.join(missing)}")
    return f"{len(shipped)} files"


CHECKS = (
    Check("fairchem", _self_check("import_models"), REINSTALL),
    Check("PaiNN", _self_check("training_step", "painn"), REINSTALL),
    Check("SchNet", _self_check("training_step", "schnet"), REINSTALL),
    Check("LMDB", _self_check("read_records", folder=True), "pip install --force-reinstall lmdb"),
    Check("neighbour list", _neighbour_list, "pip install --force-reinstall vesin"),
    Check("HDF5", _hdf5, "pip install --force-reinstall h5py"),
    Check("float64", _float64, "reinstall torch for this machine"),
    Check("denormals", _denormals, "training works, but more slowly on this CPU", required=False),
    Check(
        "data loader",
        _self_check("loader_worker", folder=True),
        "enlarge /dev/shm, or train with optim.num_workers=0",
    ),
    Check(
        "two processes",
        _self_check("process_group"),
        "let localhost resolve and accept connections (GLOO_SOCKET_IFNAME=lo), or use one process",
    ),
    Check("submitit", _submitted_job, "pip install --force-reinstall submitit cloudpickle"),
    Check(
        "SLURM", _slurm, "only for --submit to a cluster: run it on a login node", required=False
    ),
    Check("wandb offline", _wandb, "pip install --force-reinstall wandb, or set logger: jsonl"),
    Check("ASE", _self_check("ase_calculator", folder=True), REINSTALL),
    Check("disk", _disk, "change to a folder that you may write to, with space left"),
    Check("embedded data", _embedded_data, REINSTALL),
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and log lines of the libraries out of the report."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def attempt(check: Check) -> Finding:
    """Run one check in a temporary folder; whatever it raises becomes its finding."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _quiet():
        try:
            return Finding(check.name, "ok", check.run(Path(folder)), "")
        except Exception as error:
            kind = type(error).__name__
            lines = str(error).strip().splitlines() or [""]
    if not check.required:
        return Finding(check.name, "absent", lines[0], check.remedy)
    return Finding(check.name, "failed", f"{kind}: {lines[0]}"[:300], check.remedy)
