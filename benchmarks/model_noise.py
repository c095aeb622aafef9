"""Noise of a model's energies between passes and copies, and the errors of its symmetries.

    python benchmarks/model_noise.py configs/models/equiformer_v2_cpu.yml

Every variant of a model has the same fresh weights and sees the same
rattled aspirin molecule: fairchem's own class, and each kind of edge frame of this package. Energy
differences are given beside the work |F.d| of a displacement, with F the gradient of the energy.
"""

from __future__ import annotations

import piwsl_ocp.compat  # (before fairchem)

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from ase import Atoms
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from fairchem.core.datasets import data_list_collater
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation
from torch_geometric.data import Batch

import piwsl_ocp.datasets
from piwsl_ocp.models.edge_frames import FRAMES
from piwsl_ocp.ocp.config import load_config, parse_override
from piwsl_ocp.ocp.copies import concatenate_copies, with_positions
from piwsl_ocp.ocp.predictor import graph_data

ASPIRIN = Path(piwsl_ocp.datasets.__file__).parent / "embedded" / "aspirin.npz"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let fairchem's classes, which need it, compute in one type throughout."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def variants(options: dict[str, Any], gain: float) -> dict[str, torch.nn.Module]:
    """Return the models of a configuration by name, all with the same weights."""
    setup_imports({"skip_experimental_imports": True})
    options = dict(options)
    kind = registry.get_model_class(options.pop("name"))
    if not kind.__module__.startswith("piwsl_ocp"):
        return {"fairchem": kind(**options)}
    options.pop("forces", None)
    own = {"ours": {}} if not hasattr(kind, "one_pass") else {f: {"frames": f} for f in FRAMES}
    models = {name: kind(**options, **more, forces="gradient") for name, more in own.items()}
    stock = next(c for c in kind.__mro__ if c.__module__.startswith("fairchem"))
    models["fairchem"] = stock(**options)
    first = next(iter(models.values()))
    for parameter in first.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            parameter.data.mul_(gain)
    for model in models.values():
        model.load_state_dict(first.state_dict(), strict=False)
    return models


def rattled_aspirin(model: torch.nn.Module, seed: int) -> Batch:
    """Return an aspirin molecule with a model's edges, rattled by 0.05 Angstrom a coordinate."""
    with np.load(ASPIRIN) as file:
        atoms = Atoms(file["nuclear_charges"], file["coords"][0])
    atoms.rattle(0.05, seed=seed)
    record = graph_data(atoms, 0, model.cutoff, model.max_neighbors)
    record.pos = record.pos.to(torch.get_default_dtype())
    return data_list_collater([record], otf_graph=False)


