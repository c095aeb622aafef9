"""The data set that a training loader reads: LMDB records with their edges attached once."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import os
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np
import torch
from fairchem.core.common.registry import registry
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from torch_geometric.data import Data

from piwsl_ocp.datasets.lmdb import LmdbReader
from piwsl_ocp.datasets.neighbours import edges
from piwsl_ocp.errors import UserError

#: The format of a data set of this package, as configurations name it.
OWN_FORMAT = "piwsl_ocp.ocp.dataset.GraphLmdbDataset"

#: Structures whose edges are kept in memory; beyond it edges are built again in every epoch.
MAX_CACHED_ATOMS = 400_000

#: Open files of this process, by process number and path, for as long as somebody uses them.
_OPEN: WeakValueDictionary[tuple[int, str], lmdb.Environment] = WeakValueDictionary()


def graph_settings(model: torch.nn.Module) -> dict[str, Any]:
    """Return the section `graph` of a data set for a fairchem model."""
    return {
        "cutoff_angstrom": model.cutoff,
        "max_neighbors": model.max_neighbors,
        "needs_edges": type(model) is registry.get_model_class("painn"),
    }


def check_edges(data: Data, model: torch.nn.Module, where: str) -> None:
    """Refuse a record without edges where the model should build none.

    fairchem would build them anew in every pass, for each displaced copy those of its own.

    Args:
        data: the record.
        model: a fairchem model with `otf_graph` false.
        where: what holds the record, for the message.

    Raises:
        UserError: if it lacks what fairchem takes edges from.
    """
    needed = ("edge_index", "cell_offsets") if model.use_pbc else ("edge_index",)
    missing = [name for name in needed if name not in data]
    if missing:
        raise UserError(
            f"{where}: its records hold no {missing[0]}, which model.otf_graph: false needs: leave "
            f"the key 'format' out, or set it to {OWN_FORMAT}"
        )


def no_edges(where: str, cutoff_angstrom: float) -> UserError:
    """Return the error of a structure that has no edge, which fairchem's PaiNN cannot take."""
    return UserError(
        f"{where} has no two atoms within the cutoff of {cutoff_angstrom:g} Angstrom, which "
        "fairchem's PaiNN cannot take: use model.name: piwsl_ocp.models.painn.PaiNN or leave "
        "it out"
    )


@registry.register_dataset("piwsl_lmdb")
class GraphLmdbDataset(LmdbDataset):
    """fairchem's `LmdbDataset` whose records carry `edge_index`, `cell_offsets` and `record`.

    The configuration holds, besides fairchem's keys, `graph: {cutoff_angstrom, max_neighbors}`;
    without it the records are passed on as they are stored. With `needs_edges: true` in it, a
    record whose atoms are all farther apart than the cutoff is an error. `record` is the number of
    the record in the file. Edges are built at the first read of a record and kept while memory
    allows.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        path = Path(str(config.get("src", "")))
        if not path.is_file():
            raise UserError(
                f"no LMDB at '{path}': make it with `piwsl data convert` or mend dataset.*.src"
            )
        super().__init__(config)
        graph = config.get("graph")
        self._cutoff = float(graph["cutoff_angstrom"]) if graph else None
        self._max_neighbors = int(graph["max_neighbors"]) if graph else None
        self._needs_edges = bool(graph and graph.get("needs_edges"))
        self._cache: dict[int, Data] = {}
        self._cached_atoms = 0

    def connect_db(self, lmdb_path: Path | None = None) -> lmdb.Environment:
        """Open a file once in a process: LMDB refuses to open it again while it is open.

        Raises:
            UserError: if it is no LMDB or is cut short, which would end the process later.
        """
        key = (os.getpid(), str(Path(lmdb_path).resolve()))
        environment = _OPEN.get(key)
        if environment is None:
            LmdbReader(Path(lmdb_path)).close()
            environment = super().connect_db(lmdb_path)
            _OPEN[key] = environment
        return environment

    def __del__(self) -> None:
        """Leave the file open for other data sets; LMDB closes it with its last user."""

    def __getitem__(self, index: int) -> Data:
        index = int(index)
        if index not in self._cache:
            data = self._read(index)
            if self._cached_atoms + int(data.natoms) > MAX_CACHED_ATOMS:
                return data
            self._cache[index] = data
            self._cached_atoms += int(data.natoms)
        return self._cache[index].clone()

    def _read(self, index: int) -> Data:
        try:
            data = super().__getitem__(index)
        except Exception as error:
            raise UserError(
                f"record {index} of '{self.path}' cannot be read ({type(error).__name__}): "
                "check the file with `piwsl data check` and convert it again"
            ) from error
        data.record = index
        if self._cutoff is not None:
            data.edge_index, data.cell_offsets = self._edges(data)
            if self._needs_edges and data.edge_index.shape[1] == 0:
                raise no_edges(f"record {index} of '{self.path}'", self._cutoff)
        return data

    def _edges(self, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
        pbc = data.pbc.numpy().reshape(3) if "pbc" in data else np.ones(3, dtype=bool)
        edge_index, cell_offsets = edges(
            data.pos.numpy(),
            data.cell.numpy().reshape(3, 3),
            pbc,
            self._cutoff,
            self._max_neighbors,
        )
        return torch.as_tensor(edge_index), torch.as_tensor(cell_offsets)
