"""The models of the project and fairchem's own, small, with weights far from linear behaviour."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import copy
from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from fairchem.core.common.registry import registry
from fairchem.core.datasets import data_list_collater
from torch_geometric.data import Batch

from piwsl_ocp.ocp.predictor import graph_data

CUTOFF_ANGSTROM = 4.0

#: Options of each model, by its name in a configuration.
SMALL: dict[str, dict[str, Any]] = {
    "piwsl_ocp.models.painn.PaiNN": {
        "hidden_channels": 16,
        "num_layers": 2,
        "num_rbf": 16,
        "cutoff": CUTOFF_ANGSTROM,
        "otf_graph": False,
    },
    "piwsl_ocp.models.schnet.SchNet": {
        "hidden_channels": 16,
        "num_filters": 16,
        "num_interactions": 2,
        "num_gaussians": 16,
        "cutoff": CUTOFF_ANGSTROM,
    },
    "piwsl_ocp.models.escn.ESCN": {
        "num_layers": 2,
        "lmax_list": [2],
        "mmax_list": [1],
        "sphere_channels": 16,
        "hidden_channels": 16,
        "edge_channels": 16,
        "num_sphere_samples": 16,
        "distance_resolution": 0.2,
        "cutoff": CUTOFF_ANGSTROM,
    },
    "piwsl_ocp.models.equiformer_v2.EquiformerV2": {
        "num_layers": 2,
        "lmax_list": [2],
        "mmax_list": [1],
        "grid_resolution": 6,
        "sphere_channels": 16,
        "attn_hidden_channels": 16,
        "num_heads": 2,
        "attn_alpha_channels": 8,
        "attn_value_channels": 8,
        "ffn_hidden_channels": 16,
        "edge_channels": 16,
        "max_radius": CUTOFF_ANGSTROM,
        "otf_graph": False,
    },
}
PAINN, SCHNET, ESCN, EQUIFORMER = SMALL
#: fairchem's own name of each model.
STOCK = {PAINN: "painn", SCHNET: "schnet", ESCN: "escn", EQUIFORMER: "equiformer_v2"}
#: Factor on fresh weights: with those of eSCN and EquiformerV2 as they are, activations are so
#: close to linear that the angle of a frame makes no difference.
GAIN = {PAINN: 1.0, SCHNET: 1.0, ESCN: 3.0, EQUIFORMER: 2.0}


def small_model(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> torch.nn.Module:
    """Return a model in evaluation mode; the same weights at every call."""
    torch.manual_seed(0)
    gain = GAIN.get(name, 1.0)
    model = registry.get_model_class(name)(**{**SMALL[name], **options})
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            parameter.data.mul_(gain)
    return model.to(dtype).eval()


def stock_model(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> torch.nn.Module:
    """Return fairchem's own class of a model with the options of ours."""
    return registry.get_model_class(STOCK[name])(**{**SMALL[name], **options}).to(dtype).eval()


def batch_of(
    structures: Sequence[Atoms],
    dtype: torch.dtype = torch.float64,
    max_neighbors: int = 50,
    keys: Sequence[int] | None = None,
) -> Batch:
    """Return structures with their edges, positions as exact as given."""
    records = []
    for number, atoms in enumerate(structures):
        records.append(graph_data(atoms, number, CUTOFF_ANGSTROM, max_neighbors, dtype))
    batch = data_list_collater(records, otf_graph=False)
    if keys is not None:
        batch.noise_key = torch.tensor(keys)
    return batch


def moved(batch: Batch, displacement: torch.Tensor) -> Batch:
    """Return the batch with the same edges at displaced positions."""
    result = copy.copy(batch)
    result.pos = batch.pos + displacement
    return result