def energies(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the energies of a batch whose structures share the draws of one pass."""
    batch.noise_key = torch.randint(2**62, (1,)).expand(batch.natoms.numel())
    return model(batch)["energy"].detach().reshape(-1)


def displacements(batch: Batch, length: float, count: int) -> list[torch.Tensor]:
    """Return random displacements of the same length for every atom."""
    moves = torch.randn(count, *batch.pos.shape, dtype=batch.pos.dtype)
    return list(length * moves / moves.norm(dim=2, keepdim=True))


def noise_row(
    model: torch.nn.Module, batch: Batch, forces: torch.Tensor, length: float, passes: int
) -> list[float]:
    """Return spread over passes, |dE| without displacement, |dE|, and |dE + F.d| (root mean)."""
    spread = torch.stack([energies(model, concatenate_copies(batch, []))[0] for _ in range(passes)])
    still, moved, residual = [], [], []
    for move in displacements(batch, length, passes):
        e = energies(model, concatenate_copies(batch, [0 * move]))
        still.append(e[1] - e[0])
        e = energies(model, concatenate_copies(batch, [move]))
        moved.append(e[1] - e[0])
        residual.append(e[1] - e[0] + (forces * move).sum())
    return [float(spread.std()), *(float(root_mean(v)) for v in (still, moved, residual))]


def root_mean(values: list[torch.Tensor]) -> torch.Tensor:
    """Return the root of the mean of squares."""
    return torch.stack(values).square().mean().sqrt()


def symmetry_row(model: torch.nn.Module, batch: Batch, work: float, seed: int) -> list[float]:
    """Return errors of energy (by `work`) and forces (by their size) under three changes."""
    before = model(batch)
    forces = before["forces"].detach()
    matrix = torch.tensor(Rotation.random(random_state=seed).as_matrix()).to(forces)
    order = torch.randperm(len(forces))
    permuted = with_positions(batch, batch.pos[order])
    permuted.atomic_numbers = batch.atomic_numbers[order]
    permuted.edge_index = order.argsort()[batch.edge_index]
    changes = [
        (with_positions(batch, batch.pos @ matrix.T), forces @ matrix.T),
        (with_positions(batch, batch.pos + 1.7), forces),
        (permuted, forces[order]),
    ]
    row = []
    for changed, expected in changes:
        after = model(changed)
        row.append(float((after["energy"] - before["energy"]).detach().abs().max()) / work)
        row.append(float((after["forces"].detach() - expected).norm() / forces.norm()))
    return row


def work_of(model: torch.nn.Module, batch: Batch, length: float) -> float:
    """Return the root mean square of F.d over random displacements of every atom."""
    forces = model.eval()(batch)["forces"].detach()
    return float(root_mean([(forces * d).sum() for d in displacements(batch, length, 1000)]))


def print_noise(
    options: dict[str, Any], gain: float, length: float, passes: int, seed: int
) -> None:
    """Print the noise of every variant in training and in evaluation, in double precision."""
    models = variants(options, gain)
    reference = next(iter(models.values()))
    batch = rattled_aspirin(reference, seed)
    work, forces = work_of(reference, batch, length), reference(batch)["forces"].detach()
    table = Table(title=f"noise by |F.d| = {work:.3g}, d of {length} Angstrom per atom, float64")
    headings = ("E over passes", "dE, d = 0", "dE", "dE + F.d")
    for heading in ("variant", "mode", *headings):
        table.add_column(heading, justify="left" if heading in ("variant", "mode") else "right")
    for name, model in models.items():
        for mode in ("train", "eval"):
            torch.manual_seed(seed)
            row = noise_row(model.train(mode == "train"), batch, forces, length, passes)
            table.add_row(name, mode, *(f"{value / work:.2e}" for value in row))
    Console().print(table)


def print_symmetries(options: dict[str, Any], gain: float, length: float, seed: int) -> None:
    """Print the errors of the symmetries of every variant in evaluation."""
    table = Table(title="errors of symmetries: E by |F.d|, F by its size", padding=0)
    changes = [f"{change} {v}" for change in ("turn", "shift", "order") for v in "EF"]
    for heading in ("variant", "type", *changes):
        justify = "left" if heading in ("variant", "type") else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for dtype in (torch.float64, torch.float32):
        with default_dtype(dtype):
            models = variants(options, gain)
            reference = next(iter(models.values()))
            batch = rattled_aspirin(reference, seed)
            work = work_of(reference, batch, length)
            for name, model in models.items():
                row = symmetry_row(model.eval(), batch, work, seed)
                table.add_row(name, str(dtype)[6:], *(f"{value:.1e}" for value in row))
    Console().print(table)


def main(
    configuration: Annotated[str, typer.Argument(help="Configuration with a `model` section.")],
    passes: Annotated[int, typer.Option(help="Repeated passes.")] = 20,
    length: Annotated[float, typer.Option(help="Displacement of each atom, Angstrom.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of weights, structure and draws.")] = 0,
    gain: Annotated[
        float, typer.Option(help="Factor on fresh weights: above 1, activations are not linear.")
    ] = 1.0,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="An option, as model.num_layers=2.")
    ] = None,
) -> None:
    """Print the noise and the errors of symmetries of a model, beside fairchem's own class."""
    logging.disable(logging.WARNING)
    torch.manual_seed(seed)
    options = load_config(configuration, dict(parse_override(o) for o in override or []))["model"]
    with default_dtype(torch.float64):
        print_noise(options, gain, length, passes, seed)
    print_symmetries(options, gain, length, seed)


if __name__ == "__main__":
    typer.run(main)
