"""The second pass over a source: the chosen structures become the LMDB files of the splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from piwsl_ocp.datasets.info import SplitInfo
from piwsl_ocp.datasets.lmdb import DATA_FILE, METADATA_FILE, LmdbWriter
from piwsl_ocp.datasets.records import SplitSummary, to_data
from piwsl_ocp.datasets.splits import SPLITS, Split
from piwsl_ocp.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How a structure becomes a record.

    Args:
        unit: energy unit to store.
        references: energy per atomic number in `unit`.
        forces_are_gradients: turn the sign of the forces.
    """

    unit: str
    references: Mapping[int, float]
    forces_are_gradients: bool = False


def write_splits(
    folder: Path, structures: Iterable[Atoms], split: Split, read: int, recipe: Recipe
) -> dict[str, SplitInfo]:
    """Write `<split>/data.lmdb` and `<split>/metadata.npz` for each split.

    A record's number is its place in the split, so that the training set of a smaller size is
    the beginning of a larger one.

    Args:
        folder: an existing folder.
        structures: the source from its beginning.
        split: which records go where.
        read: number of structures in the source.
        recipe: how a structure becomes a record.

    Returns:
        Counts, moments and checksum of each split.

    Raises:
        UserError: if a file cannot be written, or the source has changed since it was surveyed.
    """
    split_number = np.full(read, -1, dtype=np.int8)
    place = np.zeros(read, dtype=np.int32)
    for number, name in enumerate(SPLITS):
        records = split.records(name)
        split_number[records] = number
        place[records] = np.arange(len(records))
    summaries = {name: SplitSummary() for name in SPLITS}
    natoms = {name: np.zeros(len(split.records(name)), dtype=np.int32) for name in SPLITS}
    seen = 0
    with ExitStack() as stack:
        writers = {}
        for name in SPLITS:
            (folder / name).mkdir()
            writers[name] = stack.enter_context(LmdbWriter(folder / name / DATA_FILE))
        for record, atoms in enumerate(structures):
            seen = record + 1
            if seen > read or split_number[record] < 0:
                continue
            name = SPLITS[split_number[record]]
            number = int(place[record])
            data = to_data(
                atoms, record, recipe.unit, recipe.references, recipe.forces_are_gradients
            )
            writers[name].write(number, data)
            summaries[name].add(number, data)
            natoms[name][number] = data.natoms
    if seen != read:
        raise UserError(
            f"the source files changed while they were read ({read} structures, then {seen}): "
            "convert again when they are complete"
        )
    for name in SPLITS:
        np.savez(folder / name / METADATA_FILE, natoms=natoms[name])
    return {name: SplitInfo(**summaries[name].as_dict()) for name in SPLITS}
