"""The models under contract: one line makes a model pass through the whole suite."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from fairchem.core.datasets import data_list_collater
from torch import nn
from torch_geometric.data import Batch

from piwsl_ocp.ocp.predictor import graph_data
from tests.small_models import CUTOFF_ANGSTROM, EQUIFORMER, ESCN, PAINN, SCHNET, SMALL


@dataclass(frozen=True)
class ContractModel:
    """A small model and what may be asked of it.

    Attributes:
        name: as in a configuration.
        options: of the model.
        conservative: whether its forces are the gradient of its energy.
        rotation_tolerance: of energies and forces in float64, relative to the largest force.
        covariant_forces: whether forces turn with the structure, one by one.
        activity: factor on all weight matrices: fresh networks are nearly constant and hide errors.
        unused: parameters that no loss reaches, by the beginning of their names.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    conservative: bool = False
    rotation_tolerance: float = 1e-9
    covariant_forces: bool = True
    activity: float = 1.0
    unused: tuple[str, ...] = ()

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        """Return the model with the weights of a seed, in evaluation mode."""
        setup_imports({"skip_experimental_imports": True})
        torch.manual_seed(seed)
        model = registry.get_model_class(self.name)(**deepcopy(self.options))
        with torch.no_grad():
            for weights in (p for p in model.parameters() if p.dim() > 1):
                weights *= self.activity
        return model.to(dtype).eval()


SPINCONV = "piwsl_ocp.models.spinconv.SpinConv"
SPINCONV_OPTIONS = {
    "hidden_channels": 16,
    "mid_hidden_channels": 24,
    "num_interactions": 2,
    "num_basis_functions": 16,
    "basis_width_scalar": 2.0,
    "sphere_size_lat": 6,
    "sphere_size_long": 4,
    "max_num_neighbors": 20,
    "embedding_size": 4,
    "cutoff": CUTOFF_ANGSTROM,
}
#: The first layer has scalars alone, so filters of higher order see zeros.
ESCN_UNUSED = tuple(
    f"layer_blocks.0.message_block.so2_block_{end}.so2_conv" for end in ("source", "target")
)
#: What an energy or a vector takes from the last block leaves some of its weights without use.
EQUIFORMER_UNUSED = (
    "energy_block.so3_linear_1",
    "force_block.so2_conv_2.so2_m_conv.1",
    "force_block.proj.bias",
)

MODELS: dict[str, ContractModel] = {
    "schnet-direct": ContractModel(SCHNET, {**SMALL[SCHNET], "forces": "direct"}),
    "schnet-gradient": ContractModel(SCHNET, SMALL[SCHNET], conservative=True),
    "painn-direct": ContractModel(PAINN, SMALL[PAINN]),
    "painn-gradient": ContractModel(
        PAINN, {**SMALL[PAINN], "forces": "gradient"}, conservative=True
    ),
    "escn-direct": ContractModel(
        ESCN,
        SMALL[ESCN],
        rotation_tolerance=0.2,
        activity=2.0,
        unused=ESCN_UNUSED,
    ),
    "escn-gradient": ContractModel(
        ESCN,
        {**SMALL[ESCN], "forces": "gradient"},
        conservative=True,
        rotation_tolerance=0.05,
        activity=2.0,
        unused=ESCN_UNUSED,
    ),
    "equiformer_v2-direct": ContractModel(
        EQUIFORMER,
        SMALL[EQUIFORMER],
        rotation_tolerance=0.05,
        unused=EQUIFORMER_UNUSED,
    ),
    "equiformer_v2-gradient": ContractModel(
        EQUIFORMER,
        {**SMALL[EQUIFORMER], "forces": "gradient"},
        conservative=True,
        rotation_tolerance=0.01,
        unused=EQUIFORMER_UNUSED[:1],
    ),
    "spinconv-direct": ContractModel(
        SPINCONV,
        SPINCONV_OPTIONS,
        rotation_tolerance=1e-3,
        covariant_forces=False,
        activity=2.5,
    ),
    "spinconv-gradient": ContractModel(
        SPINCONV,
        {**SPINCONV_OPTIONS, "force_estimator": "grad"},
        conservative=True,
        rotation_tolerance=1e-3,
        activity=2.5,
    ),
}
for name in ("escn", "equiformer_v2"):  # edge frames held fast
    exact = MODELS[f"{name}-gradient"]
    MODELS[f"{name}-gradient_detached"] = replace(
        exact, options={**exact.options, "forces": "gradient_detached"}, conservative=False
    )


def rattled(atoms: Atoms, seed: int = 0, size_angstrom: float = 0.08) -> Atoms:
    """Return a copy with random displacements."""
    moved = atoms.copy()
    generator = np.random.default_rng(seed)
    moved.positions += size_angstrom * generator.normal(size=moved.positions.shape)
    return moved


def molecules() -> list[Atoms]:
    """Return molecules of different size and composition."""
    return [rattled(molecule(name), seed) for seed, name in enumerate(("CH3CH2OH", "H2O", "NH3"))]


def crystals() -> list[Atoms]:
    """Return a rattled rock salt cell, and its primitive cell, smaller than the cutoff."""
    cubic = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True), seed=4)
    return [cubic, rattled(bulk("MgO", "rocksalt", a=4.21), seed=5)]


STRUCTURES = {"molecules": molecules, "crystals": crystals}


def batch_of(
    structures: list[Atoms],
    model: nn.Module,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Batch:
    """Return structures as one batch with the model's graph, in a dtype."""
    records = [
        graph_data(atoms, number, model.cutoff, model.max_neighbors, dtype)
        for number, atoms in enumerate(structures)
    ]
    return data_list_collater(records, otf_graph=False).to(device)
